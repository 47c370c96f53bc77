"""The Responses API: answers of chat completions, kept for their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import orjson
import structlog

from wireroom_chat.domain.frames import End, Frame, Info
from wireroom_chat.domain.request import ChatRequest
from wireroom_chat.domain.response_events import Event, ResponseBuilder
from wireroom_chat.domain.response_items import MAX_ITEMS
from wireroom_chat.domain.responses import ResponseRequest, parse_response_request, previous_not_found
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.ports.generations import Origin
from wireroom_chat.ports.responses import Owner, ResponseStore, StoredResponse
from wireroom_chat.usecases.completing import PERMISSION, CompleteChat
from wireroom_chat.usecases.streams import Streams
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, invalid, not_found
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal

log = structlog.get_logger()

# Another replica has the answer, or will have it: the caller resumes it there.
_ELSEWHERE = frozenset({"stream_moved"})
_PREFIX = "resp_"
# What a stored response may weigh: request items and answer together. A larger one is not stored.
_MAX_STORED_BYTES = 8 * 1024 * 1024


def new_name(prefix: str) -> str:
    """An id such as OpenAI's objects have."""
    return f"{prefix}_{new_id().hex}"


@dataclass(frozen=True)
class KnownEvents:
    """What a caller has of a streamed response: how many events, and the last frames that came with them."""

    response_id: str
    stream_id: str
    events: int
    tail: Sequence[Frame]


@dataclass(frozen=True)
class InputItems:
    """A page of the items that a response was made from."""

    items: Sequence[Mapping[str, Any]]
    has_more: bool

    def render(self) -> bytes:
        """OpenAI's list object."""
        return orjson.dumps(
            {
                "object": "list",
                "data": self.items,
                "first_id": self.items[0]["id"] if self.items else None,
                "last_id": self.items[-1]["id"] if self.items else None,
                "has_more": self.has_more,
            }
        )


