"""The security score: 100 less what the last 24 hours cost. Pure; each rule says in one line what it takes away and why.

| part | points | when |
|---|---|---|
| `failed_logins` | 10 for each doubling, at most 30 | more than expected: three times the median of the seven days before, at least 20 |
| `many_accounts` | 10 | beyond that, more than 10 accounts are tried |
| `login_burst` | 10 | in one hour at least 10, and more than 6 robust standard deviations above the median of the week before |
| `refresh_reuse` | 5 each, at most 20 | a stolen refresh token was used, or a client is broken |
| `addresses_blocked` | 3 each, at most 20 | addresses that exceeded limits for long |
| `threats` | 1 each, at most 20 | requests that looked like an attack |
| `limits_exceeded` | 1 for each 100 refusals, at most 10 | |
| `audit_chain_broken` | 40 | a verification found the audit trail tampered with |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

FULL = 100
LEAST_EXPECTED = 20
_EXPECTED_FACTOR = 3
_MANY_ACCOUNTS = 10
_LEAST_BURST = 10
_BURST_DEVIATIONS = 6.0
# Makes the median absolute deviation comparable with a standard deviation of normally distributed values.
_MAD_SCALE = 1.4826


@dataclass(frozen=True)
class Observation:
    """What was seen: of the last 24 hours unless the name says otherwise. Sequences are oldest first."""

    logins_failed: int = 0
    logins_succeeded: int = 0
    # Failed logins of each of the seven days before the last 24 hours.
    failed_by_day_before: Sequence[int] = ()
    # Failed logins of each hour of the last 24, and of the seven days before.
    failed_by_hour: Sequence[int] = ()
    failed_by_hour_before: Sequence[int] = ()
    failed_accounts: int = 0
    failed_addresses: int = 0
    refresh_reuse: int = 0
    addresses_blocked: int = 0
    threats: int = 0
    limits_exceeded: int = 0
    audit_chain_broken: int = 0
    failed_by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Points that one rule took away, and how often what it counts was seen."""

    name: str
    points: int
    count: int


@dataclass(frozen=True)
class Score:
    """0 to 100, and every rule's part (also those of no points)."""

    value: int
    parts: tuple[Part, ...]

    def costs(self) -> dict[str, int]:
        """The parts that took points away, by name."""
        return {part.name: part.points for part in self.parts if part.points}


def expected_failures(by_day_before: Sequence[int]) -> int:
    """Up to how many failed logins in 24 hours cost nothing."""
    usual = median(by_day_before) if by_day_before else 0
    return max(LEAST_EXPECTED, math.ceil(_EXPECTED_FACTOR * usual))


def bursts(hours: Sequence[int], before: Sequence[int]) -> int:
    """How many of the hours stand out against those before, by median and median absolute deviation (at least 1)."""
    middle = median(before) if before else 0.0
    deviation = _MAD_SCALE * max(1.0, median(abs(count - middle) for count in before) if before else 1.0)
    return sum(1 for count in hours if count >= _LEAST_BURST and count > middle + _BURST_DEVIATIONS * deviation)


def score(seen: Observation) -> Score:
    """The score of what was seen."""
    expected = expected_failures(seen.failed_by_day_before)
    many_failures = seen.logins_failed > expected
    doublings = math.ceil(math.log2(seen.logins_failed / expected)) if many_failures else 0
    burst_hours = bursts(seen.failed_by_hour, seen.failed_by_hour_before)
    sprayed = many_failures and seen.failed_accounts > _MANY_ACCOUNTS
    parts = (
        Part("failed_logins", min(30, 10 * doublings), seen.logins_failed),
        Part("many_accounts", 10 if sprayed else 0, seen.failed_accounts),
        Part("login_burst", 10 if burst_hours else 0, burst_hours),
        Part("refresh_reuse", min(20, 5 * seen.refresh_reuse), seen.refresh_reuse),
        Part("addresses_blocked", min(20, 3 * seen.addresses_blocked), seen.addresses_blocked),
        Part("threats", min(20, seen.threats), seen.threats),
        Part("limits_exceeded", min(10, seen.limits_exceeded // 100), seen.limits_exceeded),
        Part("audit_chain_broken", 40 if seen.audit_chain_broken else 0, seen.audit_chain_broken),
    )
    return Score(max(0, FULL - sum(part.points for part in parts)), parts)


def is_low(value: int, *, threshold: int, margin: int, was_low: bool) -> bool:
    """Whether the alarm stands: raised below the threshold, and put back only at `margin` points above it."""
    return value < min(FULL, threshold + margin) if was_low else value < threshold
