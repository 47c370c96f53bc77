"""Coming back to a stream: from the memory of this process, from the buffer, or by taking it up from a replica that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from uuid import UUID

import structlog

from wireroom_chat.domain.frames import CANCELLED, End, Frame, Info
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.usecases.buffered_streams import BufferedStreams, trimmed
from wireroom_chat.usecases.live_stream import LiveStream
from wireroom_chat.usecases.running_streams import RunningStreams
from wireroom_chat.usecases.stream_opening import Opening, Part, Revive, StreamPolicy
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal

log = structlog.get_logger()


class Resuming:
    """`revive`: how to go on with a generation of another process."""

    def __init__(
        self,
        running: RunningStreams,
        buffered: BufferedStreams,
        metrics: StreamMetrics,
        policy: StreamPolicy,
        revive: Revive,
    ) -> None:
        self._running = running
        self._buffered = buffered
        self._metrics = metrics
        self._policy = policy
        self._revive = revive

    async def frames(
        self, principal: Principal, stream_id: str, after: int, tail: Sequence[Frame], *, replay: bool = False
    ) -> AsyncGenerator[Frame, None]:
        """Those after `after`, or all of them for a `replay`, then live until the end; `tail` as in `Streams.resume`."""
        key = (principal.tenant(), stream_id)
        known = {frame.seq: frame for frame in tail if frame.seq <= after}
        position = 0 if replay else min(known, default=after + 1) - 1 if after in known else after
        live = self._running.find(key)
        if live is None:
            state = await self._buffered.state(key)
            if state is None:
                # It may have begun a moment ago.
                await asyncio.sleep(5 * self._policy.flush_interval)
                state = await self._buffered.state(key)
            if state is None or state.user_id != principal.user_id():
                raise not_found("stream")
        else:
            require_owner(live, principal)
        async with aclosing(self._from_anywhere(key, live, position, [known[seq] for seq in sorted(known)])) as frames:
            async for frame in frames:
                if frame.seq in known and known[frame.seq].part != frame.part:
                    raise _diverged()
                if replay or frame.seq > after:
                    yield frame

    async def take_up(
        self, key: tuple[UUID, str], *, tail: Sequence[Frame] = (), ending: str = "", abandoned: bool = False
    ) -> LiveStream | None:
        """Claim an orphaned stream and go on with it. `abandoned`: nobody is there; streams with a grace still wait for somebody."""
        claimed = await self._buffered.claim(key)
        if claimed is None:
            return None
        live = self._running.adopt(claimed)
        for frame in tail:
            if frame.seq == live.last_seq + 1:
                live.append(frame.part)
        record = claimed.record
        if abandoned and record.grace > 0:
            ending = ""
        known = [frame.part for frame in claimed.frames] + [frame.part for frame in tail if frame.seq > live.buffered_seq]
        complete = bool(claimed.frames) and claimed.frames[0].seq == 1
        checkpoint = record.checkpoint or {}
        if ending or not complete:
            checkpoint = {**checkpoint, "continuable": False}
        elif abandoned:
            checkpoint = {**checkpoint, "attended": False}
        produce = self._revive(
            Opening(record.principal, record.generation, record.grace, checkpoint),
            next((part for part in reversed(known) if isinstance(part, Info)), None),
            [part for part in known if isinstance(part, bytes)],
        )
        log.info("chat.stream.taken_up", stream_id=key[1], after_seq=live.last_seq, ending=ending)
        self._metrics.taken_up()
        if ending == CANCELLED:
            produce = _cancelled(live, produce)
        self._running.go_on(live, record.principal, produce)
        if abandoned and not ending:
            live.await_callers()
        return live

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
        async with aclosing(self._running.follow(live, position)) as rest:
            async for frame in rest:
                yield frame

    async def _from_buffer(self, key: tuple[UUID, str], position: int) -> AsyncGenerator[Frame, None]:
        """Until nothing has come for a while."""
        while True:
            frames = await self._buffered.read(key, position)
            frames = frames or await self._buffered.wait(key, position, self._policy.idle)
            if not frames:
                return
            for frame in frames:
                yield frame
            position = frames[-1].seq

    async def _here(self, key: tuple[UUID, str], position: int, tail: Sequence[Frame]) -> LiveStream | None:
        """Why nothing came: the stream if it runs here, or runs here from now on; None while it runs elsewhere."""
        live = self._running.find(key)
        if live is not None:
            return live
        state = await self._buffered.state(key)
        if state is None:
            raise trimmed()
        if state.ended and not await self._buffered.read(key, position):
            raise _diverged()
        if not state.orphaned:
            return None
        return await self.take_up(key, tail=[frame for frame in tail if frame.seq > position])


def require_owner(live: LiveStream, principal: Principal) -> None:
    """NOT_FOUND for everybody else; the tenant is part of the stream's key."""
    if live.user_id != principal.user_id():
        raise not_found("stream")


async def _cancelled(live: LiveStream, produce: AsyncGenerator[Part, None]) -> AsyncGenerator[Part, None]:
    """Settle what nobody wants; the stream ends as its owner wished, not as the settlement did."""
    async with aclosing(produce):
        try:
            async for part in produce:
                yield part
        except WireroomError:
            live.stopping = End(CANCELLED)
            raise asyncio.CancelledError from None


def _diverged() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT,
        "stream_diverged",
        "The answer went on differently after a failure. Get it again from its beginning (after=0).",
    )
