"""Generations that run in this process, and those who follow them in its memory."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any
from uuid import UUID

import structlog

from wireroom_chat.domain.frames import CANCELLED, COMPLETED, End, Frame
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.ports.generations import Generation
from wireroom_chat.ports.streams import ClaimedStream, StreamBuffer, StreamRecord
from wireroom_chat.usecases.buffered_streams import BufferedStreams, trimmed
from wireroom_chat.usecases.live_stream import LiveStream
from wireroom_chat.usecases.stream_opening import Opening, Part, StreamPolicy
from wireroom_chat.usecases.stream_writer import StreamWriter
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, set_current_principal
from wireroom_common.rpc.context import ReceivedPrincipal, received_principal, set_received_principal

# Above `StreamPolicy.idle`, below the second within which a provider is let go.
_ADOPTED_GRACE = 0.8

log = structlog.get_logger()


class RunningStreams:
    """Numbers what generations make, keeps it for those who follow and hands it to the writer of the buffer."""

    def __init__(self, buffer: StreamBuffer | None, metrics: StreamMetrics, policy: StreamPolicy) -> None:
        self._buffered = BufferedStreams(buffer, metrics)
        self._metrics = metrics
        self._policy = policy
        self._live: dict[tuple[UUID, str], LiveStream] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self.writer = StreamWriter(buffer, metrics, interval=policy.flush_interval, done=self._forget)

    def find(self, key: tuple[UUID, str]) -> LiveStream | None:
        """The stream of this tenant and name, if it runs here."""
        return self._live.get(key)

    def count(self) -> int:
        """How many have not ended."""
        return sum(not live.ended for live in self._live.values())

    async def stop(self) -> None:
        """Let those end that nobody is connected to, but not for long."""
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._policy.stop_wait)
        for live in list(self._live.values()):
            live.stop(End.of(_stopping()))
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._policy.stop_wait)

    def deliver(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[Frame, None]:
        """In a task of its own, followed by the caller, which may leave."""
        return self._follow_new(self._new(opening.grace), opening, produce)

    def deliver_batches(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[list[Frame], None]:
        """Driven by the caller, whose end is the generation's."""
        return self._drive(self._new(opening.grace), opening, produce)

    def adopt(self, claimed: ClaimedStream) -> LiveStream:
        """A stream of another replica that is to go on here."""
        # Several may be waiting for it here, and the first of them may leave again before the others have noticed that it goes on.
        live = self._new(max(claimed.record.grace, _ADOPTED_GRACE))
        live.handle = claimed.handle
        live.last_seq = live.buffered_seq = claimed.frames[-1].seq if claimed.frames else 0
        live.first_seq = live.last_seq + 1
        self._name(live, claimed.record.generation)
        return live

    def go_on(self, live: LiveStream, principal: Principal, produce: AsyncGenerator[Part, None]) -> None:
        """Run an adopted stream in the name of its owner, with whose signature it was asked for if it was: other services want one."""
        # A context of its own: nothing else of the call that led here belongs to the generation.
        live.runner = contextvars.Context().run(self._spawn, self._revived(live, principal, produce, received_principal()))

    async def follow(self, live: LiveStream, after: int) -> AsyncGenerator[Frame, None]:
        """The frames after `after`, then live until the end; whoever reads no more closes the generator."""
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

    def _new(self, grace: float) -> LiveStream:
        return LiveStream(grace, window=self._policy.window_bytes, written=self.writer.changed)

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
        live.runner = self._spawn(self._run(live, produce, lambda: self._open(live, opening)))
        async with aclosing(self.follow(live, 0)) as frames:
            async for frame in frames:
                yield frame

    async def _run(self, live: LiveStream, produce: AsyncGenerator[Part, None], opened: Callable[[], None] | None = None) -> None:
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

    async def _revived(
        self, live: LiveStream, principal: Principal, produce: AsyncGenerator[Part, None], caller: ReceivedPrincipal | None
    ) -> None:
        owner = (principal.tenant_id, principal.subject)
        if caller is not None and (caller.principal.tenant_id, caller.principal.subject) == owner:
            set_received_principal(caller)
        else:
            set_current_principal(principal)
        await self._run(live, produce)

    def _open(self, live: LiveStream, opening: Opening) -> None:
        """At the first part: from now on others may ask for it."""
        self._name(live, opening.generation)
        checkpoint = opening.checkpoint if _fits(opening.checkpoint, self._policy.checkpoint_bytes) >= 0 else None
        record = StreamRecord(opening.principal, opening.generation, opening.grace, checkpoint)
        live.handle = self._buffered.handle(record)

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)
        return task

    async def _older(self, live: LiveStream, after: int) -> list[Frame]:
        """Frames that are not in memory any more."""
        if live.key is None or live.handle is None:
            raise trimmed()
        # They are not in memory because they were written.
        frames = await self._buffered.read(live.key, after)
        if not frames:
            raise trimmed()
        return frames


def _append(live: LiveStream, part: Part) -> list[Frame]:
    return [live.append(chunk) for chunk in part] if isinstance(part, list) else [live.append(part)]


async def _next_part(live: LiveStream, produce: AsyncGenerator[Part, None]) -> Part | None:
    """None at the end. While it waits, `LiveStream.stop` can interrupt it."""
    live.drive(asyncio.current_task())
    try:
        if live.crowded():
            await live.room()
        return await anext(produce, None)
    finally:
        live.drive(None)


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


def _stopping() -> WireroomError:
    return WireroomError(ErrorKind.UNAVAILABLE, "service_stopping", "The service is being stopped. Try again.", retry_after=1.0)
