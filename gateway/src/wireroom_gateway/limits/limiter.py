"""Applies the policy table to a request, and decides what happens while the shared store is away."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.policy import FAIL_CLOSED, LimitScope, PolicyTable
from wireroom_gateway.limits.store import Counter, CounterStore, Verdict
from wireroom_gateway.metrics import GatewayMetrics

# After a failure the shared store is left alone for a moment: not every request shall wait for its time-out.
_RETRY_AFTER = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class Decision:
    """The outcome for a request. `local`: the shared store was away. `rows` in the order of the verdict's states."""

    verdict: Verdict
    rows: Sequence[tuple[Bucket, LimitScope]]
    local: bool


class Limiter:
    """Charges requests. `shared` counts over all replicas; `local` is its stand-in with this replica's share."""

    def __init__(
        self,
        table: PolicyTable,
        shared: CounterStore,
        local: CounterStore,
        clock: Clock,
        metrics: GatewayMetrics,
        *,
        timeout: float,
    ) -> None:
        self._table = table
        self._shared = shared
        self._local = local
        self._clock = clock
        self._metrics = metrics
        self._timeout = timeout
        self._away_until = 0.0

    @property
    def degraded(self) -> bool:
        """Whether the shared store failed just now."""
        return self._clock.monotonic() < self._away_until

    async def charge(self, bucket: Bucket, principal: Principal, client_ip: str) -> Decision | None:
        """None if no row applies; UNAVAILABLE if the bucket may only be counted in the shared store and that is away."""
        rows, counters = self._rows(bucket, principal, client_ip)
        if not counters:
            return None
        if not self.degraded:
            try:
                async with asyncio.timeout(self._timeout):
                    verdict = await self._shared.take(counters)
            except (RedisError, OSError, TimeoutError) as error:
                if not self.degraded:
                    _log.warning("limit_store_away", reason=type(error).__name__)
                self._away_until = self._clock.monotonic() + _RETRY_AFTER
            else:
                return Decision(verdict, rows, local=False)
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
        self, bucket: Bucket, principal: Principal, client_ip: str
    ) -> tuple[list[tuple[Bucket, LimitScope]], list[Counter]]:
        subjects: dict[LimitScope, str] = {}
        if principal.kind is PrincipalKind.API_KEY:
            subjects[LimitScope.KEY] = principal.credential_id
        elif principal.kind is PrincipalKind.USER:
            subjects[LimitScope.USER] = principal.subject
        else:
            subjects[LimitScope.IP] = _network(client_ip)
        if principal.tenant_id is not None:
            subjects[LimitScope.TENANT] = str(principal.tenant_id)
        subjects[LimitScope.GLOBAL] = "all"
        rows = [(bucket, scope) for scope in subjects if (bucket, scope) in self._table]
        return rows, [Counter(f"{bucket}:{scope}:{subjects[scope]}", self._table[bucket, scope]) for bucket, scope in rows]


def _network(client_ip: str) -> str:
    """IPv6 callers are counted by their /64, which is what one household gets; mapped IPv4 addresses as IPv4."""
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
