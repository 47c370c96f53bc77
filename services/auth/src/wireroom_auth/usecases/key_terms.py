"""What those who make and change API keys may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wireroom_auth.domain.api_keys import KeySecrets, check_limits
from wireroom_auth.domain.credentials import new_api_key, new_signing_secret
from wireroom_auth.domain.identity import User, normalise_name
from wireroom_auth.domain.permissions import ALL_PERMISSIONS
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.principal import Principal, PrincipalKind

MANAGE_OWN = "apikeys:manage:own"
MANAGE_TENANT = "apikeys:manage:tenant"


@dataclass(frozen=True)
class KeyTerms:
    """Checks the terms of keys against their owner and the installation's `ceiling` of limits (requests per minute by bucket)."""

    accounts: Accounts
    ceiling: Mapping[str, int]

    async def owner(self, caller: Principal) -> User:
        """The signed-in user whose keys these are; FORBIDDEN for keys, UNAUTHENTICATED when the account is gone."""
        if caller.kind is not PrincipalKind.USER:
            # A key could give itself, or another key of its owner, more than it has.
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "session_required",
                "API keys are made and changed by a signed-in user, not with an API key.",
            )
        caller.require(MANAGE_OWN)
        owner = await self.accounts.get(caller.tenant(), caller.user_id())
        if owner is None or owner.disabled_at is not None:
            raise account_unavailable()
        return owner

    def permissions(self, owner: User, named: Iterable[str]) -> tuple[str, ...]:
        """The named permissions in order; INVALID for unknown ones, FORBIDDEN for what the owner may not give."""
        wanted = frozenset(named)
        if unknown := sorted(wanted - ALL_PERMISSIONS):
            raise invalid("permission_unknown", f"There is no permission '{unknown[0][:64]}'.", field="permissions")
        if exceeding := sorted(wanted - owner.grantable_to_keys):
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "permission_exceeds_owner",
                f"A key can only hold permissions that you hold yourself; '{exceeding[0]}' is not among them.",
            )
        return tuple(sorted(wanted))

    def limits(self, owner: User, wanted: Mapping[str, int]) -> dict[str, int]:
        """The key's own limits; above the ceiling only for those who manage the keys of their tenant."""
        return check_limits(wanted, None if MANAGE_TENANT in owner.permissions else self.ceiling)


def key_name(text: str) -> str:
    """A key's name as it is stored; INVALID without one."""
    name = normalise_name(text)
    if not name:
        raise invalid("name_missing", "Give the key a name, by which you will recognise it in the list.", field="name")
    return name


def new_secrets(*, signing: bool) -> tuple[str, KeySecrets]:
    """The visible prefix and the secrets of a key. With `signing`, the secret is never shown: signatures alone identify the key."""
    fresh = new_api_key()
    return fresh.prefix, KeySecrets(fresh.secret, new_signing_secret() if signing else "")
