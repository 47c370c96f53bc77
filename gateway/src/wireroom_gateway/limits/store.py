"""The port of the counter stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wireroom_gateway.limits.policy import Limit


@dataclass(frozen=True)
class Counter:
    """One row that applies to a request: whose requests are counted under `key`, and how many may be."""

    key: str
    limit: Limit


@dataclass(frozen=True)
class CounterState:
    """A counter after the request. `remaining` requests are left; `reset` seconds until the oldest one is forgotten."""

    counter: Counter
    passed: bool
    remaining: int
    reset: float


@dataclass(frozen=True)
class Verdict:
    """Whether the request may pass, and how each counter stands. Charged are all counters, or none."""

    allowed: bool
    states: Sequence[CounterState]


class CounterStore(Protocol):
    """Counts requests. One call checks all counters, then charges all of them or none, as one atomic step."""

    async def take(self, counters: Sequence[Counter]) -> Verdict:
        """Try to charge one request."""
