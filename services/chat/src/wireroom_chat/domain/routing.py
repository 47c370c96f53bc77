"""Which candidate is tried first, and which are left alone for a while: strategies and circuit breakers, without I/O.

All times are seconds on one clock that every replica shares; a `Health` is the whole state of one candidate, so that it can be kept
anywhere and advanced by whoever learns something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from wireroom_chat.domain.providers import Candidate, Price, Strategy
from wireroom_common.errors import ErrorKind, WireroomError

# Weights of a typical call, to compare prices before anything is known of the answer.
_TYPICAL_INPUT = 3
_TYPICAL_OUTPUT = 1
_LATENCY_SHARE = 0.2
# Older measurements say nothing: the candidate is measured again.
_LATENCY_LIFETIME = 300.0
_LONGEST_COOLDOWN = 3600.0


class ProviderError(WireroomError):
    """A failure of a provider. `cooldown`: seconds for which it asked not to be called; 0 where it said nothing."""

    cooldown: float = 0.0


class NotCalledError(WireroomError):
    """A call that was not made for want of something of ours: it says nothing of the provider, and costs nothing."""


class Circuit(StrEnum):
    """Of one candidate. Half open: its pause is over, one call may find out whether it works again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(StrEnum):
    """What a call says of its candidate."""

    OK = "ok"
    FAILED = "failed"
    # It works, but takes no more for a while.
    LIMITED = "limited"
    # It does not accept the key.
    REFUSED = "refused"


@dataclass(frozen=True)
class BreakerPolicy:
    """When a circuit opens, and for how long (seconds)."""

    consecutive: int = 5
    # Share of failures among at least `minimum` calls within about `window`.
    ratio: float = 0.5
    minimum: int = 20
    window: float = 30.0
    # The first pause; each further one in a row is twice as long, up to `longest`.
    pause: float = 5.0
    longest: float = 300.0
    # For keys that are not accepted.
    refused: float = 60.0


@dataclass(frozen=True)
class Observation:
    """One thing learned about a candidate. `pause`: seconds for which it asked to be left alone."""

    at: float
    verdict: Verdict
    pause: float = 0.0
    first_token: float = 0.0


@dataclass(frozen=True)
class Health:
    """What is known of one candidate. The counts fade with time; `opens_until` 0: the circuit is closed."""

    consecutive: int = 0
    good: float = 0.0
    bad: float = 0.0
    counted_at: float = 0.0
    opens_until: float = 0.0
    trips: int = 0
    cooldown_until: float = 0.0
    first_token: float = 0.0
    measured_at: float = 0.0

    def circuit(self, now: float) -> Circuit:
        """The state of the breaker."""
        if not self.opens_until:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self.opens_until else Circuit.HALF_OPEN

    def blocked_for(self, now: float) -> float:
        """Seconds until it may be called again; whether a half-open one may, is decided elsewhere."""
        return max(0.0, self.cooldown_until - now, self.opens_until - now)

    @property
    def degraded(self) -> bool:
        """Whether its circuit has opened and no call has gone well since."""
        return self.opens_until > 0

    def latency(self, now: float) -> float:
        """Smoothed seconds to the first token; 0 when nothing recent is known."""
        return self.first_token if now - self.measured_at < _LATENCY_LIFETIME else 0.0


UNKNOWN = Health()


def verdict_of(error: WireroomError) -> Verdict:
    """What a failed call says of the candidate."""
    if error.kind is ErrorKind.RATE_LIMITED:
        return Verdict.LIMITED
    return Verdict.REFUSED if error.code == "provider_refused" else Verdict.FAILED


def pause_of(error: WireroomError) -> float:
    """Seconds for which the provider asked to be left alone."""
    if error.kind is ErrorKind.RATE_LIMITED:
        return min(max(error.retry_after, 1.0), _LONGEST_COOLDOWN)
    return min(error.cooldown, _LONGEST_COOLDOWN) if isinstance(error, ProviderError) else 0.0


