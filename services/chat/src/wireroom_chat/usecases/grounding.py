"""Answers that a provider writes from numbered sources; only sentences whose citations hold are shown as cited."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.answer import AnswerMode, Begun, Ending, Piece, Retrieved, Searched
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.links import LinkGuard
from wireroom_chat.domain.missing import missing_terms, told
from wireroom_chat.domain.passages import Citation, Passage
from wireroom_chat.domain.prompt import grounded_messages, leaks
from wireroom_chat.domain.request import ChatRequest, Grounding, GroundingMode
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.verification import SentenceBuffer, evidence_quotes
from wireroom_chat.ports.providers import ChatProvider, Writer
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.usecases.begun import in_order, shown_before
from wireroom_chat.usecases.checking import Checking, SentenceChecker
from wireroom_chat.usecases.searching import Found, Search, lies_with_the_index
from wireroom_chat.usecases.stream_opening import StreamLostError
from wireroom_common.errors import WireroomError

ABSTENTION = "The sources do not answer this question."
# The rag service checks at most 100 spans in one call; this also bounds the prompt.
_MAX_QUOTES = 100
_MAX_SOURCE_CHARACTERS = 48_000
_NOT_FORWARDED = ("model", "stream", "stream_options", "n")


class GroundedAnswer:
    """Retrieve, verify what could be cited, generate, release sentence by sentence what is supported.

    `hosts`: where links of an answer may lead, beside the addresses of its sources.
    """

    def __init__(
        self,
        retrieval: Retrieval,
        selector: QuoteSelector,
        terms: Terms,
        *,
        checking: Checking | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        self._retrieval = retrieval
        self._search = Search(retrieval)
        self._selector = selector
        self._terms = terms
        self._checking = checking or Checking(terms)
        self._hosts = hosts

    async def pieces(
        self, request: ChatRequest, grounding: Grounding, provider: Writer, begun: Begun | None = None
    ) -> AsyncGenerator[Searched | AnswerMode | Piece | Ending, None]:
        """What was searched, the mode, then the pieces, then the ending.

        `begun`: another process has begun it, and `provider` goes on after that; UNAVAILABLE `stream_lost` when its sources, or what they
        bear out, are not the same any more.
        """
        question = request.search_text()
        strict = grounding.mode is GroundingMode.STRICT
        found, passages, evidence = await self._grounds(question, grounding, begun)
        checker = SentenceChecker(self._checking, evidence, grounding)
        sources = tuple(passage.id for passage in passages) if evidence else ()
        terms = SourceTerms.union(passage.terms for passage in passages) if evidence else ANY
        before = await shown_before(begun, sources, checker.check)
        yield Searched(found.retrieval, sources, before, terms)
        missing = missing_terms(question, found.passages, self._terms)
        if not evidence and strict:
            yield AnswerMode.ABSTAINED
            yield Piece(told(ABSTENTION, missing))
            yield Ending(missing=missing)
            return
        messages: Sequence[Mapping[str, Any]] = request.messages
        nonce = secrets.token_hex(8)
        writer = provider.reading(terms)
        if evidence:
            messages = grounded_messages(request, passages, grounding.mode, nonce)
        guard = LinkGuard(self._hosts)
        for passage in passages if evidence else ():
            guard.allow(passage.url)
        released = bool(before)
        if released:
            yield AnswerMode.GENERATED
        ending = Ending()
        show = _Shown(guard, checker, nonce)
        async with aclosing(show.pieces(_sentences(writer, _body(request, messages)))) as items:
            async for item in items:
                if isinstance(item, Ending):
                    ending = item
                    continue
                if not released:
                    yield AnswerMode.GENERATED
                    released = True
                yield item
        if not released:
            yield AnswerMode.ABSTAINED
            yield Piece(told(ABSTENTION, missing))
            ending = Ending(missing=missing)
        yield ending

    async def _grounds(
        self, question: str, grounding: Grounding, begun: Begun | None
    ) -> tuple[Found, list[Passage], dict[int, list[Citation]]]:
        """What was found, the passages for the prompt, and what of them may be cited: nothing where they are too far from the question."""
        try:
            found = await self._search.find(question, grounding)
            passages = in_order(_within_budget(found.passages), begun)
            weak = not passages if begun is not None else self._selector.is_weak(question, passages)
            return found, *((passages, {}) if weak else await self._evidence(passages))
        except WireroomError as error:
            if grounding.mode is GroundingMode.STRICT or not lies_with_the_index(error) or isinstance(error, StreamLostError):
                raise
            return Found([], Retrieved.FAILED), [], {}

    async def _evidence(self, passages: Sequence[Passage]) -> tuple[list[Passage], dict[int, list[Citation]]]:
        """The passages of which at least one sentence stands in the stored text, renumbered, and their citations.

        Asked once and before generation: a streamed marker cannot be taken back.
        """
        quotes = evidence_quotes(passages, _MAX_QUOTES)
        verified = iter(await self._retrieval.verify([quote for group in quotes.values() for quote in group]))
        kept: list[Passage] = []
        evidence: dict[int, list[Citation]] = {}
        for number, group in quotes.items():
            citations = [citation for citation in (next(verified) for _ in group) if citation is not None]
            if citations:
                kept.append(passages[number - 1])
                evidence[len(kept)] = citations
        return kept, evidence


@dataclass(frozen=True)
class _Shown:
    """What of the sentences of an answer may be shown."""

    guard: LinkGuard
    checker: SentenceChecker
    nonce: str

    async def pieces(self, sentences: AsyncGenerator[str | Ending, None]) -> AsyncGenerator[Piece | Ending, None]:
        async with aclosing(sentences):
            async for sentence in sentences:
                if isinstance(sentence, Ending):
                    yield sentence
                    continue
                # Sentences end where words do: nothing of an address is held back.
                written = self.guard.feed(sentence) + self.guard.rest()
                piece = None if leaks(written, self.nonce) else await self.checker.check(written)
                if piece is not None:
                    yield piece


def _within_budget(passages: Sequence[Passage]) -> list[Passage]:
    kept = []
    characters = 0
    for passage in passages:
        characters += len(passage.text)
        if characters > _MAX_SOURCE_CHARACTERS:
            break
        kept.append(passage)
    return kept


def _body(request: ChatRequest, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    body = {key: value for key, value in request.raw.items() if key not in _NOT_FORWARDED}
    return {**body, "messages": messages}


async def _sentences(provider: ChatProvider, body: Mapping[str, Any]) -> AsyncGenerator[str | Ending, None]:
    """The sentences as they become complete, then the ending."""
    buffer = SentenceBuffer()
    reason = "stop"
    async with aclosing(provider.stream(body)) as chunks:
        async for chunk in chunks:
            for choice in chunk["choices"][:1]:
                text = choice["delta"].get("content")
                if isinstance(text, str) and text:
                    for sentence in buffer.feed(text):
                        yield sentence
                found = choice.get("finish_reason")
                if found in ("stop", "length", "content_filter"):
                    reason = found
    for sentence in buffer.rest():
        yield sentence
    yield Ending(reason)
