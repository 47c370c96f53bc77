"""Reading the members of a request body: what does not fit is collected and told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError

_MAX_PROBLEMS = 20


def json_object(body: bytes) -> dict[str, Any]:
    """The object written in `body`; INVALID `json_malformed` otherwise."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireroomError(ErrorKind.INVALID, "json_malformed", "The request body is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise WireroomError(ErrorKind.INVALID, "json_malformed", "The request body must be a JSON object.")
    return raw


class Members:
    """The members of one object. A member that is null counts as left out."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self._problems: list[FieldProblem] = []

    def get(self, name: str) -> Any:
        """As it stands there."""
        return self.raw.get(name)

    def refuse(self, name: str, message: str) -> None:
        """Note what is wrong with a member."""
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(FieldProblem(name, message))

    def check(self) -> None:
        """INVALID `request_invalid` that names every member at fault."""
        if self._problems:
            detail = "; ".join(f"{problem.field}: {problem.message}" for problem in self._problems[:3])
            raise WireroomError(ErrorKind.INVALID, "request_invalid", detail, fields=self._problems)

    def required_text(self, name: str, message: str) -> str:
        """A text that is not empty."""
        value = self.raw.get(name)
        if not isinstance(value, str) or not value.strip():
            self.refuse(name, message)
            return ""
        return value.strip()

    def text(self, name: str, *, longest: int) -> str | None:
        """A text, or None."""
        value = self.raw.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > longest):
            self.refuse(name, f"Must be a text of at most {longest} characters.")
            return None
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "Must be true or false.")
            return default
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number in the bounds, or None."""
        value = self.raw.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
            self.refuse(name, f"Must be a whole number from {low} to {high}.")
            return None
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """One of the texts, or None."""
        value = self.raw.get(name)
        if value is not None and (not isinstance(value, str) or value not in choices):
            self.refuse(name, f"Must be one of {', '.join(choices)}.")
            return None
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object; empty when it is left out."""
        value = self.raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(name, "Must be an object.")
            return {}
        return value
