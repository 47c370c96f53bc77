"""Invitations: who has the token may make an account with the roles that it carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from wireroom_auth.domain.permissions import GRANTS, Role
from wireroom_common.errors import ErrorKind, WireroomError, invalid

DEFAULT_LIFE = timedelta(days=7)
SHORTEST_LIFE = timedelta(minutes=5)
LONGEST_LIFE = timedelta(days=30)


@dataclass(frozen=True)
class Invitation:
    """An invitation without its token. `by_operator`: made by an operator from outside the tenant."""

    id: UUID
    tenant_id: UUID
    email: str
    roles: tuple[str, ...]
    invited_by: UUID
    by_operator: bool
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None = None


def life(ttl_seconds: int) -> timedelta:
    """How long an invitation lives; 0 stands for the default. INVALID outside of 5 minutes to 30 days."""
    if ttl_seconds == 0:
        return DEFAULT_LIFE
    if not SHORTEST_LIFE.total_seconds() <= ttl_seconds <= LONGEST_LIFE.total_seconds():
        raise invalid(
            "ttl_out_of_range",
            "An invitation lives 5 minutes to 30 days: a number of seconds, 0 for 7 days.",
            field="ttl_seconds",
        )
    return timedelta(seconds=ttl_seconds)


def check_operators_roles(roles: tuple[str, ...]) -> None:
    """INVALID unless an operator may invite into another tenant with these roles: an Admin, who then decides on everybody else."""
    if Role.ADMIN not in roles or any(role not in GRANTS or role == Role.PLATFORM_ADMIN for role in roles):
        raise invalid(
            "roles_not_for_new_tenant",
            "Into another tenant only its first Admin is invited, with built-in roles of a tenant; the Admin invites everybody else.",
            field="roles",
        )


def tenant_has_admin() -> WireroomError:
    """An operator stays out of a tenant that can look after itself."""
    return WireroomError(
        ErrorKind.CONFLICT, "tenant_has_admin", "This tenant has an Admin, who invites everybody else; operators stay outside."
    )


def invitation_invalid() -> WireroomError:
    """The token is of no use (any more), whatever the reason."""
    return WireroomError(
        ErrorKind.FORBIDDEN,
        "invitation_invalid",
        "The invitation is not valid: mistyped, expired, used, withdrawn, or made for another e-mail address. Ask for a new one.",
    )
