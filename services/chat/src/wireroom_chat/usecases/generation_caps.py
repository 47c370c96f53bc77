"""How many generations may run at a time for one user and one tenant, in this process."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TypeVar
from uuid import UUID

from wireroom_chat.ports.generations import Generation
from wireroom_common.errors import ErrorKind, WireroomError

UNBOUNDED = sys.maxsize
Key = TypeVar("Key", UUID, tuple[UUID, UUID])


class GenerationCaps:
    """Counts what runs. Nobody takes all connections to the providers from the others."""

    def __init__(self, *, per_user: int, per_tenant: int) -> None:
        self._per_user = per_user
        self._per_tenant = per_tenant
        self._users: Counter[tuple[UUID, UUID]] = Counter()
        self._tenants: Counter[UUID] = Counter()

    def enter(self, generation: Generation, *, adopted: bool = False) -> None:
        """One begins; RATE_LIMITED `too_many_generations` where there are as many as may be. One that is `adopted` is never refused."""
        tenant, user = generation.tenant_id, (generation.tenant_id, generation.user_id)
        if not adopted:
            if self._users[user] >= self._per_user:
                raise _too_many("You have", self._per_user)
            if self._tenants[tenant] >= self._per_tenant:
                raise _too_many("Your organisation has", self._per_tenant)
        self._users[user] += 1
        self._tenants[tenant] += 1

    def leave(self, generation: Generation) -> None:
        """It has ended."""
        _less(self._users, (generation.tenant_id, generation.user_id))
        _less(self._tenants, generation.tenant_id)


def _less(counts: Counter[Key], key: Key) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _too_many(who: str, limit: int) -> WireroomError:
    return WireroomError(
        ErrorKind.RATE_LIMITED,
        "too_many_generations",
        f"{who} {limit} answers under way already, the most that may run at a time; wait until one has ended.",
        retry_after=1.0,
    )
