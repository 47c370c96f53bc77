from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_common.setting_types import TextList


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TEXT_LIST_TEST_", frozen=True)

    names: TextList = ("default",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("one", ("one",)),
        ("one, two ,three", ("one", "two", "three")),
        ("one,,two,", ("one", "two")),
        ("[]", ()),
        ('["one"]', ("one",)),
        (' [ "one", "two, with comma" ] ', ("one", "two, with comma")),
        ("[::1]", ("[::1]",)),
        ("[::1],localhost", ("[::1]", "localhost")),
        ("*.example.com,[2001:db8::1]:80", ("*.example.com", "[2001:db8::1]:80")),
    ],
)
def test_a_variable_holds_a_list_with_commas_or_as_json(
    text: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT_LIST_TEST_NAMES", text)
    assert _Settings().names == expected


@pytest.mark.parametrize("text", ['["one"', '["one", 2]', '["one", null]', '["one"] two'])
def test_a_broken_array_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT_LIST_TEST_NAMES", text)
    with pytest.raises(ValidationError, match="names"):
        _Settings()


def test_values_given_in_code_and_the_default_stay() -> None:
    assert _Settings().names == ("default",)
    assert _Settings(names=("a,b", "c")).names == ("a,b", "c")
