"""Applies the policy to a request, and decides what happens while the shared store is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
_NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_log = get_logger(__name__)


@dataclass(frozen=True)
class AppliedRow:
    """A row of the policy as it applies to a caller."""

    bucket: Bucket
    scope: LimitScope
    subject: str
    limit: Limit
    # The name in the answer's head.
    name: str


@dataclass(frozen=True)
class Decision:
    """The outcome for a request. `local`: the shared store was away. `rows` in the order of the verdict's states.

    `blocked`: this refusal was the last straw.
    """

    verdict: Verdict
    rows: Sequence[AppliedRow]
    local: bool
    blocked: bool = False

    @property
    def standing(self) -> Sequence[tuple[AppliedRow, CounterState]]:
        """Each row with its counter."""
        return list(zip(self.rows, self.verdict.states, strict=True))


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
        policy = self._policy()
        rows = _rows(policy, bucket, principal, client_ip, key_limits)
        if not rows:
            return None
        counters = [Counter(f"{bucket}:{row.name}:{row.subject}", row.limit, row.scope in OWN_SCOPES) for row in rows]
        if not self.degraded:
            rule = policy.blocks
            violations = None
            if rule.enabled and client_ip not in policy.allow:
                subject = f"{network_of(client_ip)}:{caller_of(principal)}"
                violations = Violations(subject, rule.violations, rule.window)
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
                return Decision(verdict, rows, local=False, blocked=last_straw)
        self._metrics.limit_fallbacks.inc()
        if bucket in FAIL_CLOSED:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "limits_unavailable",
                "Signing in is not possible at the moment. Try again.",
                retry_after=2.0,
            )
        return Decision(await self._local.take(counters), rows, local=True)


def _rows(
    policy: Policy, bucket: Bucket, principal: Principal, client_ip: str, key_limits: Mapping[str, int]
) -> list[AppliedRow]:
    tenant_id = str(principal.tenant_id) if principal.tenant_id is not None else ""
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
