"""Answers made of quotes: nothing in them was written by a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace

from wireroom_chat.domain.answer import AnswerMode, Ending, Piece, Searched
from wireroom_chat.domain.closest import closest
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.intent import needs_generation
from wireroom_chat.domain.lengths import Lengths
from wireroom_chat.domain.links import LinkGuard
from wireroom_chat.domain.missing import told
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.request import MAX_SEARCH, ChatRequest, Grounding, GroundingMode
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.domain.support import Check
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.usecases.searching import Search

FIRST_LINE = "Extractive answer \u2013 no language model is configured; the sentences below are quoted from the sources."
# The same line where a model is configured, but did not answer.
NO_PROVIDER = (
    "Extractive answer \u2013 no language model can be reached at the moment; the sentences below are quoted from the sources."
)
OUT_OF_BUDGET = (
    "Extractive answer \u2013 the budget for language models is spent; the sentences below are quoted from the sources."
)
NOT_READABLE = (
    "Extractive answer \u2013 the collections of the sources let no provider of this model read them; the sentences below are quoted from"
    " the sources."
)
ABSTENTION = "The sources hold no passage that answers this question."
GENERATION_NEEDED = (
    "This request needs a language model: the extractive model only quotes from your documents and news and writes nothing itself."
    " To add a provider, set WIREROOM_CHAT_PROVIDERS to a JSON list with its name, base_url, api_key and models, and restart."
)


class QuotedAnswer:
    """Retrieve, select, verify, quote; or say that there is nothing to quote. `hosts`: where links in quotes may lead."""

    def __init__(self, retrieval: Retrieval, selector: QuoteSelector, *, hosts: Collection[str] = ()) -> None:
        self._retrieval = retrieval
        self._search = Search(retrieval)
        self._selector = selector
        self._hosts = hosts

    async def pieces(
        self, request: ChatRequest, grounding: Grounding, first_line: str = FIRST_LINE
    ) -> AsyncGenerator[Searched | AnswerMode | Piece | Ending, None]:
        """What was searched, the mode, the pieces, the ending. `first_line` says why nobody writes."""
        question = request.question()[-MAX_SEARCH:]
        lengths = Lengths.of(request.raw)
        if needs_generation(question):
            yield AnswerMode.ABSTAINED
            for item in _fitting(lengths, [Piece(f"{first_line}\n\n"), Piece(GENERATION_NEEDED)]):
                yield item
            return
        sought = request.search_text()
        found = await self._search.find(sought, grounding)
        yield Searched(found.retrieval, terms=SourceTerms.union(passage.terms for passage in found.passages))
        quotes, missing = self._selector.answer(sought, found.passages, question if request.search else "")
        citations = [citation for citation in await self._retrieval.verify(quotes) if citation is not None]
        if not citations:
            yield AnswerMode.ABSTAINED
            pieces = [Piece(f"{first_line}\n\n"), Piece(told(ABSTENTION, missing))]
            if grounding.mode is GroundingMode.ASSIST and not self._selector.is_weak(sought, found.passages):
                guard = LinkGuard(self._hosts)
                pieces += [Piece(f" {guard.feed(closest(found.passages))}{guard.rest()}".rstrip())]
            for item in _fitting(lengths, pieces, missing):
                yield item
            return
        yield AnswerMode.EXTRACTIVE
        for item in _fitting(lengths, [Piece(first_line), *_cited(citations, self._hosts)], missing):
            yield item


def _cited(citations: Sequence[Citation], hosts: Collection[str]) -> list[Piece]:
    pieces = []
    for number, found in enumerate(citations, start=1):
        citation = replace(found, support=Check.QUOTE.value, score=1.0)
        guard = LinkGuard(hosts)
        guard.allow(citation.quote.passage.url)
        cited = f"{guard.feed(citation.quote.line) + guard.rest()} [{number}]"
        pieces.append(Piece(f"\n\n{cited}", (2, 2 + len(cited)), ((number, citation),)))
    return pieces


def _fitting(lengths: Lengths, pieces: Sequence[Piece], missing: tuple[str, ...] = ()) -> list[Piece | Ending]:
    kept, reason = lengths.applied(pieces)
    return [*kept, Ending(reason, missing)]
