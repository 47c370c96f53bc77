"""The closed list of error kinds, and the one exception that carries them.

A `WireroomError` survives an RPC unchanged (kind, code, detail, fields, retry_after). Only the gateway turns it into an HTTP answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class OperatorError(RuntimeError):
    """Something only the operator can put right (a setting, a port, a missing server): shown as one sentence, without a traceback."""


class ErrorKind(StrEnum):
    """What went wrong, as far as a caller may act on it."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    INTERNAL = "internal"


@dataclass(frozen=True)
class FieldProblem:
    """One offending field: a JSON pointer or parameter name, and a sentence."""

    field: str
    message: str


class WireroomError(Exception):
    """An error with a kind, a stable machine-readable `code` and a `detail` that people may see.

    `detail` says what, where and what to do; never internals (no SQL, paths, addresses of other tenants, stack traces).
    """

    def __init__(
        self,
        kind: ErrorKind,
        code: str,
        detail: str,
        *,
        fields: Sequence[FieldProblem] = (),
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(f"{kind.value}/{code}: {detail}")
        self.kind = kind
        self.code = code
        self.detail = detail
        self.fields = tuple(fields)
        self.retry_after = retry_after


def invalid(code: str, detail: str, *, field: str | None = None) -> WireroomError:
    """An INVALID error, optionally naming the one field at fault."""
    fields = (FieldProblem(field, detail),) if field else ()
    return WireroomError(ErrorKind.INVALID, code, detail, fields=fields)


def not_found(what: str) -> WireroomError:
    """A NOT_FOUND error: there is no such thing, or the caller may not know of it. For "API key" the code is `api_key_not_found`."""
    return WireroomError(
        ErrorKind.NOT_FOUND, f"{re.sub(r'[^a-z0-9]+', '_', what.lower())}_not_found", f"There is no such {what}."
    )
