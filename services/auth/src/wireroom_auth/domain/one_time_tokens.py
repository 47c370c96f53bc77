"""One-time tokens that are mailed to people or stand between two steps of a login."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum

from wireroom_common.errors import ErrorKind, WireroomError

_FORM = re.compile(r"wr_ot_[A-Za-z0-9_-]{43}")

RESET_LIFE = timedelta(minutes=30)
# Of tokens in mails that nobody waits for.
VERIFY_LIFE = timedelta(days=1)
LOGIN_LIFE = timedelta(minutes=5)
# Wrong codes that one half-finished login takes.
LOGIN_ATTEMPTS = 5


class TokenPurpose(StrEnum):
    """What a token is good for; it is of no use for anything else."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a purpose
    FINISH_LOGIN = "finish_login"


def looks_like_one_time_token(text: str) -> bool:
    """Whether the text has the form of a one-time token."""
    return _FORM.fullmatch(text) is not None


def token_invalid(what: str) -> WireroomError:
    """Unknown, spent, expired or made for something else: all alike. INVALID `one_time_token_invalid`."""
    return WireroomError(
        ErrorKind.INVALID,
        "one_time_token_invalid",
        f"The {what} is not valid: mistyped, already used or expired. Ask for a new one.",
    )
