"""What to do with users, as administrators say it."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_common.errors import ErrorKind, WireroomError

MANAGE_USERS = "users:manage"
MANAGE_ROLES = "roles:manage"
MANAGE_TENANTS = "tenants:manage"


@dataclass(frozen=True)
class NewUser:
    """An account to be made with a password, with a hash of another system, or with neither."""

    email: str
    name: str
    roles: tuple[str, ...]
    password: str = field(default="", repr=False)
    password_hash: str = field(default="", repr=False)


@dataclass(frozen=True)
class UserChange:
    """What to change; None leaves it as it is."""

    name: str | None = None
    roles: tuple[str, ...] | None = None
    disabled: bool | None = None


def own_account() -> WireroomError:
    """Somebody is about to lock themselves out."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "own_account",
        "You cannot disable or delete the account you are signed in with; ask another administrator.",
    )


def last_admin() -> WireroomError:
    """The change would leave the tenant without anybody who could undo it."""
    return WireroomError(
        ErrorKind.CONFLICT, "last_admin", "This is the tenant's last active Admin; make another user Admin first."
    )


def last_operator() -> WireroomError:
    """The change would leave the installation without an operator."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "last_operator",
        "This would leave the installation without an active platform_admin; make another first.",
    )
