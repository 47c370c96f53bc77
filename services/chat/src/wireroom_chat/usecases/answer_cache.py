"""Answers given again: to the same question, and to one that asks the same in other words.

An entry is found by everything its answer depends on: tenant, user, model and candidates, every earlier message, every member of the
request, the day, and for answers from sources the tenant's watermark, which changes with each document and article. A question in other
words must have the same form (`domain.question_form`) and a similar vector. Citations are checked again before an answer is given again:
what was deleted, or may no longer be read, does not speak.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

import orjson

from wireroom_chat.domain.catalogue import Route
from wireroom_chat.domain.passages import Span
from wireroom_chat.domain.question_form import question_form
from wireroom_chat.domain.request import CacheMode, ChatRequest
from wireroom_chat.metrics import ChatMetrics
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal

# Calibrated on pairs that are kept apart from the tests': see the README of the chat service.
MIN_SIMILARITY = 0.72
_VERSION = 1
_CLAIM_SECONDS = 60.0
_WAIT_SECONDS = 20.0
_WAIT_STEP = 0.05
# Members that change nothing of the answer.
_IRRELEVANT = frozenset({"stream", "stream_options", "messages", "model", "user", "metadata", "store", "cache", "service_tier"})
# Members whose answers are not text alone, or are wanted anew each time.
_NEVER = ("tools", "functions", "logprobs", "modalities", "audio", "prediction")


class Store(Protocol):
    """Where entries are kept; never raises, save `sources_changed`."""

    async def watermark(self, tenant_id: UUID) -> str | None: ...

    async def get(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def put(self, entries: Mapping[str, bytes], seconds: float) -> None: ...

    async def claim(self, key: str, owner: str, seconds: float) -> bool: ...

    async def release(self, key: str, owner: str) -> None: ...


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


@dataclass(frozen=True)
class Slot:
    """Where the answer to a request is kept."""

    exact: str
    similar: str
    question: str


class AnswerCache:
    """`seconds`: how long an answer is given again."""

    def __init__(
        self, store: Store, vectors: Vectors, spans: Spans, clock: Clock, metrics: ChatMetrics, *, seconds: float
    ) -> None:
        self._store = store
        self._vectors = vectors
        self._spans = spans
        self._clock = clock
        self._seconds = seconds
        self._metrics = metrics

    async def slot(self, principal: Principal, request: ChatRequest, route: Route) -> Slot | None:
        """Where the answer would be kept; None when it is not to be: by the request's wish or its kind."""
        mode = _mode(request, from_sources=_from_sources(route))
        question = _question(request)
        if mode is CacheMode.OFF or not question:
            return None
        watermark: str | None = ""
        if _from_sources(route):
            watermark = await self._store.watermark(principal.tenant())
            if watermark is None:
                return None
        partition = _partition(principal, request, route, watermark or "", self._clock.now().date().isoformat())
        form = question_form(question) if mode is CacheMode.SEMANTIC else None
        return Slot(
            exact=_digest(b"exact", partition, question.encode()),
            similar=_digest(b"similar", partition, repr(form).encode()) if form is not None else "",
            question=question,
        )

    async def find(self, slot: Slot) -> tuple[KeptAnswer, str] | None:
        """The answer and how it was found, "hit" or "semantic"."""
        keys = [slot.exact, slot.similar] if slot.similar else [slot.exact]
        found = await self._store.get(keys)
        for name, entry in zip(("hit", "semantic"), found, strict=False):
            if entry is None:
                continue
            value = orjson.loads(entry)
            if name == "semantic" and not await self._is_similar(slot.question, value["vector"]):
                continue
            answer = _unpacked(value)
            if not answer.spans or await self._still_stand(answer.spans):
                self._metrics.looked_up(name)
                return answer, name
        self._metrics.looked_up("miss")
        return None

    @asynccontextmanager
    async def turn(self, slot: Slot) -> AsyncGenerator[tuple[KeptAnswer, str] | None, None]:
        """The answer, if it is there or somebody makes it right now; None for the one who is to make it."""
        owner = uuid4().hex
        found = await self.find(slot)
        waited = 0.0
        while found is None and not await self._store.claim(slot.exact, owner, _CLAIM_SECONDS) and waited < _WAIT_SECONDS:
            await asyncio.sleep(_WAIT_STEP)
            waited += _WAIT_STEP
            entry = (await self._store.get([slot.exact]))[0]
            if entry is not None:
                found = await self.find(slot)
        try:
            yield found
        finally:
            if found is None:
                await asyncio.shield(self._store.release(slot.exact, owner))

    async def keep(self, slot: Slot, answer: KeptAnswer) -> None:
        """Keep an answer that was made for the slot."""
        value = {
            "message": answer.message,
            "citations": answer.citations,
            "spans": [[span.document_id, span.version, span.start, span.end, span.quote] for span in answer.spans],
            "finish_reason": answer.finish_reason,
            "mode": answer.mode,
            "tokens": [answer.tokens_in, answer.tokens_out],
        }
        entries = {slot.exact: orjson.dumps(value)}
        if slot.similar:
            try:
                vector = await self._vectors.vector(slot.question)
            except WireroomError:
                # Without it only the very same question finds the answer.
                vector = []
            if vector:
                entries[slot.similar] = orjson.dumps({**value, "vector": [round(float(item), 5) for item in vector]})
        await self._store.put(entries, self._seconds)

    async def _is_similar(self, question: str, vector: Sequence[float]) -> bool:
        try:
            asked = await self._vectors.vector(question)
        except WireroomError:
            return False
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


def _partition(principal: Principal, request: ChatRequest, route: Route, watermark: str, day: str) -> bytes:
    return orjson.dumps(
        {
            "version": _VERSION,
            "tenant": str(principal.tenant()),
            "user": principal.subject,
            "permissions": sorted(principal.permissions),
            "model": request.model,
            "candidates": [candidate.label for candidate in route.candidates],
            "grounding": repr(route.grounding),
            "members": {key: value for key, value in request.raw.items() if key not in _IRRELEVANT},
            "before": [dict(message) for message in request.messages[:-1]],
            "search": request.search,
            "watermark": watermark,
            "day": day,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _unpacked(value: Mapping[str, Any]) -> KeptAnswer:
    return KeptAnswer(
        message=value["message"],
        citations=value["citations"],
        spans=[Span(*item) for item in value["spans"]],
        finish_reason=value["finish_reason"],
        mode=value["mode"],
        tokens_in=value["tokens"][0],
        tokens_out=value["tokens"][1],
    )
