"""Streamed generations: numbered frames that outlive the connection and, where the answer can be continued, the process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar
from uuid import UUID

import structlog

from wireroom_chat.domain.frames import CANCELLED, COMPLETED, End, Frame, Info
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.ports.generations import Generation
from wireroom_chat.ports.streams import ClaimedStream, StreamBuffer, StreamBufferError, StreamRecord, StreamState
from wireroom_chat.usecases.live_stream import LiveStream
from wireroom_chat.usecases.stream_writer import StreamWriter
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal, set_current_principal

__all__ = ["End", "Frame", "Info", "Opening", "Part", "Revive", "StreamPolicy", "Streams"]

# Whoever may begin a stream of either surface may come back to its own.
PERMISSIONS = ("chat:use", "llm:invoke")
_STREAM_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")
_ORPHANS_AT_A_TIME = 50
_CANCEL_AGAIN = 0.2
_OWNER_WAIT = 0.5
# Above `StreamPolicy.idle`, below the second within which a provider is let go.
_ADOPTED_GRACE = 0.8

T = TypeVar("T")
# What generations are made of; chunks that are there at the same moment come together.
Part: TypeAlias = Info | bytes | list[bytes]

log = structlog.get_logger()


@dataclass(frozen=True)
class Opening:
    """How a stream is to be treated. `grace`: seconds it lives on without a caller. `checkpoint`: what another process needs to go on."""

    principal: Principal
    generation: Generation
    grace: float
    checkpoint: Mapping[str, Any]


class Revive(Protocol):
    """How to go on with a generation whose process is gone; it is settled in any case."""

    def __call__(self, opening: Opening, path: Sequence[str], chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        """What comes after `chunks`; `path` is that of the last Info. Raises where nothing can: always, unless `continuable`."""


@dataclass(frozen=True)
class StreamPolicy:
    """Seconds and bytes."""

    flush_interval: float = 0.01
    window_bytes: int = 256 * 1024
    checkpoint_bytes: int = 1024 * 1024
    beat_interval: float = 0.5
    # How long followers of a silent stream wait until they look after its replica.
    idle: float = 0.5
    # Only when nobody came for it: a caller that comes knows better what was sent.
    take_up_after: float = 8.0
    max_followers: int = 10_000
    stop_wait: float = 5.0


class Streams:
    """Delivers streamed generations, lets their owners come back to them, takes up those of replicas that died."""

    def __init__(
        self, buffer: StreamBuffer | None = None, metrics: StreamMetrics | None = None, policy: StreamPolicy | None = None
    ) -> None:
        self._buffer = buffer
        self._metrics = metrics or StreamMetrics()
        self._policy = policy or StreamPolicy()
        self._live: dict[tuple[UUID, str], LiveStream] = {}
        self._writer = StreamWriter(buffer, self._metrics, interval=self._policy.flush_interval, done=self._forget)
        self._tasks: set[asyncio.Task[None]] = set()
        self._runners: set[asyncio.Task[None]] = set()
        self._followers = 0
        # When the others last heard of this replica, for sure.
        self._beaten_at = 0.0
        # Set by the composition root: how to go on with a generation of another process.
        self.revive: Revive = _cannot_revive

    async def start(self) -> None:
        """Begin to buffer and to give signs of life."""
        if self._buffer is None:
            return
        await self._beat()
        for work in (self._writer.run(), self._keep_beating()):
            self._spawn(work, self._tasks)

    async def stop(self) -> None:
        """Let the generations that nobody is connected to end, but not for long; leave nothing unwritten."""
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._policy.stop_wait)
        for live in list(self._live.values()):
            live.stop(End.of(_stopping()))
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._policy.stop_wait)
        while self._tasks:
            # Again and again: clients of the buffer have been seen to swallow a cancellation.
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks), timeout=_CANCEL_AGAIN)
        if self._buffer is not None:
            await self._writer.flush()
            with contextlib.suppress(StreamBufferError):
                await self._buffer.leave()

    def deliver(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[Frame, None]:
        """The frames; errors of `produce` pass through before the first frame and end the stream with a failed `End` after it.

        With a grace the generation runs in a task of its own and survives the caller; without one the caller drives it, which saves
        a switch of tasks for each chunk, and its end is the generation's.
        """
        if opening.grace <= 0:
            return _one_by_one(self.deliver_batches(opening, produce))
        return self._follow_new(self._new(opening), opening, produce)

    def deliver_batches(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[list[Frame], None]:
        """The frames of `deliver` without a grace, those together that are there at the same moment."""
        return self._drive(self._new(opening), opening, produce)

    async def resume(
        self, principal: Principal, stream_id: str, after_seq: int, tail: Sequence[Frame] = ()
    ) -> AsyncGenerator[Frame, None]:
        """The frames after `after_seq`, then live until the end.

        `tail`: the last frames up to `after_seq` as the caller got them. A process that dies has sent frames that no other one knows:
        they are taken over from here. CONFLICT `stream_diverged` when the stream went on differently, or the caller has more of it than
        anybody else; CONFLICT `stream_trimmed` when frames after `after_seq` are not kept any more; NOT_FOUND for streams of others.
        """
        _permitted(principal)
        after_seq = max(0, after_seq)
        if self._followers >= self._policy.max_followers:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "too_many_followers",
                "Too many streams are being resumed here. Try again.",
                retry_after=1.0,
            )
        self._followers += 1
        try:
            async with aclosing(self._resumed(principal, _checked(stream_id), after_seq, tail)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._followers -= 1

    async def cancel(self, principal: Principal, stream_id: str) -> None:
        """End the generation, wherever it runs; nothing when it has ended. NOT_FOUND for streams of others."""
        _permitted(principal)
        key = (principal.tenant(), _checked(stream_id))
        live = self._live.get(key)
        state = await self._state(key) if self._buffer is not None and live is None else None
        if live is not None:
            self._owned(live, principal)
            live.stop(End(CANCELLED))
        elif self._buffer is None or state is None or state.user_id != principal.user_id():
            raise not_found("stream")
        elif state.orphaned:
            await self._take_up(key, ending=CANCELLED)
        elif not state.ended:
            await self._asking(self._buffer.ask_to_cancel(*key))

    async def take_up_orphans(self) -> None:
        """Take up the streams of replicas that died and whose callers did not come back; to be called every few seconds."""
        if self._buffer is None:
            return
        try:
            orphans = await self._buffer.orphans(self._policy.take_up_after, _ORPHANS_AT_A_TIME)
        except StreamBufferError:
            self._metrics.buffer_failed()
            return
        for key in orphans:
            try:
                await self._take_up(key, ending="process_lost", abandoned=True)
            except WireroomError:
                log.exception("chat.stream.take_up.failed", stream_id=key[1])

    async def owns(self, generation: Generation) -> bool:
        """False when another replica has taken its stream over. A buffer that cannot be asked has told nobody to take it over."""
        live = self._live.get((generation.tenant_id, generation.completion_id))
        if live is None or live.moved:
            return live is None
        silence = asyncio.get_running_loop().time() - self._beaten_at
        if self._buffer is not None and live.handle is not None and silence > 2 * self._policy.beat_interval:
            # This process stood still, or was cut off: the others may have given it up.
            try:
                async with asyncio.timeout(_OWNER_WAIT):
                    if not await self._buffer.owned(live.handle):
                        self._metrics.moved()
                        live.move()
            except (StreamBufferError, TimeoutError):
                self._metrics.buffer_failed()
        return not live.moved

    def running(self) -> int:
        """Generations in this process."""
        return sum(not live.ended for live in self._live.values())

    # How generations run

    def _new(self, opening: Opening) -> LiveStream:
        return LiveStream(opening.grace, window=self._policy.window_bytes, written=self._writer.changed)

    async def _drive(
        self, live: LiveStream, opening: Opening, produce: AsyncGenerator[Part, None]
    ) -> AsyncGenerator[list[Frame], None]:
        live.driven = True
        end = End(COMPLETED)
        try:
            async with aclosing(produce):
                while live.stopping is None:
                    part = await _next_part(live, produce)
                    if part is None:
                        break
                    if live.last_seq == 0:
                        self._open(live, opening)
                    yield _append(live, part)
                else:
                    end = live.stopping
        except GeneratorExit:
            self._end(live, End(CANCELLED))
            raise
        except asyncio.CancelledError:
            if not live.interrupted():
                self._end(live, End(CANCELLED))
                raise
            end = live.stopping or End(CANCELLED)
        except Exception as error:
            if live.last_seq == 0:
                raise
            _log_unforeseen(error, live)
            end = End.of(error)
        if live.failure is not None:
            live.fail(live.failure)
            self._forget(live)
            raise live.failure
        yield [self._end(live, end)]

    async def _follow_new(
        self, live: LiveStream, opening: Opening, produce: AsyncGenerator[Part, None]
    ) -> AsyncGenerator[Frame, None]:
        live.runner = self._spawn(self._run(live, produce, lambda: self._open(live, opening)), self._runners)
        async with aclosing(self._follow(live, 0)) as frames:
            async for frame in frames:
                yield frame

    async def _run(
        self, live: LiveStream, produce: AsyncGenerator[Part, None], opened: Callable[[], None] | None = None
    ) -> None:
        end = End(COMPLETED)
        try:
            async with aclosing(produce):
                async for part in produce:
                    if opened is not None:
                        opened()
                        opened = None
                    _append(live, part)
                    if live.crowded():
                        await live.room()
        except asyncio.CancelledError:
            end = live.stopping or End(CANCELLED)
        except Exception as error:  # noqa: BLE001 - whatever it is, followers must be told that the stream ended badly
            if live.last_seq == 0:
                live.fail(error)
                return
            _log_unforeseen(error, live)
            end = End.of(error)
        if live.failure is not None or live.last_seq == 0:
            live.fail(live.failure or _stopping())
            self._forget(live)
        else:
            self._end(live, end)

    def _open(self, live: LiveStream, opening: Opening) -> None:
        """At the first part: from now on others may ask for it."""
        self._name(live, opening.generation)
        if self._buffer is None:
            return
        checkpoint = opening.checkpoint if _fits(opening.checkpoint, self._policy.checkpoint_bytes) >= 0 else None
        live.handle = self._buffer.handle(StreamRecord(opening.principal, opening.generation, opening.grace, checkpoint))

    def _name(self, live: LiveStream, generation: Generation) -> None:
        live.key = (generation.tenant_id, generation.completion_id)
        live.user_id = generation.user_id
        self._live[live.key] = live
        self._metrics.running(len(self._live))

    def _end(self, live: LiveStream, end: End) -> Frame:
        if live.ended:
            return Frame(live.last_seq, end)
        frame = live.end(end)
        if live.handle is None:
            self._forget(live)
        return frame

    def _forget(self, live: LiveStream) -> None:
        if live.key is not None and self._live.get(live.key) is live:
            del self._live[live.key]
            self._metrics.running(len(self._live))

    def _spawn(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    # How they are followed

    async def _follow(self, live: LiveStream, after: int) -> AsyncGenerator[Frame, None]:
        follower = live.join(after)
        try:
            while True:
                if follower.seq < live.last_seq:
                    frames = live.since(follower.seq)
                    if frames is None:
                        frames = await self._older(live, follower.seq)
                    for frame in frames:
                        live.pass_on(follower, frame)
                        yield frame
                    live.make_room()
                elif live.failure is not None:
                    raise live.failure
                elif live.ended:
                    return
                else:
                    await live.arrival(follower)
        finally:
            live.leave(follower)

    async def _older(self, live: LiveStream, after: int) -> list[Frame]:
        """Frames that are not in memory any more."""
        if self._buffer is None or live.key is None or live.handle is None:
            raise _trimmed()
        # They are not in memory because they were written.
        frames = await self._asking(self._buffer.read(*live.key, after))
        if not frames or frames[0].seq != after + 1:
            raise _trimmed()
        return frames

    async def _resumed(
        self, principal: Principal, stream_id: str, after: int, tail: Sequence[Frame]
    ) -> AsyncGenerator[Frame, None]:
        key = (principal.tenant(), stream_id)
        known = {frame.seq: frame for frame in tail if frame.seq <= after}
        position = min(known, default=after + 1) - 1 if after in known else after
        live = self._live.get(key)
        if live is None:
            if self._buffer is None:
                raise not_found("stream")
            state = await self._state(key)
            if state is None:
                # It may have begun a moment ago.
                await asyncio.sleep(5 * self._policy.flush_interval)
                state = await self._state(key)
            if state is None or state.user_id != principal.user_id():
                raise not_found("stream")
        else:
            self._owned(live, principal)
        async with aclosing(self._from_anywhere(key, live, position, [known[seq] for seq in sorted(known)])) as frames:
            async for frame in frames:
                if frame.seq > after:
                    yield frame
                elif frame.seq in known and known[frame.seq].part != frame.part:
                    raise _diverged()

    async def _from_anywhere(
        self, key: tuple[UUID, str], live: LiveStream | None, position: int, tail: Sequence[Frame]
    ) -> AsyncGenerator[Frame, None]:
        """From memory if the stream runs here, else from the buffer until it does."""
        while live is None:
            async with aclosing(self._from_buffer(key, position)) as frames:
                async for frame in frames:
                    position = frame.seq
                    yield frame
                    if isinstance(frame.part, End):
                        return
            live = await self._here(key, position, tail)
        if position > live.last_seq:
            if not live.followers and not live.driven:
                live.await_callers()
            raise _diverged()
        async with aclosing(self._follow(live, position)) as rest:
            async for frame in rest:
                yield frame

    async def _from_buffer(self, key: tuple[UUID, str], position: int) -> AsyncGenerator[Frame, None]:
        """Until nothing has come for a while."""
        buffer = self._reading()
        while True:
            frames = await self._asking(buffer.read(*key, position))
            frames = frames or await self._asking(buffer.wait(*key, position, self._policy.idle))
            if not frames:
                return
            if frames[0].seq != position + 1:
                raise _trimmed()
            for frame in frames:
                yield frame
            position = frames[-1].seq

    async def _here(self, key: tuple[UUID, str], position: int, tail: Sequence[Frame]) -> LiveStream | None:
        """Why nothing came: the stream if it runs here, or runs here from now on; None while it runs elsewhere."""
        live = self._live.get(key)
        if live is not None:
            return live
        state = await self._state(key)
        if state is None:
            raise _trimmed()
        if state.ended and not await self._asking(self._reading().read(*key, position)):
            raise _diverged()
        if not state.orphaned:
            return None
        return await self._take_up(key, tail=[frame for frame in tail if frame.seq > position])

    # How those of others are taken up

    async def _take_up(
        self, key: tuple[UUID, str], *, tail: Sequence[Frame] = (), ending: str = "", abandoned: bool = False
    ) -> LiveStream | None:
        """Claim an orphaned stream and go on with it. `abandoned`: nobody is there; streams with a grace still wait for somebody."""
        claimed = await self._asking(self._reading().claim(*key))
        if claimed is None:
            return None
        live = self._adopted(claimed, tail)
        record = claimed.record
        if abandoned and record.grace > 0:
            ending = ""
        known = [frame.part for frame in claimed.frames] + [frame.part for frame in tail if frame.seq > live.buffered_seq]
        complete = bool(claimed.frames) and claimed.frames[0].seq == 1
        checkpoint = record.checkpoint or {}
        if ending or not complete:
            checkpoint = {**checkpoint, "continuable": False}
        produce = self.revive(
            Opening(record.principal, record.generation, record.grace, checkpoint),
            next((part.path for part in reversed(known) if isinstance(part, Info)), ()),
            [part for part in known if isinstance(part, bytes)],
        )
        log.info("chat.stream.taken_up", stream_id=key[1], after_seq=live.last_seq, ending=ending)
        self._metrics.taken_up()
        if ending == CANCELLED:
            produce = _cancelled(live, produce)
        # A context of its own: nothing of the call that led here belongs to the generation.
        live.runner = contextvars.Context().run(self._spawn, self._revived(live, record.principal, produce), self._runners)
        if abandoned and not ending:
            live.await_callers()
        return live

    def _adopted(self, claimed: ClaimedStream, tail: Sequence[Frame]) -> LiveStream:
        # Several may be waiting for it here, and the first of them may leave again before the others have noticed that it goes on.
        live = LiveStream(
            max(claimed.record.grace, _ADOPTED_GRACE), window=self._policy.window_bytes, written=self._writer.changed
        )
        live.handle = claimed.handle
        live.last_seq = live.buffered_seq = claimed.frames[-1].seq if claimed.frames else 0
        live.first_seq = live.last_seq + 1
        self._name(live, claimed.record.generation)
        for frame in tail:
            if frame.seq == live.last_seq + 1:
                live.append(frame.part)
        return live

    async def _revived(self, live: LiveStream, principal: Principal, produce: AsyncGenerator[Part, None]) -> None:
        set_current_principal(principal)
        await self._run(live, produce)

    # The replica

    async def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            wishes = await self._reading().beat()
        except StreamBufferError:
            self._metrics.buffer_failed()
            return
        self._beaten_at = now
        for key in wishes:
            live = self._live.get(key)
            if live is not None:
                live.stop(End(CANCELLED))

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._policy.beat_interval)
            await self._beat()

    # Small things

    def _reading(self) -> StreamBuffer:
        if self._buffer is None:
            raise not_found("stream")
        return self._buffer

    async def _state(self, key: tuple[UUID, str]) -> StreamState | None:
        return await self._asking(self._reading().state(*key))

    async def _asking(self, answer: Awaitable[T]) -> T:
        """What the buffer answers, for a caller who waits for it."""
        try:
            return await answer
        except StreamBufferError:
            self._metrics.buffer_failed()
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "stream_buffer_unavailable",
                "The buffer of streams cannot be reached. Try again.",
                retry_after=1.0,
            ) from None

    def _owned(self, live: LiveStream, principal: Principal) -> None:
        # The tenant is part of the key.
        if live.user_id != principal.user_id():
            raise not_found("stream")


def _append(live: LiveStream, part: Part) -> list[Frame]:
    return [live.append(chunk) for chunk in part] if isinstance(part, list) else [live.append(part)]


async def _one_by_one(batches: AsyncGenerator[list[Frame], None]) -> AsyncGenerator[Frame, None]:
    async with aclosing(batches):
        async for batch in batches:
            for frame in batch:
                yield frame


async def _next_part(live: LiveStream, produce: AsyncGenerator[Part, None]) -> Part | None:
    """None at the end. While it waits, `LiveStream.stop` can interrupt it."""
    live.drive(asyncio.current_task())
    try:
        if live.crowded():
            await live.room()
        return await anext(produce, None)
    finally:
        live.drive(None)


async def _cancelled(live: LiveStream, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[Part, None]:
    """Settle what nobody wants; the stream ends as its owner wished, not as the settlement did."""
    async with aclosing(produce):
        try:
            async for part in produce:
                yield part
        except WireroomError:
            live.stopping = End(CANCELLED)
            raise asyncio.CancelledError from None


async def _cannot_revive(opening: Opening, path: Sequence[str], chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
    del opening, path
    for chunk in chunks[:0]:
        yield chunk
    raise WireroomError(ErrorKind.UNAVAILABLE, "stream_lost", "The process that wrote this answer is gone. Ask again.")


def _permitted(principal: Principal) -> None:
    if not principal.permissions.intersection(PERMISSIONS):
        principal.require(PERMISSIONS[0])


def _checked(stream_id: str) -> str:
    if not _STREAM_ID.fullmatch(stream_id):
        raise not_found("stream")
    return stream_id


def _fits(value: Any, budget: int) -> int:
    """What is left of `budget` bytes after the value, roughly; negative when it does not fit. Stops looking as soon as it is clear."""
    if isinstance(value, (str, bytes)):
        return budget - len(value)
    budget -= 8
    if isinstance(value, Mapping):
        for key, item in value.items():
            budget = _fits(item, budget - len(key))
            if budget < 0:
                break
    elif isinstance(value, (list, tuple)):
        for item in value:
            budget = _fits(item, budget)
            if budget < 0:
                break
    return budget


def _log_unforeseen(error: Exception, live: LiveStream) -> None:
    if not isinstance(error, WireroomError):
        log.error("chat.stream.failed", stream_id=live.stream_id, exc_info=error)


def _trimmed() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT,
        "stream_trimmed",
        "What follows is not kept any more. The whole answer is in its session, if it has one.",
    )


def _diverged() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT,
        "stream_diverged",
        "The answer went on differently after a failure. Get it again from its beginning (after=0).",
    )


def _stopping() -> WireroomError:
    return WireroomError(ErrorKind.UNAVAILABLE, "service_stopping", "The service is being stopped. Try again.", retry_after=1.0)
