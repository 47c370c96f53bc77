"""Streamed generations: numbered frames that outlive the connection and, where the answer can be continued, the process."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from wireroom_chat.domain.frames import CANCELLED, End, Frame, Info
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.ports.generations import Generation
from wireroom_chat.ports.streams import StreamBuffer, StreamBufferError
from wireroom_chat.usecases.buffered_streams import BufferedStreams
from wireroom_chat.usecases.resuming import Resuming, require_owner
from wireroom_chat.usecases.running_streams import RunningStreams
from wireroom_chat.usecases.stream_opening import Opening, Part, Revive, StreamPolicy, lost
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal

# Whoever may begin a stream of either surface may come back to its own.
PERMISSIONS = ("chat:use", "llm:invoke")
_STREAM_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")
_ORPHANS_AT_A_TIME = 50
_CANCEL_AGAIN = 0.2
_OWNER_WAIT = 0.5

log = structlog.get_logger()


class Streams:
    """Delivers streamed generations, lets their owners come back to them, takes up those of replicas that died."""

    def __init__(
        self, buffer: StreamBuffer | None = None, metrics: StreamMetrics | None = None, policy: StreamPolicy | None = None
    ) -> None:
        self._buffer = buffer
        self._metrics = metrics or StreamMetrics()
        self._policy = policy or StreamPolicy()
        self._running = RunningStreams(buffer, self._metrics, self._policy)
        self._buffered = BufferedStreams(buffer, self._metrics)
        self._resuming = Resuming(self._running, self._buffered, self._metrics, self._policy, self._go_on)
        self._tasks: list[asyncio.Task[None]] = []
        self._followers = 0
        # When the others last heard of this replica, for sure.
        self._beaten_at = 0.0
        # Set by the composition root: how to go on with a generation of another process.
        self.revive: Revive = _cannot_revive

    async def start(self) -> None:
        """Begin to buffer and to give signs of life."""
        if self._buffer is None:
            return
        await self._beat(self._buffer)
        self._tasks = [asyncio.create_task(work) for work in (self._running.writer.run(), self._keep_beating(self._buffer))]

    async def stop(self) -> None:
        """Let the generations that nobody is connected to end, but not for long; leave nothing unwritten."""
        await self._running.stop()
        while self._tasks:
            # Again and again: clients of the buffer have been seen to swallow a cancellation.
            for task in self._tasks:
                task.cancel()
            _, pending = await asyncio.wait(self._tasks, timeout=_CANCEL_AGAIN)
            self._tasks = list(pending)
        if self._buffer is not None:
            await self._running.writer.flush()
            with contextlib.suppress(StreamBufferError):
                await self._buffer.leave()

    def deliver(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[Frame, None]:
        """The frames; errors of `produce` pass through before the first frame and end the stream with a failed `End` after it.

        With a grace the generation runs in a task of its own and survives the caller; without one the caller drives it, which saves
        a switch of tasks for each chunk, and its end is the generation's.
        """
        if opening.grace <= 0:
            return _one_by_one(self.deliver_batches(opening, produce))
        return self._running.deliver(opening, produce)

    def deliver_batches(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[list[Frame], None]:
        """The frames of `deliver` without a grace, those together that are there at the same moment."""
        return self._running.deliver_batches(opening, produce)

    def replay(self, principal: Principal, stream_id: str, tail: Sequence[Frame]) -> AsyncGenerator[Frame, None]:
        """All frames from the first one, then live until the end; `tail`: the last ones that the caller has, as in `resume`."""
        return self.resume(principal, stream_id, tail[-1].seq if tail else 0, tail, replay=True)

    async def resume(
        self, principal: Principal, stream_id: str, after_seq: int, tail: Sequence[Frame] = (), *, replay: bool = False
    ) -> AsyncGenerator[Frame, None]:
        """The frames after `after_seq`, or all of them for a `replay`, then live until the end.

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
            found = self._resuming.frames(principal, _checked(stream_id), after_seq, tail, replay=replay)
            async with aclosing(found) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._followers -= 1

    async def cancel(self, principal: Principal, stream_id: str) -> None:
        """End the generation, wherever it runs; nothing when it has ended. NOT_FOUND for streams of others."""
        _permitted(principal)
        key = (principal.tenant(), _checked(stream_id))
        live = self._running.find(key)
        if live is not None:
            require_owner(live, principal)
            live.stop(End(CANCELLED))
            return
        state = await self._buffered.state(key)
        if state is None or state.user_id != principal.user_id():
            raise not_found("stream")
        if state.orphaned:
            await self._resuming.take_up(key, ending=CANCELLED)
        elif not state.ended:
            await self._buffered.ask_to_cancel(key)

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
                await self._resuming.take_up(key, ending="process_lost", abandoned=True)
            except WireroomError:
                log.exception("chat.stream.take_up.failed", stream_id=key[1])

    async def owns(self, generation: Generation) -> bool:
        """False when another replica has taken its stream over. A buffer that cannot be asked has told nobody to take it over."""
        live = self._running.find((generation.tenant_id, generation.completion_id))
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
        return self._running.count()

    def _go_on(self, opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        return self.revive(opening, info, chunks)

    async def _beat(self, buffer: StreamBuffer) -> None:
        now = asyncio.get_running_loop().time()
        try:
            wishes = await buffer.beat()
        except StreamBufferError:
            self._metrics.buffer_failed()
            return
        self._beaten_at = now
        for key in wishes:
            live = self._running.find(key)
            if live is not None:
                live.stop(End(CANCELLED))

    async def _keep_beating(self, buffer: StreamBuffer) -> None:
        while True:
            await asyncio.sleep(self._policy.beat_interval)
            await self._beat(buffer)


async def _one_by_one(batches: AsyncGenerator[list[Frame], None]) -> AsyncGenerator[Frame, None]:
    async with aclosing(batches):
        async for batch in batches:
            for frame in batch:
                yield frame


async def _cannot_revive(opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
    del opening, info
    for chunk in chunks[:0]:
        yield chunk
    raise lost()


def _permitted(principal: Principal) -> None:
    if not principal.permissions.intersection(PERMISSIONS):
        principal.require(PERMISSIONS[0])


def _checked(stream_id: str) -> str:
    if not _STREAM_ID.fullmatch(stream_id):
        raise not_found("stream")
    return stream_id
