"""Make an API key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from wireroom_auth.domain.api_keys import ApiKey
from wireroom_auth.domain.credentials import new_api_key
from wireroom_auth.domain.identity import normalise_name
from wireroom_auth.domain.permissions import ALL_PERMISSIONS, grantable_to_keys
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind

MANAGE_OWN = "apikeys:manage:own"
_LONGEST_TTL = timedelta(days=3650)


class CreateKey:
    """A key never holds more than its owner, and a key makes no keys."""

    def __init__(self, accounts: Accounts, keys: ApiKeys, clock: Clock, *, max_live: int) -> None:
        self._accounts = accounts
        self._keys = keys
        self._clock = clock
        self._max_live = max_live

    async def run(self, caller: Principal, name: str, permissions: Sequence[str], ttl_seconds: int) -> tuple[ApiKey, str]:
        """The key and its secret, which is not kept. INVALID for bad fields, FORBIDDEN for more than the owner has."""
        if caller.kind is not PrincipalKind.USER:
            # An unrestricted key would get all that its owner has: more, perhaps, than the key that asks for it.
            raise WireroomError(
                ErrorKind.FORBIDDEN, "session_required", "API keys are made by a signed-in user, not with an API key."
            )
        caller.require(MANAGE_OWN)
        name = normalise_name(name)
        if not name:
            raise invalid("name_missing", "Give the key a name, by which you will recognise it in the list.", field="name")
        wanted = frozenset(permissions)
        if unknown := sorted(wanted - ALL_PERMISSIONS):
            raise invalid("permission_unknown", f"There is no permission '{unknown[0][:64]}'.", field="permissions")
        if not 0 <= ttl_seconds <= _LONGEST_TTL.total_seconds():
            raise invalid(
                "ttl_out_of_range", "The lifetime is a number of seconds up to ten years; 0 for no expiry.", field="ttl_seconds"
            )
        owner = await self._accounts.get(caller.tenant(), caller.user_id())
        if owner is None or owner.disabled_at is not None:
            raise account_unavailable()
        if exceeding := sorted(wanted - grantable_to_keys(owner.roles)):
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "permission_exceeds_owner",
                f"A key can only hold permissions that you hold yourself; '{exceeding[0]}' is not among them.",
            )
        now = self._clock.now()
        fresh = new_api_key()
        key = ApiKey(
            id=new_id(),
            tenant_id=owner.tenant_id,
            owner_id=owner.id,
            name=name,
            prefix=fresh.prefix,
            permissions=tuple(sorted(wanted)),
            created_at=now,
            expires_at=now + timedelta(seconds=ttl_seconds) if ttl_seconds else None,
        )
        await self._keys.add(key, fresh.secret, max_live=self._max_live)
        return key, fresh.secret
