"""What all replicas together know of the candidates' health.

Calls only touch local memory. In the background each replica writes what it has seen into one Redis key per candidate and takes over what
the others wrote: a compare-and-set over the pure state of `domain.routing`, so that there is one state machine and every transition of it
has exactly one author. Without Redis each replica goes on with what it sees itself, and hands it in later.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wireroom_chat.adapters.provider_metrics import ProviderMetrics
from wireroom_chat.domain.providers import Candidate, Strategy
from wireroom_chat.domain.routing import (
    UNKNOWN,
    BreakerPolicy,
    Circuit,
    Health,
    Observation,
    Standing,
    Verdict,
    advance,
    ordered,
    pause_of,
    verdict_of,
)
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError

REFRESH_SECONDS = 1.0
# The number changes with the fields of `Health`.
_PREFIX = "wireroom:chat:health:1:"
_REDIS_TIMEOUT = 1.0
_LIFETIME_MS = 2 * 3_600_000
_MAX_CANDIDATES = 5_000
_MAX_PENDING = 200
_BATCH = 200
_ATTEMPTS = 4
# A probe that nobody makes use of goes to another replica after this; one under way blocks the others for as long as a call may take.
_OFFER_SECONDS = 2.0
_PROBE_SECONDS = 30.0
# A candidate nobody asked for in this time is probed by whoever is asked for it next.
_WANTED_SECONDS = 30.0
_SHORTLY = 0.25

_COMPARE_AND_SET = """
local current = redis.call('GET', KEYS[1])
if (current or '') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
return 0
"""
_COMPARE_AND_DELETE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

log = structlog.get_logger()

CandidateKey = tuple[str, str, str]


def key_of(candidate: Candidate) -> CandidateKey:
    """What health is known by: provider, model and key."""
    return candidate.model.provider, candidate.model.name, candidate.key


class Incidents(Protocol):
    """Tells that a candidate's circuit opened or closed, once over all replicas."""

    async def tell(self, key: CandidateKey, health: Health, retry_in: float) -> None:
        """Record the state and emit the event if it is news; raises when it could not be recorded."""


@dataclass
class _Watched:
    """One candidate as this replica sees it."""

    health: Health = UNKNOWN
    # The stored text that `health` without `pending` stands for; empty: there was none.
    stored: bytes = b""
    pending: deque[Observation] = field(default_factory=lambda: deque(maxlen=_MAX_PENDING))
    wanted_at: float = -1e9
    # Until when this replica may make the probe; `probing`: it does.
    permit_until: float = 0.0
    probing: bool = False
    extend: bool = False
    told: bool | None = None


