"""The policy table: bucket by scope → requests per window. Every row that applies must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from wireroom_gateway.access import Bucket

WINDOW_SECONDS = 60


class LimitScope(StrEnum):
    """Whom a row counts. `ip` binds anonymous callers only; `tenant` and `global` bind all."""

    IP = "ip"
    USER = "user"
    KEY = "key"
    TENANT = "tenant"
    GLOBAL = "global"


@dataclass(frozen=True)
class Limit:
    """At most `quota` requests in any `window` seconds."""

    quota: int
    window: int = WINDOW_SECONDS


PolicyTable = Mapping[tuple[Bucket, LimitScope], Limit]

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


def policy_table(overrides: Mapping[str, int]) -> PolicyTable:
    """The defaults with `overrides` ("chat.ip" → quota; 0 removes the row). ValueError for an unknown name."""
    table: dict[tuple[Bucket, LimitScope], Limit] = {}
    for bucket, (ip, signed_in, tenant, everyone) in _PER_MINUTE.items():
        table[bucket, LimitScope.IP] = Limit(ip)
        table[bucket, LimitScope.USER] = Limit(signed_in)
        table[bucket, LimitScope.KEY] = Limit(signed_in)
        table[bucket, LimitScope.TENANT] = Limit(tenant)
        table[bucket, LimitScope.GLOBAL] = Limit(everyone)
    for name, quota in overrides.items():
        bucket_name, _, scope_name = name.partition(".")
        try:
            row = (Bucket(bucket_name), LimitScope(scope_name))
        except ValueError:
            raise ValueError(f"limit_overrides: '{name}' is not <bucket>.<scope> of the policy table") from None
        if quota < 0:
            raise ValueError(f"limit_overrides: '{name}' must not be negative")
        if quota == 0:
            table.pop(row)
        else:
            table[row] = Limit(quota)
    return table
