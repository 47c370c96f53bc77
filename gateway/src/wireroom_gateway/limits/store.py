"""The port of the counter stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from wireroom_gateway.limits.policy import Limit


class Counter(NamedTuple):
    """One row that applies to a request: whose requests are counted under `key`, and how many may be.

    `own`: a refusal by it is the caller's own doing, and counts as a violation.
    """

    key: str
    limit: Limit
    own: bool = True


class Violations(NamedTuple):
    """Under which `key` refusals are counted, and how many within `window` seconds are the last straw."""

    key: str
    threshold: int
    window: int


class CounterState(NamedTuple):
    """A counter after the request. `remaining` requests are left; `reset` seconds until the oldest one is forgotten."""

    counter: Counter
    passed: bool
    remaining: int
    reset: float


class Verdict(NamedTuple):
    """Whether the request may pass, and how each counter stands.

    Charged are all counters, or none; a full counter in shadow is never charged and refuses nothing. `violations`: refusals of this
    caller in the window, this one included; 0 if the request passed or nothing is counted. The call that reaches the threshold starts
    the count anew, so that exactly one caller sees it.
    """

    allowed: bool
    states: Sequence[CounterState]
    violations: int = 0


class CounterStore(Protocol):
    """Counts requests. One call checks all counters, then charges all of them or none, as one atomic step."""

    async def take(self, counters: Sequence[Counter], violations: Violations | None = None) -> Verdict:
        """Try to charge one request."""