class SharedHealth:
    """`ProviderHealth` over all replicas. `candidates` names those that exist; `run` is called again and again."""

    def __init__(
        self,
        redis: Redis,
        clock: Clock,
        candidates: Callable[[], Iterable[Candidate]],
        metrics: ProviderMetrics,
        *,
        incidents: Incidents | None = None,
        policy: BreakerPolicy | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._candidates = candidates
        self._metrics = metrics
        self._incidents = incidents
        self._policy = policy or BreakerPolicy()
        self._draw = draw
        self._token = secrets.token_hex(8)
        self._watched: dict[CandidateKey, _Watched] = {}
        # Redis's clock minus our monotonic one; until it has been asked, the host's.
        self._offset = clock.now().timestamp() - clock.monotonic()
        self._wake = asyncio.Event()
        self._shared = False
        self._swap: Any = redis.register_script(_COMPARE_AND_SET)
        self._release: Any = redis.register_script(_COMPARE_AND_DELETE)

    @property
    def shared(self) -> bool:
        """Whether the last look at Redis went well."""
        return self._shared

    def order(self, candidates: Sequence[Candidate], strategy: Strategy) -> list[Candidate]:
        now = self._now()
        standings = [
            Standing(candidate, self.blocked_for(candidate), self._watch(key_of(candidate)).health.latency(now))
            for candidate in candidates
        ]
        return ordered(standings, strategy, self._draw)

    def blocked_for(self, candidate: Candidate) -> float:
        now = self._now()
        watched = self._watch(key_of(candidate))
        blocked = watched.health.blocked_for(now)
        if watched.health.degraded:
            watched.wanted_at = now
        if blocked > 0 or watched.health.circuit(now) is not Circuit.HALF_OPEN:
            return blocked
        if watched.permit_until > now and not watched.probing:
            return 0.0
        if not self._shared and watched.permit_until <= now:
            # There is nobody to agree with.
            watched.permit_until, watched.probing = now + _OFFER_SECONDS, False
            return 0.0
        self._wake.set()
        return 1.0 if watched.probing else _SHORTLY

    def began(self, candidate: Candidate) -> None:
        watched = self._watch(key_of(candidate))
        now = self._now()
        if watched.health.circuit(now) is Circuit.HALF_OPEN and not watched.probing:
            watched.probing = watched.extend = True
            watched.permit_until = now + _PROBE_SECONDS
            self._wake.set()

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        del tokens_out, seconds
        self._observe(key_of(candidate), Observation(self._now(), Verdict.OK, first_token=max(first_token_seconds, 1e-6)))

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        self._observe(key_of(candidate), Observation(self._now(), verdict_of(error), pause_of(error)))

    def released(self, candidate: Candidate, *, alive: bool) -> None:
        key = key_of(candidate)
        if alive:
            self._observe(key, Observation(self._now(), Verdict.OK))
            return
        watched = self._watch(key)
        if watched.probing:
            # The next exchange gives the probe back, as one that was offered and not used.
            watched.probing = watched.extend = False
            watched.permit_until = self._now()
            self._wake.set()

    def limited(self, key: CandidateKey, seconds: float) -> None:
        """Its provider says that nothing is left for `seconds`, in an answer that went well."""
        self._observe(key, Observation(self._now(), Verdict.LIMITED, seconds))

    def health(self, candidate: Candidate) -> tuple[Health, Circuit, float]:
        """What is known of it: its state, its circuit, and the seconds for which it is blocked."""
        watched = self._watched.get(key_of(candidate)) or _Watched()
        now = self._now()
        return watched.health, watched.health.circuit(now), watched.health.blocked_for(now)

    async def run(self) -> None:
        """Wait for news, at most a second, and exchange it with the other replicas."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._wake.wait()
        self._wake.clear()
        await self.exchange()

    async def exchange(self) -> None:
        """Write what was seen, read what others saw, claim or give back probes, tell of changes."""
        self._forget_strangers()
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT):
                await self._read()
                await self._write()
                await self._claim_probes()
        except (RedisError, OSError, TimeoutError):
            if self._shared:
                log.warning("providers.health.local", reason="Redis does not answer; each replica judges by itself")
            self._shared = False
        else:
            self._shared = True
        self._metrics.shared.set(1 if self._shared else 0)
        self._count_circuits()
        await self._tell()

    def _now(self) -> float:
        return self._clock.monotonic() + self._offset

    def _watch(self, key: CandidateKey) -> _Watched:
        watched = self._watched.get(key)
        if watched is None:
            watched = _Watched()
            if len(self._watched) < _MAX_CANDIDATES:
                self._watched[key] = watched
        return watched

    def _observe(self, key: CandidateKey, seen: Observation) -> None:
        watched = self._watch(key)
        before = watched.health
        watched.pending.append(seen)
        self._take(key, watched, advance(before, seen, self._policy))
        if watched.probing and seen.verdict is not Verdict.LIMITED:
            watched.probing = False
            watched.permit_until = 0.0
        self._metrics.observed(key[0], seen.verdict)
        if watched.health.degraded != before.degraded or watched.health.trips != before.trips or seen.pause > 0:
            self._wake.set()

    def _take(self, key: CandidateKey, watched: _Watched, health: Health) -> None:
        if health.opens_until != watched.health.opens_until:
            self._metrics.turned(key[0], Circuit.OPEN if health.degraded else Circuit.CLOSED)
        watched.health = health

    def _forget_strangers(self) -> None:
        known = {key_of(candidate) for candidate in self._candidates()}
        for key in [key for key in self._watched if key not in known]:
            del self._watched[key]
        for key in known:
            self._watch(key)

    async def _read(self) -> None:
        keys = list(self._watched)
        seconds, micros = await self._redis.time()
        self._offset = seconds + micros / 1e6 - self._clock.monotonic()
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            for key, stored in zip(batch, await self._redis.mget([_name(key) for key in batch]), strict=True):
                self._rebase(key, self._watched[key], _bytes(stored))

    def _rebase(self, key: CandidateKey, watched: _Watched, stored: bytes) -> None:
        """What others know, and on top of it what only this replica has seen."""
        if stored == watched.stored:
            return
        base = _decoded(stored)
        if base is None:
            # Lost, by a restart of Redis or by age: what is known here is handed in again.
            watched.stored = stored
            if watched.health != UNKNOWN and not watched.pending:
                watched.pending.append(Observation(self._now(), Verdict.LIMITED))
            return
        watched.stored = stored
        for seen in watched.pending:
            base = advance(base, seen, self._policy)
        self._take(key, watched, base)

    async def _write(self) -> None:
        for key, watched in list(self._watched.items()):
            for _ in range(_ATTEMPTS):
                if not watched.pending:
                    break
                count = len(watched.pending)
                # What is added to `pending` meanwhile is in `health` then, and not in this text.
                health, before = watched.health, _decoded(watched.stored)
                text = orjson.dumps(astuple(health))
                if await self._swap(keys=[_name(key)], args=[watched.stored, text, _LIFETIME_MS]):
                    watched.stored = text
                    for _ in range(min(count, len(watched.pending))):
                        watched.pending.popleft()
                    if before is not None and before.degraded and before.opens_until != health.opens_until:
                        await self._redis.delete(_probe_name(key))
                    break
                self._rebase(key, watched, _bytes(await self._redis.get(_name(key))))

    async def _claim_probes(self) -> None:
        now = self._now()
        for key, watched in list(self._watched.items()):
            half_open = watched.health.circuit(now) is Circuit.HALF_OPEN
            if watched.extend and watched.probing:
                watched.extend = False
                await self._redis.set(_probe_name(key), self._token, px=int(_PROBE_SECONDS * 1000))
            elif watched.probing:
                watched.probing = half_open and now < watched.permit_until
            elif half_open and watched.permit_until <= now < watched.wanted_at + _WANTED_SECONDS:
                if watched.permit_until:
                    # It was offered here and not used; the next round is open to all again.
                    await self._release(keys=[_probe_name(key)], args=[self._token])
                    watched.permit_until = 0.0
                    continue
                if await self._redis.set(_probe_name(key), self._token, px=int(_OFFER_SECONDS * 1000), nx=True):
                    watched.permit_until = now + _OFFER_SECONDS

    def _count_circuits(self) -> None:
        now = self._now()
        counts: dict[tuple[str, Circuit], int] = {}
        for key, watched in self._watched.items():
            place = key[0], watched.health.circuit(now)
            counts[place] = counts.get(place, 0) + 1
        self._metrics.circuits_are(counts)

    async def _tell(self) -> None:
        """Level-triggered: what could not be told is told the next time."""
        if self._incidents is None:
            return
        now = self._now()
        for key, watched in list(self._watched.items()):
            health = watched.health
            if watched.told is health.degraded or (watched.told is None and not health.degraded and not health.measured_at):
                continue
            try:
                await self._incidents.tell(key, health, health.blocked_for(now))
            except WireroomError:
                # The database is away: it says so itself, and there is another round in a second.
                return
            watched.told = health.degraded


def _name(key: CandidateKey) -> str:
    # Names of models hold any character, and may be long.
    return _PREFIX + hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]


def _probe_name(key: CandidateKey) -> str:
    return _name(key) + ":probe"


def _decoded(stored: bytes) -> Health | None:
    if not stored:
        return None
    try:
        return Health(*orjson.loads(stored))
    except (orjson.JSONDecodeError, TypeError):
        # Written by another version of this program.
        return None


def _bytes(stored: bytes | str | None) -> bytes:
    """Of a client that does not decode, which its types do not tell."""
    return stored if isinstance(stored, bytes) else b""
