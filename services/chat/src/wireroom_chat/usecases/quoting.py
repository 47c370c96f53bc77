"""Answers made of quotes: nothing in them was written by a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from wireroom_chat.domain.answer import AnswerMode, Ending, Piece
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.intent import needs_generation
from wireroom_chat.domain.lengths import Lengths
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.request import MAX_SEARCH, ChatRequest, Grounding
from wireroom_chat.ports.retrieval import Retrieval

FIRST_LINE = "Extractive answer \u2013 no language model is configured; the sentences below are quoted from the sources."
# The same line where a model is configured, but did not answer.
NO_PROVIDER = (
    "Extractive answer \u2013 no language model can be reached at the moment; the sentences below are quoted from the sources."
)
OUT_OF_BUDGET = (
    "Extractive answer \u2013 the budget for language models is spent; the sentences below are quoted from the sources."
)
ABSTENTION = "The sources hold no passage that answers this question."
GENERATION_NEEDED = (
    "This request needs a language model: the extractive model only quotes from your documents and news and writes nothing itself."
    " To add a provider, set WIREROOM_CHAT_PROVIDERS to a JSON list with its name, base_url, api_key and models, and restart."
)


class QuotedAnswer:
    """Retrieve, select, verify, quote; or say that there is nothing to quote."""

    def __init__(self, retrieval: Retrieval, selector: QuoteSelector) -> None:
        self._retrieval = retrieval
        self._selector = selector

    async def pieces(
        self, request: ChatRequest, grounding: Grounding, first_line: str = FIRST_LINE
    ) -> AsyncGenerator[AnswerMode | Piece | Ending, None]:
        """The mode, then the pieces, then the ending. `first_line` says why nobody writes."""
        question = request.question()[-MAX_SEARCH:]
        lengths = Lengths.of(request.raw)
        if needs_generation(question):
            yield AnswerMode.ABSTAINED
            for item in _fitting(lengths, [Piece(f"{first_line}\n\n"), Piece(GENERATION_NEEDED)]):
                yield item
            return
        sought = request.search_text()
        passages = await self._retrieval.retrieve(sought, grounding)
        quotes = self._selector.select(sought, passages, question if request.search else "")
        citations = [citation for citation in await self._retrieval.verify(quotes) if citation is not None]
        if not citations:
            yield AnswerMode.ABSTAINED
            for item in _fitting(lengths, [Piece(f"{first_line}\n\n"), Piece(ABSTENTION)]):
                yield item
            return
        yield AnswerMode.EXTRACTIVE
        for item in _fitting(lengths, [Piece(first_line), *_cited(citations)]):
            yield item


def _cited(citations: Sequence[Citation]) -> list[Piece]:
    pieces = []
    for number, citation in enumerate(citations, start=1):
        cited = f"{citation.quote.line} [{number}]"
        pieces.append(Piece(f"\n\n{cited}", (2, 2 + len(cited)), ((number, citation),)))
    return pieces


def _fitting(lengths: Lengths, pieces: Sequence[Piece]) -> list[Piece | Ending]:
    kept, reason = lengths.applied(pieces)
    return [*kept, Ending(reason)]
