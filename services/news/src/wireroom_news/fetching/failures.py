"""Why a feed could not be had."""

from __future__ import annotations

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError


class FeedError(Exception):
    """A fetch or parse that failed. `status` is the HTTP status, 0 if there was none; `retry_after` in seconds."""

    def __init__(self, code: str, detail: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after

    def as_refusal(self) -> WireroomError:
        """For a caller who named the address: INVALID, the field is `url`."""
        return WireroomError(ErrorKind.INVALID, self.code, self.detail, fields=(FieldProblem("url", self.detail),))
