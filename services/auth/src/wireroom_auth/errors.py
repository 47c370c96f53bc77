"""The errors of this service that more than one place raises."""

from __future__ import annotations

from wireroom_common.errors import ErrorKind, WireroomError


def registration_closed() -> WireroomError:
    """Nobody may register without a token."""
    return WireroomError(
        ErrorKind.FORBIDDEN,
        "registration_closed",
        "Registration needs the one-time admin token that the server printed at its first start.",
    )


def admin_token_invalid() -> WireroomError:
    """A wrong or spent admin token."""
    return WireroomError(
        ErrorKind.FORBIDDEN,
        "admin_token_invalid",
        "The admin token is wrong, replaced by a newer one, or already used; `wireroom admin-token` makes a new one.",
    )


def email_taken() -> WireroomError:
    """The address has an account. Only told to callers who may register."""
    return WireroomError(
        ErrorKind.CONFLICT, "email_taken", "There is an account with this e-mail address; sign in or use another address."
    )


def invalid_credentials() -> WireroomError:
    """A failed login, whatever the reason."""
    return WireroomError(ErrorKind.UNAUTHENTICATED, "invalid_credentials", "The e-mail address or the password is wrong.")


def session_ended() -> WireroomError:
    """The refresh token is of no use (any more)."""
    return WireroomError(
        ErrorKind.UNAUTHENTICATED,
        "refresh_token_invalid",
        "The session has ended or the refresh token is not valid; sign in again.",
    )


def account_unavailable() -> WireroomError:
    """The caller's account is gone or disabled since its token was issued."""
    return WireroomError(
        ErrorKind.UNAUTHENTICATED, "account_unavailable", "This account is not available any more; sign in again."
    )


def mail_not_configured() -> WireroomError:
    """The installation sends no mail."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "mail_not_configured",
        "This installation sends no mail, which this needs; ask its administrator.",
    )
