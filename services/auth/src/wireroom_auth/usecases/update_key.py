"""Change what an API key may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wireroom_auth.domain.api_keys import ApiKey, check_budget
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import KeyTerms, key_name
from wireroom_common.errors import not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal


@dataclass(frozen=True)
class KeyChange:
    """None leaves a thing as it is."""

    name: str | None = None
    permissions: Sequence[str] | None = None
    limits: Mapping[str, int] | None = None
    budget_day_micros: int | None = None
    budget_month_micros: int | None = None


class UpdateKey:
    """Holds for the key's next request: what gateways remember of it is void with the event that tells of the change."""

    def __init__(self, terms: KeyTerms, keys: ApiKeys) -> None:
        self._terms = terms
        self._keys = keys

    async def run(self, caller: Principal, key_id: str, change: KeyChange) -> ApiKey:
        """The changed key; NOT_FOUND unless it is the caller's, else as for a new key."""
        owner = await self._terms.owner(caller)
        changes: dict[str, object] = {}
        if change.name is not None:
            changes["name"] = key_name(change.name)
        if change.permissions is not None:
            changes["permissions"] = self._terms.permissions(owner, change.permissions)
        if change.limits is not None:
            changes["limits"] = self._terms.limits(owner, change.limits)
        for name in ("budget_day_micros", "budget_month_micros"):
            micros = getattr(change, name)
            if micros is not None:
                changes[name] = check_budget(micros, name)
        changed = await self._keys.update(
            owner.tenant_id,
            owner.id,
            parse_id(key_id, "API key"),
            lambda key: replace(key, **changes),  # type: ignore[arg-type]  # the names and types stand above
        )
        if changed is None:
            raise not_found("API key")
        return changed