def advance(health: Health, seen: Observation, policy: BreakerPolicy) -> Health:  # noqa: PLR0911 - a state machine: a return per case
    """The state after an observation. What arrives while the circuit is open comes from calls begun before, and changes no circuit."""
    now = seen.at
    after = health
    if seen.pause > 0:
        after = replace(after, cooldown_until=max(after.cooldown_until, now + seen.pause))
    if seen.verdict is Verdict.LIMITED:
        return after
    if seen.verdict is Verdict.OK and seen.first_token > 0:
        before = health.latency(now)
        smoothed = before + _LATENCY_SHARE * (seen.first_token - before) if before else seen.first_token
        after = replace(after, first_token=smoothed, measured_at=now)
    circuit = health.circuit(now)
    if circuit is Circuit.OPEN:
        return after
    if seen.verdict is Verdict.OK:
        if circuit is Circuit.HALF_OPEN:
            return replace(after, consecutive=0, good=1.0, bad=0.0, counted_at=now, opens_until=0.0, trips=0)
        return replace(_counted(after, now, policy, good=1), consecutive=0)
    if circuit is Circuit.HALF_OPEN:
        return _tripped(after, now, policy, seen.verdict)
    after = _counted(after, now, policy, bad=1)
    after = replace(after, consecutive=after.consecutive + 1)
    total = after.good + after.bad
    # Counts fade continuously: without the allowance the minimum would never be reached by exactly that many calls.
    often = total > policy.minimum - 1 and after.bad >= policy.ratio * total
    if seen.verdict is Verdict.REFUSED or after.consecutive >= policy.consecutive or often:
        return _tripped(after, now, policy, seen.verdict)
    return after


def _counted(health: Health, now: float, policy: BreakerPolicy, *, good: int = 0, bad: int = 0) -> Health:
    faded = math.exp(-max(0.0, now - health.counted_at) / policy.window)
    return replace(health, good=health.good * faded + good, bad=health.bad * faded + bad, counted_at=max(now, health.counted_at))


def _tripped(health: Health, now: float, policy: BreakerPolicy, verdict: Verdict) -> Health:
    pause = min(policy.pause * 2 ** min(health.trips, 30), policy.longest)
    if verdict is Verdict.REFUSED:
        pause = max(pause, policy.refused)
    return replace(health, consecutive=0, good=0.0, bad=0.0, counted_at=now, opens_until=now + pause, trips=health.trips + 1)


def expected_cost(price: Price | None) -> float:
    """Of a typical call, to compare prices; what has no price comes last."""
    if price is None:
        return math.inf
    return _TYPICAL_INPUT * price.input_micros + _TYPICAL_OUTPUT * price.output_micros


@dataclass(frozen=True)
class Standing:
    """A candidate and what speaks for or against it now. `blocked`: seconds for which it had better not be called."""

    candidate: Candidate
    blocked: float
    latency: float


def ordered(standings: Sequence[Standing], strategy: Strategy, draw: Callable[[], float]) -> list[Candidate]:
    """All candidates: usable ones by the strategy, then the others, those first that are free the soonest. `draw` gives [0, 1)."""
    usable = [standing for standing in standings if standing.blocked <= 0]
    waiting = sorted((standing for standing in standings if standing.blocked > 0), key=lambda item: item.blocked)
    if strategy is Strategy.WEIGHTED:
        # Efraimidis and Spirakis: a random order in which each comes first as often as its weight says.
        keys = [draw() ** (1 / item.candidate.weight) if item.candidate.weight > 0 else -1.0 for item in usable]
        usable = [item for _, item in sorted(zip(keys, usable, strict=True), key=lambda pair: -pair[0])]
    elif strategy is Strategy.CHEAPEST:
        usable.sort(key=lambda item: expected_cost(item.candidate.model.price))
    elif strategy is Strategy.LOWEST_LATENCY:
        # What is unknown is tried first, and thereby known.
        usable.sort(key=lambda item: item.latency)
    return [item.candidate for item in (*usable, *waiting)]
