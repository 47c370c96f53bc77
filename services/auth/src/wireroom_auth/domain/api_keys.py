"""API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from wireroom_auth.domain.identity import User
from wireroom_common.errors import invalid

# The gateway's groups of routes: a key may have a rate of its own for each.
BUCKETS = frozenset({"chat", "api", "news", "upload", "auth"})
LARGEST_LIMIT = 1_000_000
LARGEST_BUDGET = 10**15
LONGEST_OVERLAP = timedelta(days=30)
DEFAULT_OVERLAP = timedelta(days=1)


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. Empty `permissions` stand for all that the owner has at the time of use.

    `limits`: requests per minute by bucket. Budgets are in millionths of the installation's currency; 0 for none.
    `previous_until`: until when the secret that the last rotation replaced is accepted.
    """

    id: UUID
    tenant_id: UUID
    owner_id: UUID
    name: str
    prefix: str
    permissions: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    budget_day_micros: int = 0
    budget_month_micros: int = 0
    signature_required: bool = False
    previous_until: datetime | None = None
    # Grows with each change of what the key may do or what its secret is.
    version: int = 1

    def is_live(self, now: datetime) -> bool:
        """Whether the key may be used, as far as it depends on the key."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class KeySecrets:
    """What is shown once: of a key whose requests are signed the signing secret, of any other the secret itself."""

    secret: str = field(repr=False)
    signing_secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class OwnedKey:
    """A key and its owner, as it was found.

    `until`: when the presented secret itself ends (a replaced one does so before the key). The signing secrets are set for keys
    whose requests are signed, `previous_signing_secret` during a rotation's overlap.
    """

    key: ApiKey
    owner: User
    until: datetime | None = None
    signing_secret: bytes = field(default=b"", repr=False)
    previous_signing_secret: bytes = field(default=b"", repr=False)

    def is_usable(self, now: datetime) -> bool:
        """Whether the key and its owner are what they must be."""
        return self.key.is_live(now) and (self.until is None or now < self.until) and self.owner.disabled_at is None


def check_limits(limits: Mapping[str, int], ceiling: Mapping[str, int] | None) -> dict[str, int]:
    """The limits as they are stored; INVALID for an unknown bucket, a number out of range or above `ceiling` (None: no ceiling)."""
    for bucket, quota in limits.items():
        if bucket not in BUCKETS:
            raise invalid(
                "limit_unknown", f"There is no bucket '{bucket[:32]}'; there are {', '.join(sorted(BUCKETS))}.", field="limits"
            )
        most = LARGEST_LIMIT if ceiling is None else min(LARGEST_LIMIT, ceiling.get(bucket, LARGEST_LIMIT))
        if not 1 <= quota <= most:
            raise invalid(
                "limit_out_of_range", f"The limit of '{bucket}' is 1 to {most} requests per minute here.", field="limits"
            )
    return dict(limits)


def check_budget(micros: int, name: str) -> int:
    """A budget as it is stored; INVALID when it is out of range."""
    if not 0 <= micros <= LARGEST_BUDGET:
        raise invalid("budget_out_of_range", f"A budget is 0 (none) to {LARGEST_BUDGET} millionths.", field=name)
    return micros


def check_overlap(seconds: int | None) -> timedelta:
    """How long a replaced secret stays valid: a day if nothing is said. INVALID when out of range."""
    if seconds is None:
        return DEFAULT_OVERLAP
    if not 0 <= seconds <= LONGEST_OVERLAP.total_seconds():
        raise invalid(
            "overlap_out_of_range",
            f"The old secret may stay valid for 0 to {int(LONGEST_OVERLAP.total_seconds())} seconds.",
            field="overlap_seconds",
        )
    return timedelta(seconds=seconds)