class Respond:
    """A response is stored once its answer has ended; a streamed one whose caller leaves before that as `cancelled`, with what was made."""

    def __init__(self, completing: CompleteChat, streams: Streams, store: ResponseStore, clock: Clock) -> None:
        self._completing = completing
        self._streams = streams
        self._store = store
        self._clock = clock
        self._keeping: set[asyncio.Task[bytes]] = set()

    async def drain(self) -> None:
        """Wait for the responses that are being stored for callers who have left."""
        while self._keeping:
            await asyncio.wait(self._keeping)

    async def create(self, principal: Principal, body: bytes) -> tuple[bytes, Info]:
        """The response object as JSON."""
        draft = await self._draft(principal, body, new_id())
        chat = draft.chat_request(stream=False)
        answer, info = await self._completing.answer(principal, chat, Origin("response", draft.builder.id))
        draft.builder.take(orjson.loads(answer))
        draft.note(info)
        response = draft.builder.finished(self._clock.now().timestamp())
        return await self._keep(draft, response), info

    async def stream(self, principal: Principal, body: bytes) -> AsyncGenerator[Info | Event | Frame, None]:
        """`Info`, then the events; each frame that they are made of comes before them.

        Errors before the first event are raised, later ones are events, unless another replica goes on: UNAVAILABLE `stream_moved`.
        """
        draft = await self._draft(principal, body, new_id())
        chat = draft.chat_request(stream=True)
        frames = self._completing.answer_stream(principal, chat, Origin("response", draft.builder.id), grace=0)
        async with aclosing(self._told_or_kept(draft, frames)) as parts:
            async for part in parts:
                yield part

    async def resume(self, principal: Principal, body: bytes, known: KnownEvents) -> AsyncGenerator[Info | Event | Frame, None]:
        """The rest of `stream` for a caller whose call broke off. NOT_FOUND and CONFLICT as of `Streams.resume`."""
        identity = _parse_name(known.response_id)
        draft = await self._draft(principal, body, identity)
        frames = self._streams.replay(principal, known.stream_id, known.tail)
        seen = 0
        async with aclosing(self._told_or_kept(draft, frames)) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    if not known.tail or part.seq > known.tail[-1].seq:
                        yield part
                elif isinstance(part, Event):
                    seen += 1
                    if seen > known.events:
                        yield part

    async def _told_or_kept(
        self, draft: _Draft, frames: AsyncGenerator[Frame, None]
    ) -> AsyncGenerator[Info | Event | Frame, None]:
        begun = False
        try:
            async with aclosing(self._told(draft, frames)) as parts:
                async for part in parts:
                    begun = True
                    yield part
        except (asyncio.CancelledError, GeneratorExit):
            if begun and not draft.kept and draft.request.store:
                self._keep_unfinished(draft)
            raise

    async def _told(self, draft: _Draft, frames: AsyncGenerator[Frame, None]) -> AsyncGenerator[Info | Event | Frame, None]:
        ending = _Ending()
        async with aclosing(self._events(draft, frames, ending)) as events:
            async for event in events:
                yield event
        if ending.failure is None:
            for closing in draft.builder.closing():
                yield closing
            response = draft.builder.finished(self._clock.now().timestamp())
        else:
            response = draft.builder.failed(ending.failure)
        # Before it is told: whoever has read the end may ask for it at once.
        try:
            response = orjson.loads(await self._surely_kept(draft, response))
        except WireroomError as error:
            response = draft.builder.failed(error)
        yield draft.builder.ended(response)

    async def _events(
        self, draft: _Draft, source: AsyncGenerator[Frame, None], ending: _Ending
    ) -> AsyncGenerator[Info | Event | Frame, None]:
        """What comes before the end; how that is, stands in `ending`. A failure before the first event is raised."""
        begun = False
        async with aclosing(source) as frames:
            try:
                async for frame in frames:
                    part = frame.part
                    if not isinstance(part, End):
                        yield frame
                    if isinstance(part, bytes):
                        for event in draft.builder.chunk(orjson.loads(part)):
                            yield event
                    elif isinstance(part, End):
                        ending.failure = _failure(part)
                    else:
                        draft.note(part)
                        if begun:
                            continue
                        begun = True
                        yield part
                        for event in draft.builder.opening():
                            yield event
            except WireroomError as error:
                if not begun or error.code in _ELSEWHERE:
                    raise
                ending.failure = error

    async def get(self, principal: Principal, name: str) -> bytes:
        """A stored response of the caller; NOT_FOUND if there is none."""
        return (await self._stored(principal, name)).response

    async def delete(self, principal: Principal, name: str) -> None:
        """Delete a stored response of the caller; NOT_FOUND if there is none."""
        principal.require(PERMISSION)
        if not await self._store.delete(_owner(principal), _parse_name(name)):
            raise not_found("response")

    async def input_items(self, principal: Principal, name: str, *, limit: int, after: str, ascending: bool) -> InputItems:
        """The items of the request, newest first unless `ascending`."""
        items = orjson.loads((await self._stored(principal, name)).items)
        if not ascending:
            items.reverse()
        start = 0
        if after:
            start = next((index + 1 for index, item in enumerate(items) if item["id"] == after), -1)
            if start < 0:
                raise invalid("item_unknown", "'after' names no item of this response.", field="after")
        return InputItems(items[start : start + limit], has_more=len(items) > start + limit)

    async def _draft(self, principal: Principal, body: bytes, identity: UUID) -> _Draft:
        principal.require(PERMISSION)
        request = parse_response_request(body, new_name)
        history: list[Mapping[str, Any]] = []
        terms = ANY
        if request.previous_id:
            history, terms = await self._history(principal, request)
        created = _time_of(identity)
        names = _Names(identity)
        builder = ResponseBuilder(
            request, response_id=f"{_PREFIX}{identity.hex}", created=created.timestamp(), new_name=names.next
        )
        return _Draft(_owner(principal), identity, created, request, history, builder, terms)

    async def _history(self, principal: Principal, request: ResponseRequest) -> tuple[list[Mapping[str, Any]], SourceTerms]:
        """The items of the conversation so far, and the terms of its sources; INVALID when a part of it is not there any more."""
        previous = _identity(request.previous_id)
        turns = await self._store.conversation(_owner(principal), previous) if previous else []
        if not turns or turns[0].previous_id is not None:
            raise previous_not_found(request.previous_id)
        items: list[Mapping[str, Any]] = []
        for turn in turns:
            items += orjson.loads(turn.items)
            items += orjson.loads(turn.response)["output"]
        if len(items) > MAX_ITEMS:
            raise invalid(
                "conversation_too_long",
                f"The conversation has more than {MAX_ITEMS} items. Begin a new one.",
                field="previous_response_id",
            )
        return items, SourceTerms.union(turn.terms for turn in turns)

    async def _stored(self, principal: Principal, name: str) -> StoredResponse:
        principal.require(PERMISSION)
        found = await self._store.get(_owner(principal), _parse_name(name))
        if found is None:
            raise not_found("response")
        return found

    def _keep_unfinished(self, draft: _Draft) -> None:
        """In the background: nobody is there to wait for it."""
        self._keep_in_background(draft, draft.builder.cancelled(), final=False)

    async def _surely_kept(self, draft: _Draft, response: Mapping[str, Any]) -> bytes:
        """As `_keep`; a caller who leaves while it is being stored does not prevent that."""
        return await asyncio.shield(self._keep_in_background(draft, response))

    def _keep_in_background(self, draft: _Draft, response: Mapping[str, Any], *, final: bool = True) -> asyncio.Task[bytes]:
        draft.kept = True
        task = asyncio.create_task(self._keep(draft, response, final=final))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
        task.add_done_callback(lambda done: _log_failure(done, draft))
        return task

    async def _keep(self, draft: _Draft, response: Mapping[str, Any], *, final: bool = True) -> bytes:
        rendered = orjson.dumps(response)
        if draft.request.store:
            items = orjson.dumps(draft.request.items)
            if len(items) + len(rendered) > _MAX_STORED_BYTES:
                # The answer is paid for: it is given, and says that it is not kept.
                return orjson.dumps({**response, "store": False})
            await self._store.add(
                draft.owner,
                StoredResponse(
                    id=draft.identity,
                    previous_id=_identity(draft.request.previous_id),
                    created_at=draft.created_at,
                    items=items,
                    response=rendered,
                    terms=draft.terms,
                ),
                final=final,
            )
        return rendered


