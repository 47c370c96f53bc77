from __future__ import annotations

import pytest

from wireroom_common.errors import ErrorKind, not_found


@pytest.mark.parametrize(("what", "code"), [("feed", "feed_not_found"), ("API key", "api_key_not_found")])
def test_codes_are_lower_snake_case_whatever_the_thing_is_called(what: str, code: str) -> None:
    error = not_found(what)
    assert (error.kind, error.code, error.detail) == (ErrorKind.NOT_FOUND, code, f"There is no such {what}.")
