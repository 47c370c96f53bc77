"""Applies the policy to a request, and decides what happens while the shared store is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from redis.exceptions import RedisError

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.networks import network_of
from wireroom_gateway.limits.policy import FAIL_CLOSED, OWN_SCOPES, WINDOW_SECONDS, Limit, LimitScope, Policy
from wireroom_gateway.limits.store import Counter, CounterState, CounterStore, Verdict, Violations
from wireroom_gateway.metrics import GatewayMetrics

# After a failure the shared store is left alone for a moment: not every request shall wait for its time-out.
_RETRY_AFTER = 1.0
_MAX_PLANS = 4_096
_NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_log = get_logger(__name__)


class AppliedRow(NamedTuple):
    """A row of the policy as it applies to a caller."""

    bucket: Bucket
    scope: LimitScope
    subject: str
    limit: Limit
    # The name in the answer's head.
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is charged for a caller's request, as long as the policy stays the same."""

    rows: Sequence[AppliedRow]
    counters: tuple[Counter, ...]
    violations: Violations | None
    # Places of the rows that callers are told about: how busy the whole installation is, is nobody's business; what refuses nothing
    # need not be heeded.
    told: tuple[int, ...]
    # The value of RateLimit-Policy.
    policy_field: bytes


class Decision(NamedTuple):
    """The outcome for a request. `local`: the shared store was away. `blocked`: this refusal was the last straw."""

    verdict: Verdict
    plan: Plan
    local: bool
    blocked: bool = False

    @property
    def rows(self) -> Sequence[AppliedRow]:
        """In the order of the verdict's states."""
        return self.plan.rows

    @property
    def standing(self) -> Sequence[tuple[AppliedRow, CounterState]]:
        """Each row with its counter."""
        return list(zip(self.plan.rows, self.verdict.states, strict=True))


def caller_of(principal: Principal) -> str:
    """Whom violations and blocks of an address are confined to: a user, an API key; empty for anonymous callers."""
    if principal.kind is PrincipalKind.API_KEY:
        return principal.credential_id
    return principal.subject if principal.kind is PrincipalKind.USER else ""


class Limiter:
    """Charges requests. `shared` counts over all replicas; `local` is its stand-in with this replica's share."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        shared: CounterStore,
        local: MemoryCounterStore,
        clock: Clock,
        metrics: GatewayMetrics,
    ) -> None:
        self._policy = policy
        self._shared = shared
        self._local = local
        self._clock = clock
        self._metrics = metrics
        self._away_until = 0.0
        # Made for `_planned`, by caller.
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._planned: Policy | None = None

    @property
    def degraded(self) -> bool:
        """Whether the shared store failed just now."""
        return self._clock.monotonic() < self._away_until

    async def charge(
        self, bucket: Bucket, principal: Principal, client_ip: str, key_limits: Mapping[str, int] = _NO_LIMITS
    ) -> Decision | None:
        """None if no row applies; UNAVAILABLE if the bucket may only be counted in the shared store and that is away.

        `key_limits`: the API key's own, requests per minute by bucket.
        """
        plan = self._plan(bucket, principal, client_ip, key_limits)
        if not plan.rows:
            return None
        counters, violations = plan.counters, plan.violations
        if not self.degraded:
            try:
                verdict = await self._shared.take(counters, violations)
            except (RedisError, OSError, TimeoutError) as error:
                if not self.degraded:
                    _log.warning("limit_store_away", reason=type(error).__name__)
                self._away_until = self._clock.monotonic() + _RETRY_AFTER
            else:
                if verdict.allowed:
                    self._local.note(counters)
                last_straw = violations is not None and verdict.violations >= violations.threshold
                return Decision(verdict, plan, local=False, blocked=last_straw)
        self._metrics.limit_fallbacks.inc()
        if bucket in FAIL_CLOSED:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "limits_unavailable",
                "Signing in is not possible at the moment. Try again.",
                retry_after=2.0,
            )
        return Decision(await self._local.take(counters), plan, local=True)

    def _plan(self, bucket: Bucket, principal: Principal, client_ip: str, key_limits: Mapping[str, int]) -> Plan:
        policy = self._policy()
        if policy is not self._planned:
            self._plans.clear()
            self._planned = policy
        own = str(key_limits.get(bucket.value, "")) if key_limits else ""
        key = (bucket, principal.kind, principal.subject, principal.tenant_text, principal.credential_id, client_ip, own)
        plan = self._plans.get(key)
        if plan is None:
            plan = _new_plan(policy, _rows(policy, bucket, principal, client_ip, key_limits), principal, client_ip)
            if len(self._plans) >= _MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan


def _new_plan(policy: Policy, rows: Sequence[AppliedRow], principal: Principal, client_ip: str) -> Plan:
    counters = tuple(Counter(f"{row.bucket}:{row.name}:{row.subject}", row.limit, row.scope in OWN_SCOPES) for row in rows)
    rule, violations = policy.blocks, None
    if rule.enabled and client_ip not in policy.allow:
        violations = Violations(f"{network_of(client_ip)}:{caller_of(principal)}", rule.violations, rule.window)
    told = tuple(place for place, row in enumerate(rows) if row.scope is not LimitScope.GLOBAL and not row.limit.shadow)
    names = ", ".join(f'"{rows[place].name}";q={rows[place].limit.quota};w={rows[place].limit.window}' for place in told)
    return Plan(rows, counters, violations, told, names.encode())


def _rows(
    policy: Policy, bucket: Bucket, principal: Principal, client_ip: str, key_limits: Mapping[str, int]
) -> list[AppliedRow]:
    tenant_id = principal.tenant_text
    key_id = principal.credential_id if principal.kind is PrincipalKind.API_KEY else ""
    rows: list[AppliedRow] = []

    def add(scope: LimitScope, subject: str, limit: Limit | None) -> None:
        if limit is not None:
            rows.append(AppliedRow(bucket, scope, subject, limit, f"{bucket}-{scope}"))

    if key_id:
        limit = policy.limit((bucket, LimitScope.KEY), tenant_id, key_id)
        for name, stricter in _with_own(limit, key_limits.get(bucket.value)):
            rows.append(AppliedRow(bucket, LimitScope.KEY, key_id, stricter, f"{bucket}-{name}"))
    elif principal.kind is PrincipalKind.USER:
        add(LimitScope.USER, principal.subject, policy.limit((bucket, LimitScope.USER), tenant_id))
    elif client_ip not in policy.allow:
        add(LimitScope.IP, network_of(client_ip), policy.limit((bucket, LimitScope.IP)))
    if tenant_id:
        add(LimitScope.TENANT, tenant_id, policy.limit((bucket, LimitScope.TENANT), tenant_id))
    add(LimitScope.GLOBAL, "all", policy.limit((bucket, LimitScope.GLOBAL)))
    return rows


def _with_own(limit: Limit | None, own: int | None) -> list[tuple[str, Limit]]:
    """The policy's limit of a key and the key's own, which only ever narrows it: both hold unless one implies the other."""
    named = [("key", limit)] if limit is not None else []
    if own is None or own <= 0:
        return named
    if limit is not None and not limit.shadow and limit.window == WINDOW_SECONDS:
        return [("key", Limit(min(limit.quota, own)))]
    return [*named, ("key-own", Limit(own))]
