"""The policy: bucket by scope → requests per window, with rows of their own for tenants and keys. Every row that applies must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.networks import AllowList

WINDOW_SECONDS = 60
MAX_QUOTA = 10_000_000


class LimitScope(StrEnum):
    """Whom a row counts. `ip` binds anonymous callers only; `tenant` and `global` bind all."""

    IP = "ip"
    USER = "user"
    KEY = "key"
    TENANT = "tenant"
    GLOBAL = "global"


# A refusal by one of these is the caller's own doing. Rows that many share refuse those, too, who asked for little.
OWN_SCOPES = frozenset({LimitScope.IP, LimitScope.USER, LimitScope.KEY})


class Limit(NamedTuple):
    """At most `quota` requests in any `window` seconds. `shadow`: counted and measured, but nothing is refused."""

    quota: int
    window: int = WINDOW_SECONDS
    shadow: bool = False


Row = tuple[Bucket, LimitScope]
PolicyTable = Mapping[Row, Limit]
# None removes the row.
Overrides = Mapping[Row, Limit | None]

_PER_MINUTE: Mapping[Bucket, tuple[int, int, int, int]] = {
    #                ip   user/key tenant  global
    Bucket.CHAT: (10, 60, 1_000, 6_000),
    Bucket.API: (100, 600, 1_000, 30_000),
    Bucket.NEWS: (200, 1_200, 1_000, 30_000),
    Bucket.UPLOAD: (10, 60, 1_000, 3_000),
    Bucket.AUTH: (5, 60, 1_000, 3_000),
}

# While the shared store is away these are refused instead of counted locally: guessing passwords must not get cheaper.
FAIL_CLOSED = frozenset({Bucket.AUTH})


@dataclass(frozen=True)
class BlockRule:
    """`violations` refusals of one caller within `window` seconds block that caller for `ttl` seconds."""

    enabled: bool = True
    violations: int = 100
    window: int = 600
    ttl: int = 3_600


@dataclass(frozen=True)
class Policy:
    """What holds at a time. `tenants` by tenant id, `keys` by key id; a key's rows win over its tenant's."""

    table: PolicyTable
    tenants: Mapping[str, Overrides] = field(default_factory=dict)
    keys: Mapping[str, Overrides] = field(default_factory=dict)
    allow: AllowList = field(default_factory=AllowList)
    blocks: BlockRule = field(default_factory=BlockRule)

    def limit(self, row: Row, tenant_id: str = "", key_id: str = "") -> Limit | None:
        """The limit of a row for a caller; None if there is none."""
        if key_id and self.keys:
            own = self.keys.get(key_id)
            if own is not None and row in own:
                return own[row]
        if tenant_id and self.tenants:
            special = self.tenants.get(tenant_id)
            if special is not None and row in special:
                return special[row]
        return self.table.get(row)


def default_table() -> dict[Row, Limit]:
    """What holds without any setting."""
    table: dict[Row, Limit] = {}
    for bucket, (ip, signed_in, tenant, everyone) in _PER_MINUTE.items():
        table[bucket, LimitScope.IP] = Limit(ip)
        table[bucket, LimitScope.USER] = Limit(signed_in)
        table[bucket, LimitScope.KEY] = Limit(signed_in)
        table[bucket, LimitScope.TENANT] = Limit(tenant)
        table[bucket, LimitScope.GLOBAL] = Limit(everyone)
    return table


def policy_table(
    overrides: Mapping[str, int],
    *,
    chat_per_address: int | None = None,
    api_per_address: int | None = None,
    api_window: int | None = None,
) -> PolicyTable:
    """The defaults, then the three short settings, then `overrides` ("chat.ip" → quota; 0 removes the row).

    ValueError for an unknown name.
    """
    table = default_table()
    if chat_per_address is not None:
        table[Bucket.CHAT, LimitScope.IP] = Limit(chat_per_address)
    if api_per_address is not None or api_window is not None:
        quota = api_per_address if api_per_address is not None else table[Bucket.API, LimitScope.IP].quota
        table[Bucket.API, LimitScope.IP] = Limit(quota, api_window or WINDOW_SECONDS)
    for name, quota in overrides.items():
        bucket_name, _, scope_name = name.partition(".")
        try:
            row = (Bucket(bucket_name), LimitScope(scope_name))
        except ValueError:
            raise ValueError(f"limit_overrides: '{name}' is not <bucket>.<scope> of the policy table") from None
        if not 0 <= quota <= MAX_QUOTA:
            raise ValueError(f"limit_overrides: '{name}' must not be negative, nor above {MAX_QUOTA}")
        if quota == 0:
            table.pop(row)
        else:
            table[row] = Limit(quota)
    return table


def with_overrides(table: PolicyTable, overrides: Overrides) -> PolicyTable:
    """`table` with rows replaced or removed."""
    merged: dict[Row, Limit | None] = {**table, **overrides}
    return {row: limit for row, limit in merged.items() if limit is not None}
