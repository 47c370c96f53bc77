"""How long a provider is waited for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProviderTimeouts:
    """Seconds. `total` bounds an answer that is not streamed, `first_byte` the wait for the first event of one that is."""

    connect: float
    first_byte: float
    idle: float
    total: float
