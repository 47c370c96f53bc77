"""How a streamed generation begins and is gone on with, and the limits that hold for all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from wireroom_chat.domain.frames import Info
from wireroom_chat.ports.generations import Generation
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal

# What generations are made of; chunks that are there at the same moment come together.
Part: TypeAlias = Info | bytes | list[bytes]


@dataclass(frozen=True)
class Opening:
    """How a stream is to be treated. `grace`: seconds it lives on without a caller. `checkpoint`: what another process needs to go on."""

    principal: Principal
    generation: Generation
    grace: float
    checkpoint: Mapping[str, Any]


class StreamLostError(WireroomError):
    """Nobody can go on with a stream."""


def lost(
    detail: str = "The process that wrote this answer is gone, and its rest cannot be joined on. Ask again.",
) -> StreamLostError:
    """The error, and what to tell the caller."""
    return StreamLostError(ErrorKind.UNAVAILABLE, "stream_lost", detail)


class Revive(Protocol):
    """How to go on with a generation whose process is gone; it is settled in any case."""

    def __call__(self, opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        """What comes after `chunks`; `info` is the last one that was sent. Raises where nothing can: always, unless `continuable`."""


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
