"""Errors as text for logs and dead letters."""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError

from wireroom_common.errors import WireroomError

ERROR_CHARACTERS = 500

_credentials = re.compile(r"://[^/@\s]*@")


def describe_error(error: BaseException) -> str:
    """One short line for logs and dead letters: no parameters of SQL statements, no credentials, no traceback."""
    if isinstance(error, WireroomError):
        line = f"{error.code}: {error.detail}"
    elif isinstance(error, DBAPIError):
        # Its own text holds the statement with its parameters; the driver's first line holds neither.
        line = f"{type(error.orig).__name__}: {_first_line(str(error.orig))}"
    else:
        line = f"{type(error).__name__}: {_first_line(str(error))}"
    return _credentials.sub("://***@", line).replace("\x00", "")[:ERROR_CHARACTERS]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
