from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from wireroom_common.errors import OperatorError
from wireroom_common.runtime.secret_strength import estimated_bits, weakness
from wireroom_common.runtime.secrets import master_secret
from wireroom_common.runtime.settings import RuntimeSettings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("short", "5 bytes"),
        ("h8Kq2vXz9LmN4pRt7wYbD1cFgJs3aE6", "31 bytes"),
        ("a" * 64, "repeats"),
        ("ab" * 32, "repeats"),
        ("Xk7#pQ2z" * 6, "repeats"),
        ("1234567890" * 4, "repeats"),
        ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "repeats"),
        ("aaaabbbbccccddddeeeeffffgggghhhhiiiijjjjkkkk", "repeats"),
        ("zyxwvutsrqponmlkjihgfedcba9876543210", "repeats"),
        ("changeme-changeme-changeme-changeme", "sample"),
        ("your-secret-key-change-this-in-production", "sample"),
        ("YOUR_SUPER_SECRET_JWT_KEY_MIN_32_CHARS!!", "sample"),
        ("please Change This to something 0f y0ur own", "sample"),
        ("JWT_SECRET=h8Kq2vXz9LmN4pRt7wYbD1cFgJs3aE6u", "sample"),
        ("0123456789abcdef0123456789abcdef", "sample"),
        ("$(openssl rand -base64 48)_h8Kq2vXz9LmN4p", "sample"),
        ("qwertyuiopasdfghjklzxcvbnm1234567890", "sample"),
        ("wireroom-h8Kq2vXz9LmN4pRt7wYbD1cFgJs3aE6", "sample"),
    ],
)
def test_weak_secrets_stop_the_start_with_a_reason(value: str, reason: str) -> None:
    with pytest.raises(OperatorError, match=reason) as refused:
        master_secret(RuntimeSettings(environment="production", master_secret=SecretStr(value)))
    assert value not in str(refused.value)
    assert "WIREROOM_MASTER_SECRET" in str(refused.value)


@given(st.binary(min_size=40, max_size=40))
def test_random_bytes_are_judged_without_failing(value: bytes) -> None:
    assert isinstance(weakness(value), str)
    assert estimated_bits(value) <= 8 * len(value)


def test_what_the_documentation_tells_to_make_is_good() -> None:
    for _ in range(300):
        for good in (
            base64.b64encode(secrets.token_bytes(48)),
            secrets.token_hex(32).encode(),
            secrets.token_urlsafe(32).encode(),
        ):
            assert weakness(good) == "", good


def test_no_value_of_our_own_files_is_taken() -> None:
    """Whoever copies a secret from a file of this repository has no secret."""
    texts = [
        path.read_text()
        for path in [
            *ROOT.glob("*.md"),
            *ROOT.glob("docs/**/*.md"),
            *ROOT.glob("deploy/**/*.yaml"),
            *ROOT.glob("services/*/README.md"),
        ]
    ]
    values = {match for text in texts for match in re.findall(r"MASTER_SECRET[\"']?\s*[=:]\s*[\"']?([^\s\"'`,}]+)", text)}
    assert [value for value in values if weakness(value.encode()) == ""] == []


def test_secret_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(secrets.token_urlsafe(48))
    settings = RuntimeSettings(master_secret=SecretStr(secrets.token_urlsafe(48)), master_secret_file=tmp_path / "secret")
    with pytest.raises(OperatorError, match="not both"):
        master_secret(settings)


def test_file_with_a_line_end_is_read_and_a_missing_one_told(tmp_path: Path) -> None:
    good = secrets.token_urlsafe(48)
    (tmp_path / "secret").write_text(good + "\n")
    assert master_secret(RuntimeSettings(environment="production", master_secret_file=tmp_path / "secret")) == good.encode()
    with pytest.raises(OperatorError, match="cannot be read"):
        master_secret(RuntimeSettings(master_secret_file=tmp_path / "missing"))


def test_production_makes_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "master").write_text(secrets.token_urlsafe(48))
    with pytest.raises(OperatorError, match="must be set in production"):
        master_secret(RuntimeSettings(environment="production", data_dir=tmp_path))
