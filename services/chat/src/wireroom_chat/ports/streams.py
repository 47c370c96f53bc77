"""Streamed answers outside of the process that writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from wireroom_chat.domain.frames import Frame
from wireroom_chat.ports.generations import Generation
from wireroom_common.principal import Principal


@dataclass(frozen=True)
class StreamRecord:
    """What a replica leaves behind of a stream, so that another one can serve it or take it up.

    `checkpoint` None: too large to be kept. It holds what people wrote, and is stored sealed.
    """

    principal: Principal
    generation: Generation
    grace: float
    checkpoint: Mapping[str, Any] | None


@dataclass(frozen=True)
class StreamState:
    """What is known of a buffered stream. `orphaned`: it has not ended, and the replica that ran it is gone."""

    user_id: UUID
    ended: bool
    orphaned: bool


class BufferedStream(Protocol):
    """A stream this replica writes to."""

    @property
    def key(self) -> tuple[UUID, str]:
        """Tenant and stream id."""


@dataclass(frozen=True)
class ClaimedStream:
    """A stream taken over from a replica that is gone. `frames`: what is left of it, oldest first."""

    handle: BufferedStream
    record: StreamRecord
    frames: Sequence[Frame]


class Written(Enum):
    """What became of frames: `MOVED` when another replica has taken the stream over, `GONE` when the buffer forgot it."""

    YES = "yes"
    MOVED = "moved"
    GONE = "gone"


class StreamBufferError(Exception):
    """The buffer cannot be reached, or holds what cannot be read."""


class StreamBuffer(Protocol):
    """The frames of streams outside of the process, for all replicas. Every call may raise StreamBufferError."""

    def handle(self, record: StreamRecord) -> BufferedStream:
        """For a new stream; it is known to others from its first `append` on."""

    async def append(self, batches: Sequence[tuple[BufferedStream, Sequence[Frame]]]) -> list[Written]:
        """Add frames, in one round trip; repeating frames does not matter."""

    async def owned(self, stream: BufferedStream) -> bool:
        """False when another replica has taken it over; otherwise none will for as long as the lease of a replica lasts."""

    async def forget(self, streams: Sequence[BufferedStream]) -> None:
        """What is there of these streams is not complete: remove it, unless another replica has taken them over."""

    async def state(self, tenant_id: UUID, stream_id: str) -> StreamState | None:
        """None for a stream that is not there (any more)."""

    async def read(self, tenant_id: UUID, stream_id: str, after_seq: int) -> list[Frame]:
        """Some frames after `after_seq`, in order; none when there are none yet. Where the first one's number is greater, some are gone."""

    async def wait(self, tenant_id: UUID, stream_id: str, after_seq: int, seconds: float) -> list[Frame]:
        """As `read`, but waits for frames; none when none came."""

    async def claim(self, tenant_id: UUID, stream_id: str) -> ClaimedStream | None:
        """Take a stream over from a replica that is gone; None when it is not orphaned or another replica was faster."""

    async def orphans(self, older_than: float, limit: int) -> list[tuple[UUID, str]]:
        """Streams whose replica has given no sign of life for so many seconds."""

    async def beat(self) -> list[tuple[UUID, str]]:
        """Give a sign of life; returns the streams that others asked this replica to cancel."""

    async def ask_to_cancel(self, tenant_id: UUID, stream_id: str) -> None:
        """Tell the replica that runs the stream."""

    async def leave(self) -> None:
        """This replica ends; what it still runs may be taken over at once."""
