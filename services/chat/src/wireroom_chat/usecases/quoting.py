"""Answers made of quotes: nothing in them was written by a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from wireroom_chat.domain.answer import AnswerMode, Ending, Piece
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.intent import needs_generation
from wireroom_chat.domain.request import ChatRequest, Grounding
from wireroom_chat.ports import Retrieval

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
        question = request.question()
        if needs_generation(question):
            yield AnswerMode.ABSTAINED
            yield Piece(f"{first_line}\n\n")
            yield Piece(GENERATION_NEEDED)
            yield Ending()
            return
        passages = await self._retrieval.retrieve(question, grounding)
        quotes = self._selector.select(question, passages)
        citations = [citation for citation in await self._retrieval.verify(quotes) if citation is not None]
        if not citations:
            yield AnswerMode.ABSTAINED
            yield Piece(f"{first_line}\n\n")
            yield Piece(ABSTENTION)
            yield Ending()
            return
        yield AnswerMode.EXTRACTIVE
        yield Piece(first_line)
        for number, citation in enumerate(citations, start=1):
            cited = f"{citation.quote.line} [{number}]"
            yield Piece(f"\n\n{cited}", (2, 2 + len(cited)), ((number, citation),))
        yield Ending()
