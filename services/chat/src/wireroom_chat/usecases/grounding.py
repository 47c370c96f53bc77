"""Answers that a provider writes from numbered sources; only sentences whose citations hold are shown as cited."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from wireroom_chat.domain.answer import AnswerMode, Ending, Piece
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.passages import Citation, Passage
from wireroom_chat.domain.prompt import grounded_messages
from wireroom_chat.domain.request import ChatRequest, Grounding, GroundingMode
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.verification import SentenceBuffer, SentenceVerifier, evidence_quotes
from wireroom_chat.ports.providers import ChatProvider
from wireroom_chat.ports.retrieval import Retrieval

ABSTENTION = "The sources do not answer this question."
# The rag service checks at most 100 spans in one call; this also bounds the prompt.
_MAX_QUOTES = 100
_MAX_SOURCE_CHARACTERS = 48_000
_NOT_FORWARDED = ("model", "stream", "stream_options", "n")


class GroundedAnswer:
    """Retrieve, verify what could be cited, generate, release sentence by sentence what is supported."""

    def __init__(self, retrieval: Retrieval, selector: QuoteSelector, terms: Terms) -> None:
        self._retrieval = retrieval
        self._selector = selector
        self._terms = terms

    async def pieces(
        self, request: ChatRequest, grounding: Grounding, provider: ChatProvider
    ) -> AsyncGenerator[AnswerMode | Piece | Ending, None]:
        """The mode, then the pieces, then the ending."""
        question = request.search_text()
        passages = _within_budget(await self._retrieval.retrieve(question, grounding))
        evidence: dict[int, list[Citation]] = {}
        if not self._selector.is_weak(question, passages):
            passages, evidence = await self._evidence(passages)
        strict = grounding.mode is GroundingMode.STRICT
        if not evidence and strict:
            yield AnswerMode.ABSTAINED
            yield Piece(ABSTENTION)
            yield Ending()
            return
        messages: Sequence[Mapping[str, Any]] = request.messages
        if evidence:
            messages = grounded_messages(request, passages, grounding.mode, secrets.token_hex(4))
        verifier = SentenceVerifier(self._terms, evidence, grounding.mode)
        released = False
        ending = Ending()
        async with aclosing(_sentences(provider, _body(request, messages))) as sentences:
            async for sentence in sentences:
                if isinstance(sentence, Ending):
                    ending = sentence
                elif (piece := verifier.check(sentence)) is not None:
                    if not released:
                        yield AnswerMode.GENERATED
                        released = True
                    yield piece
        if not released:
            yield AnswerMode.ABSTAINED
            yield Piece(ABSTENTION)
            ending = Ending()
        yield ending

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