class _Names:
    """The names in a response: the same ones whichever process makes it."""

    def __init__(self, identity: UUID) -> None:
        self._identity = identity
        self._count = 0

    def next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{uuid5(self._identity, str(self._count)).hex}"


@dataclass
class _Draft:
    owner: Owner
    identity: UUID
    created_at: datetime
    request: ResponseRequest
    history: Sequence[Mapping[str, Any]]
    builder: ResponseBuilder
    # Of the sources of the history and, as far as it is known, of the answer.
    terms: SourceTerms
    # Whether its end has been written, or is being written.
    kept: bool = False

    def chat_request(self, *, stream: bool) -> ChatRequest:
        """The request for its answer."""
        return replace(self.request.chat_request(self.history, stream=stream), terms=self.terms)

    def note(self, info: Info) -> None:
        """What the answer comes from so far."""
        self.terms = SourceTerms.union((self.terms, SourceTerms.read(info.source_terms)))


@dataclass
class _Ending:
    failure: WireroomError | None = None


def _log_failure(task: asyncio.Task[bytes], draft: _Draft) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("chat.response.not_stored", response_id=draft.builder.id, exc_info=error)


def _owner(principal: Principal) -> Owner:
    return Owner(principal.tenant(), principal.user_id())


def _time_of(identity: UUID) -> datetime:
    """When the id was made: its first 48 bits are milliseconds."""
    return datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)


def _identity(name: str) -> UUID | None:
    try:
        return UUID(hex=name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
    except ValueError:
        return None


def _parse_name(name: str) -> UUID:
    identity = _identity(name)
    if identity is None:
        raise not_found("response")
    return identity


def _failure(end: End) -> WireroomError | None:
    if end.status == "completed":
        return None
    kind = ErrorKind(end.error_kind) if end.error_kind else ErrorKind.UNAVAILABLE
    return WireroomError(
        kind, end.error_code or end.status, end.error_detail or "The answer was given up.", retry_after=end.retry_after
    )
