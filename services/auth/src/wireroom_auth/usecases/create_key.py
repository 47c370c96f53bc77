"""Make an API key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from wireroom_auth.domain.api_keys import ApiKey, KeySecrets, check_budget
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import KeyTerms, key_name, new_secrets
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal

_LONGEST_TTL = timedelta(days=3650)


@dataclass(frozen=True)
class KeyRequest:
    """What the owner asks for; `ttl_seconds` 0 for no expiry."""

    name: str
    permissions: Sequence[str] = ()
    ttl_seconds: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    budget_day_micros: int = 0
    budget_month_micros: int = 0
    signature_required: bool = False


class CreateKey:
    """A key never holds more than its owner, and a key makes no keys."""

    def __init__(self, terms: KeyTerms, keys: ApiKeys, clock: Clock, *, max_live: int) -> None:
        self._terms = terms
        self._keys = keys
        self._clock = clock
        self._max_live = max_live

    async def run(self, caller: Principal, request: KeyRequest) -> tuple[ApiKey, KeySecrets]:
        """The key and its secrets, which are not kept. INVALID for bad fields, FORBIDDEN for more than the owner has."""
        owner = await self._terms.owner(caller)
        if not 0 <= request.ttl_seconds <= _LONGEST_TTL.total_seconds():
            raise invalid(
                "ttl_out_of_range", "The lifetime is a number of seconds up to ten years; 0 for no expiry.", field="ttl_seconds"
            )
        prefix, secrets = new_secrets(signing=request.signature_required)
        now = self._clock.now()
        key = ApiKey(
            id=new_id(),
            tenant_id=owner.tenant_id,
            owner_id=owner.id,
            name=key_name(request.name),
            prefix=prefix,
            permissions=self._terms.permissions(owner, request.permissions),
            created_at=now,
            expires_at=now + timedelta(seconds=request.ttl_seconds) if request.ttl_seconds else None,
            limits=self._terms.limits(owner, request.limits),
            budget_day_micros=check_budget(request.budget_day_micros, "budget_day_micros"),
            budget_month_micros=check_budget(request.budget_month_micros, "budget_month_micros"),
            signature_required=request.signature_required,
        )
        await self._keys.add(key, secrets, max_live=self._max_live)
        return key, secrets
