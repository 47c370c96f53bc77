"""Who a call is made for, and how servicers ask for it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError


class PrincipalKind(StrEnum):
    """What kind of caller it is."""

    USER = "user"
    API_KEY = "api_key"
    SERVICE = "service"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Principal:
    """A verified caller. `subject` is a user's UUID (for keys: the owner's), or a service's name."""

    kind: PrincipalKind
    subject: str = ""
    tenant_id: UUID | None = None
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    credential_id: str = ""
    epoch: int = 0
    # Of the tenant. Known where the credential was checked; it does not travel with calls.
    tenant_epoch: int = 0

    @cached_property
    def tenant_text(self) -> str:
        """The tenant's id as text; empty if there is none. Made once: every request needs it several times."""
        return str(self.tenant_id) if self.tenant_id is not None else ""

    def tenant(self) -> UUID:
        """The tenant, for calls that make no sense without one (FORBIDDEN then)."""
        if self.tenant_id is None:
            raise WireroomError(ErrorKind.FORBIDDEN, "tenant_required", "This operation needs a caller that belongs to a tenant.")
        return self.tenant_id

    def user_id(self) -> UUID:
        """The user behind the call; FORBIDDEN for services and anonymous callers."""
        if self.kind not in (PrincipalKind.USER, PrincipalKind.API_KEY):
            raise WireroomError(ErrorKind.FORBIDDEN, "user_required", "This operation needs a signed-in user or an API key.")
        return UUID(self.subject)

    def require(self, permission: str) -> None:
        """FORBIDDEN unless the principal holds `permission`. Services act with their own code and hold none."""
        if permission not in self.permissions:
            raise WireroomError(
                ErrorKind.FORBIDDEN, "permission_missing", f"The permission '{permission}' is needed for this operation."
            )


ANONYMOUS = Principal(PrincipalKind.ANONYMOUS)

_current: ContextVar[Principal | None] = ContextVar("wireroom_principal", default=None)


def current_principal() -> Principal:
    """The principal of the call being served (set by the RPC server after its signature was checked)."""
    principal = _current.get()
    if principal is None:
        raise WireroomError(ErrorKind.UNAUTHENTICATED, "principal_missing", "The call carries no principal.")
    return principal


def set_current_principal(principal: Principal | None) -> None:
    """For the RPC server, and for background work that calls other services as the service itself."""
    _current.set(principal)
