"""A generation that runs in this process: its newest frames, those who follow it, and how it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from wireroom_chat.domain.frames import CANCELLED, End, Frame, Info
from wireroom_chat.ports.streams import BufferedStream
from wireroom_common.errors import ErrorKind, WireroomError

_SMALL_PART = 128


class Follower:
    """One who reads along: the last frame it has, and how much of all that was written."""

    def __init__(self, seq: int, consumed: int) -> None:
        self.seq = seq
        self.consumed = consumed
        self.waiter: asyncio.Future[None] | None = None


class LiveStream:
    """Frames stay in memory until they are buffered and everybody here has them.

    Of buffered ones `window` bytes at most, who falls behind reads them from the buffer; of others twice as many, then the stream goes
    on without the buffer. The generation waits for the fastest of its followers, so a slow one holds it up
    only when nobody else reads along; without followers it waits for nobody.
    """

    def __init__(self, grace: float, *, window: int, written: Callable[[LiveStream], None]) -> None:
        self.grace = grace
        # Tenant and name, once others may ask for it.
        self.key: tuple[UUID, str] | None = None
        self.user_id: UUID | None = None
        # None: not buffered (any more).
        self.handle: BufferedStream | None = None
        # What the buffer has of it and should forget.
        self.lost: BufferedStream | None = None
        self.dirty = False
        self.first_seq = 1
        self.last_seq = 0
        self.buffered_seq = 0
        self.reachable = True
        # Bytes of all frames so far.
        self.total = 0
        self._buffered_total = 0
        self.ended = False
        # Raised to followers instead of an end: before the first frame, or when another replica has taken over.
        self.failure: BaseException | None = None
        # Another replica has it now.
        self.moved = False
        # How it is to end because somebody wanted it.
        self.stopping: End | None = None
        self.runner: asyncio.Task[None] | None = None
        # The caller itself runs it; others who follow it come and go.
        self.driven = False
        self.followers: set[Follower] = set()
        self._window: list[Frame] = []
        self._window_bytes = 0
        self._limit = window
        self._written = written
        self._driver: asyncio.Task[object] | None = None
        self._interrupted = False
        self._room: asyncio.Future[None] | None = None
        self._grace_timer: asyncio.TimerHandle | None = None

    @property
    def stream_id(self) -> str:
        """Its name, empty before it has one."""
        return self.key[1] if self.key else ""

    def append(self, part: Info | bytes | End) -> Frame:
        """Number the part, keep it, wake who waits for it."""
        self.last_seq += 1
        frame = Frame(self.last_seq, part)
        size = len(part) if type(part) is bytes else _SMALL_PART
        self.total += size
        if self.handle is None and not self.followers and not self.grace:
            # Nobody can ever ask for it.
            self.first_seq = self.last_seq + 1
            return frame
        self._window.append(frame)
        self._window_bytes += size
        for follower in self.followers:
            waiter = follower.waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if not self.dirty and self.handle is not None:
            self.dirty = True
            self._written(self)
        if self._window_bytes > self._limit:
            self._trim()
        return frame

    def end(self, end: End) -> Frame:
        """The last frame."""
        self.ended = True
        return self.append(end)

    def fail(self, error: BaseException) -> None:
        """No end: followers get the error."""
        self.failure = error
        self.ended = True
        self._wake()

    def since(self, seq: int) -> list[Frame] | None:
        """The frames after `seq`; None when the first of them is not in memory any more."""
        place = seq + 1 - self.first_seq
        return self._window[place:] if place >= 0 else None

    def unbuffered(self) -> list[Frame]:
        """What the buffer does not have yet."""
        return self._window[max(0, self.buffered_seq + 1 - self.first_seq) :]

    def buffered(self, seq: int, total: int) -> None:
        """The buffer has everything up to `seq`, when there were `total` bytes."""
        self.buffered_seq = max(self.buffered_seq, seq)
        self._buffered_total = max(self._buffered_total, total)
        self.reachable = True
        self._trim()
        self.make_room()

    def missed(self) -> None:
        """The buffer could not be reached: nobody waits for it."""
        self.reachable = False
        self.make_room()

    def unbuffer(self) -> None:
        """Go on without the buffer, which has missed something: others must not wait for more there."""
        self.lost, self.handle = self.handle, None
        if not self.dirty:
            self.dirty = True
            self._written(self)
        self._trim()

    def join(self, after: int) -> Follower:
        """A new follower, at `after`."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None
        frames = self.since(after)
        ahead = self._window_bytes if frames is None else sum(_size(frame) for frame in frames)
        follower = Follower(after, self.total - ahead)
        self.followers.add(follower)
        return follower

    def pass_on(self, follower: Follower, frame: Frame) -> None:
        """The follower gets the frame."""
        follower.seq = frame.seq
        follower.consumed += _size(frame)

    def leave(self, follower: Follower) -> None:
        """It reads no more. When nobody does, the generation is stopped: at once, or after its grace."""
        self.followers.discard(follower)
        self.make_room()
        if not self.followers and not self.driven:
            self.await_callers()

    def await_callers(self) -> None:
        """Stop it unless somebody follows it within the grace."""
        if self.ended:
            return
        if self.grace <= 0:
            self.stop(End(CANCELLED))
        elif self._grace_timer is None:
            self._grace_timer = asyncio.get_running_loop().call_later(self.grace, self.stop, End(CANCELLED))

    async def arrival(self, follower: Follower) -> None:
        """Until there may be more for the follower."""
        if follower.seq < self.last_seq or self.ended:
            return
        follower.waiter = asyncio.get_running_loop().create_future()
        try:
            await follower.waiter
        finally:
            follower.waiter = None

    def crowded(self) -> bool:
        """Whether the generation is too far ahead of everybody who follows it, or of a buffer that takes what it gets."""
        if self.handle is not None and self.reachable and self.total - self._buffered_total > self._limit:
            return True
        if self.driven or not self.followers:
            return False
        return self.total - max(item.consumed for item in self.followers) > self._limit

    async def room(self) -> None:
        """Until it is not."""
        while self.crowded():
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None

    def make_room(self) -> None:
        """A follower has read on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def stop(self, end: End) -> None:
        """End the generation early; the first wish counts."""
        if self.ended or self.stopping is not None:
            return
        self.stopping = end
        if self.runner is not None:
            self.runner.cancel()
        elif self._driver is not None:
            self._interrupted = True
            self._driver.cancel()

    def move(self) -> None:
        """Another replica has it now: nothing that is made here counts any more."""
        self.moved = True
        self.handle = None
        self.failure = WireroomError(
            ErrorKind.UNAVAILABLE, "stream_moved", "The answer is being written elsewhere now. Resume it.", retry_after=0.1
        )
        self.stop(End(CANCELLED))

    def drive(self, task: asyncio.Task[object] | None) -> None:
        """The task that waits for the next part now, None while there is none: `stop` interrupts it."""
        self._driver = task

    def interrupted(self) -> bool:
        """In the driving task, at a CancelledError: whether it was `stop`, and it alone."""
        if not self._interrupted:
            return False
        self._interrupted = False
        task = asyncio.current_task()
        return task is not None and task.uncancel() <= 0

    def _trim(self) -> None:
        """Drop what nobody needs; above the limit the oldest, whoever needs it."""
        keep = self.buffered_seq if self.handle is not None else self.last_seq
        for follower in self.followers:
            keep = min(keep, follower.seq)
        if self.handle is None and self.grace > 0:
            # Without a buffer memory is all there is for those who come back.
            keep = 0
        place, excess = 0, self._window_bytes - self._limit
        for frame in self._window:
            safe = self.handle is not None and frame.seq <= self.buffered_seq
            if frame.seq > keep and excess <= (0 if safe else self._limit):
                break
            size = _size(frame)
            excess -= size
            self._window_bytes -= size
            place += 1
        if place:
            del self._window[:place]
            self.first_seq += place
        if self.handle is not None and self.first_seq > self.buffered_seq + 1:
            self.unbuffer()

    def _wake(self) -> None:
        for follower in self.followers:
            if follower.waiter is not None and not follower.waiter.done():
                follower.waiter.set_result(None)


def _size(frame: Frame) -> int:
    return len(frame.part) if type(frame.part) is bytes else _SMALL_PART
