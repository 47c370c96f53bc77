"""Answers given again: to the same question, and to one that asks the same in other words.

An entry is found by everything its answer depends on: tenant, user, model and candidates, every earlier message, every member of the
request and the day; answers from sources carry the tenant's tag `sources`, which every change of a document or article ends. A question in
other words must have the same form (`domain.question_form`) and a similar vector. Citations are checked again before an answer is given
again: what was deleted, or may no longer be read, does not speak.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from wireroom_chat.domain.catalogue import Route
from wireroom_chat.domain.passages import Span
from wireroom_chat.domain.question_form import question_form
from wireroom_chat.domain.request import CacheMode, ChatRequest
from wireroom_chat.metrics import ChatMetrics
from wireroom_common.cache import Cache, Key, LookUp, Namespace
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal

# Calibrated on pairs that are kept apart from the tests': see the README of the chat service.
MIN_SIMILARITY = 0.72
# Ends every answer from sources that was kept for a tenant.
SOURCES = "sources"
PURPOSE = "wireroom chat answers"
_VERSION = 3
# Members that change nothing of the answer.
_IRRELEVANT = frozenset({"stream", "stream_options", "messages", "model", "user", "metadata", "store", "cache", "service_tier"})
# Members whose answers are not text alone, or are wanted anew each time.
_NEVER = ("tools", "functions", "logprobs", "modalities", "audio", "prediction")


class Vectors(Protocol):
    """Unit vectors of questions."""

    async def vector(self, content: str) -> Sequence[float]:
        """One vector; a WireroomError when there is none to be had."""


class Spans(Protocol):
    """Whether what an answer cites may still be cited."""

    async def stand(self, spans: Sequence[Span]) -> bool:
        """True when each span stands in the stored text and the caller may read it."""


@dataclass(frozen=True)
class KeptAnswer:
    """An answer as it was given. `annotations` and `citations` are ready for the wire."""

    message: dict[str, Any]
    citations: list[dict[str, Any]]
    spans: list[Span]
    finish_reason: str
    mode: str
    tokens_in: int
    tokens_out: int
    remarks: dict[str, Any] = field(default_factory=dict)
    # Of the sources that it may come from, as `SourceTerms.written`.
    terms: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """What is kept: the answer, and for questions in other words the vector of its question (32-bit floats)."""

    answer: KeptAnswer
    vector: bytes = b""


@dataclass
class Slot:
    """Where the answer to a request is kept. `look`: the latest look for it, before it is made."""

    exact: Key
    similar: Key | None
    question: str
    look: LookUp[Entry] | None = None


def answers(seconds: float) -> Namespace:
    """Tags are asked of Redis at each look: no answer is given again after its sources changed, on whichever replica."""
    return Namespace("chat.answers", seconds=seconds, jitter=0.0, verify=True)


class AnswerCache:
    """Answers in `entries`, each for its namespace's time."""

    def __init__(self, entries: Cache[Entry], vectors: Vectors, spans: Spans, clock: Clock, metrics: ChatMetrics) -> None:
        self._entries = entries
        self._vectors = vectors
        self._spans = spans
        self._clock = clock
        self._metrics = metrics

    def slot(self, principal: Principal, request: ChatRequest, route: Route) -> Slot | None:
        """Where the answer would be kept; None when it is not to be: by the request's wish or its kind."""
        from_sources = _from_sources(route)
        mode = _mode(request, from_sources=from_sources)
        question = _question(request)
        if mode is CacheMode.OFF or not question:
            return None
        tenant_id = principal.tenant()
        partition = _partition(principal, request, route, self._clock.now().date().isoformat())
        tags = (SOURCES,) if from_sources else ()
        form = question_form(question) if mode is CacheMode.SEMANTIC else None
        return Slot(
            exact=Key.of(tenant_id, "exact", partition, question, tags=tags),
            similar=Key.of(tenant_id, "similar", partition, repr(form), tags=tags) if form is not None else None,
            question=question,
        )

    async def find(self, slot: Slot) -> tuple[KeptAnswer, str] | None:
        """The answer and how it was found, "hit" or "semantic"."""
        slot.look = await self._entries.look_up([slot.exact] if slot.similar is None else [slot.exact, slot.similar])
        for name, key in (("hit", slot.exact), ("semantic", slot.similar)):
            entry = slot.look.found.get(key) if key is not None else None
            if entry is None or (name == "semantic" and not await self._is_similar(slot.question, entry.vector)):
                continue
            if not entry.answer.spans or await self._still_stand(entry.answer.spans):
                self._metrics.looked_up(name)
                return entry.answer, name
        self._metrics.looked_up("miss")
        return None

    def turn(self, slot: Slot) -> AbstractAsyncContextManager[tuple[KeptAnswer, str] | None]:
        """The answer, if it is there or somebody makes it right now; None for the one who is to make it."""
        return self._entries.turn(slot.exact, lambda: self.find(slot))

    async def keep(self, slot: Slot, answer: KeptAnswer) -> None:
        """Keep an answer that was made for the slot, after `find` missed it."""
        entries = {slot.exact: Entry(answer)}
        if slot.similar is not None:
            try:
                vector = await self._vectors.vector(slot.question)
            except WireroomError:
                # Without it only the very same question finds the answer.
                vector = ()
            if vector:
                entries[slot.similar] = Entry(answer, array("f", vector).tobytes())
        await self._entries.set_many(entries, slot.look)

    async def _is_similar(self, question: str, kept: bytes) -> bool:
        try:
            asked = await self._vectors.vector(question)
        except WireroomError:
            return False
        vector = array("f", kept)
        return len(asked) == len(vector) and sum(map(operator.mul, asked, vector)) >= MIN_SIMILARITY

    async def _still_stand(self, spans: Sequence[Span]) -> bool:
        try:
            return await self._spans.stand(spans)
        except WireroomError:
            return False


def _from_sources(route: Route) -> bool:
    return route.grounding is not None or not route.candidates


def _mode(request: ChatRequest, *, from_sources: bool) -> CacheMode:
    raw = request.raw
    if request.choices != 1 or any(raw.get(member) for member in _NEVER) or request.cache is CacheMode.OFF:
        return CacheMode.OFF
    if request.cache is not None:
        return request.cache
    # Who asks for chance, or does not rule it out, wants an answer of his own; answers from sources follow the sources.
    if from_sources:
        return CacheMode.OFF if raw.get("temperature") else CacheMode.SEMANTIC
    return CacheMode.EXACT if raw.get("temperature") == 0 else CacheMode.OFF


def _question(request: ChatRequest) -> str:
    """The last message, when it is a user's and text alone."""
    last = request.messages[-1]
    content = last.get("content")
    return content.strip() if last["role"] == "user" and isinstance(content, str) else ""


def _partition(principal: Principal, request: ChatRequest, route: Route, day: str) -> bytes:
    return orjson.dumps(
        {
            "version": _VERSION,
            "user": principal.subject,
            "permissions": sorted(principal.permissions),
            "model": request.model,
            "candidates": [candidate.label for candidate in route.candidates],
            "grounding": repr(route.grounding),
            "members": {key: value for key, value in request.raw.items() if key not in _IRRELEVANT},
            "before": [dict(message) for message in request.messages[:-1]],
            "search": request.search,
            "day": day,
        },
        option=orjson.OPT_SORT_KEYS,
    )
