"""The command line as an operator uses it: programs, environment variables, output, exit status."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from secrets import token_urlsafe

import pytest

from wireroom.demo.content import ITEMS, rss
from wireroom.roles import ROLES, SCHEMAS


def wireroom(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WIREROOM_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "wireroom", *arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_config_check_shows_values_with_their_sources_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WIREROOM_GATEWAY_PORT=8123\n")
    result = wireroom(
        tmp_path, "config-check", WIREROOM_MASTER_SECRET=f"canary-4711-{token_urlsafe(48)}", WIREROOM_LOG_LEVEL="debug"
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("WIREROOM_GATEWAY_PORT=8123  [.env]") for line in lines)
    assert any(line.startswith("WIREROOM_LOG_LEVEL=DEBUG  [environment]") for line in lines)
    assert any(line.startswith("WIREROOM_BUS_URL=local:  [default]") for line in lines)
    assert any(line.startswith("WIREROOM_MASTER_SECRET=(set, hidden)") for line in lines)
    assert "canary-4711" not in result.stdout


@pytest.mark.parametrize(
    ("environment", "said"),
    [({"WIREROOM_ENVIRONMENT": "production"}, "must be set"), ({"WIREROOM_MASTER_SECRET": "canary-4711-" + "x" * 40}, "weak")],
)
def test_config_check_fails_where_the_master_secret_would_stop_the_start(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    result = wireroom(tmp_path, "config-check", **environment)
    assert result.returncode == 1
    assert said in result.stderr
    assert "canary-4711" not in result.stdout + result.stderr
    assert wireroom(tmp_path, "config-check", "gateway", **environment).returncode == 0


def test_passwords_in_urls_are_hidden_too(tmp_path: Path) -> None:
    result = wireroom(tmp_path, "config-check", "auth", WIREROOM_DATABASE_URL="postgresql://admin:hunter2@db/wireroom")
    assert "postgresql://admin:***@db/wireroom" in result.stdout
    assert "hunter2" not in result.stdout


def test_provider_keys_are_hidden_too(tmp_path: Path) -> None:
    providers = '[{"name": "p", "base_url": "http://127.0.0.1:1/v1", "models": ["m"], "api_key": "sk-canary"}]'
    result = wireroom(tmp_path, "config-check", "chat", WIREROOM_CHAT_PROVIDERS=providers)
    assert result.returncode == 0, result.stderr
    assert "http://127.0.0.1:1/v1" in result.stdout
    assert "sk-canary" not in result.stdout


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WIREROOM_GATEWAY_PORT": "eighty"}, "WIREROOM_GATEWAY_PORT"),
        ({"WIREROOM_LOG_LEVEL": "loud"}, "WIREROOM_LOG_LEVEL"),
        ({"WIREROOM_GATEWAY_LIMIT_OVERRIDES": "{"}, "WIREROOM_GATEWAY_LIMIT_OVERRIDES"),
        ({"WIREROOM_BUS_URL": "kafka://x"}, "WIREROOM_BUS_URL"),
        ({"WIREROOM_RPC_LISTEN": "http://x"}, "WIREROOM_RPC_LISTEN"),
        ({"WIREROOM_RPC_NEWS_URL": "http://x"}, "WIREROOM_RPC_NEWS_URL"),
        ({"WIREROOM_DATABASE_URL": "mysql://x"}, "WIREROOM_DATABASE_URL"),
    ],
)
def test_setting_that_does_not_fit_stops_the_start_and_is_named(tmp_path: Path, environment: dict[str, str], named: str) -> None:
    result = wireroom(tmp_path, "run", "gateway", WIREROOM_REDIS_URL="redis://127.0.0.1:1/0", **environment)
    assert result.returncode == 1
    assert named in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("auth", ["WIREROOM_BUS_URL", "WIREROOM_DATABASE_URL", "WIREROOM_RPC_LISTEN"]),
        (
            "chat",
            [
                "WIREROOM_BUS_URL",
                "WIREROOM_DATABASE_URL",
                "WIREROOM_REDIS_URL",
                "WIREROOM_RPC_LISTEN",
                "WIREROOM_RPC_RAG_URL",
            ],
        ),
        ("gateway", ["WIREROOM_BUS_URL", "WIREROOM_REDIS_URL", *(f"WIREROOM_RPC_{name.upper()}_URL" for name in SCHEMAS)]),
    ],
)
def test_process_of_one_role_needs_the_addresses_of_the_others(tmp_path: Path, role: str, missing: list[str]) -> None:
    result = wireroom(tmp_path, "run", role)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert set(re.findall(r"WIREROOM_\w+", result.stderr)) == set(missing)


def test_sigterm_while_waiting_for_the_database_ends_the_start(tmp_path: Path) -> None:
    assert wireroom(tmp_path, "keys", "keys").returncode == 0
    environment = os.environ | {
        "WIREROOM_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "WIREROOM_BUS_URL": "amqp://127.0.0.1:1/",
        "WIREROOM_RPC_LISTEN": f"grpc:unix:{tmp_path}/auth.sock",
        "WIREROOM_PRINCIPAL_KEYS_DIR": str(tmp_path / "keys"),
        "WIREROOM_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "wireroom", "run", "auth"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting_for_database" in line:
                break
        process.terminate()
        assert process.wait(10) == 0


def test_database_that_is_away_is_one_sentence_for_migrate(tmp_path: Path) -> None:
    result = wireroom(tmp_path, "migrate", WIREROOM_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert result.returncode == 1
    assert "database" in result.stderr
    assert "Traceback" not in result.stderr


def test_join_refuses_an_empty_password_before_it_spends_the_token(tmp_path: Path) -> None:
    result = wireroom(
        tmp_path, "join", "--admin-token", "t", "--email", "a@b.example", "--password-stdin", "--url", "http://127.0.0.1:1"
    )
    assert result.returncode == 1
    assert "no password" in result.stderr


def test_join_shows_the_password_before_it_uses_it(tmp_path: Path) -> None:
    result = wireroom(tmp_path, "join", "--admin-token", "t", "--email", "a@b.example", "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "Your password" in result.stderr
    assert "Nothing answers" in result.stderr


def test_second_process_on_the_same_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    with (tmp_path / ".data" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = wireroom(tmp_path, "run")
    assert result.returncode == 1
    assert "Another process uses" in result.stderr


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    assert wireroom(tmp_path, "keys", "keys").returncode == 0
    first = (tmp_path / "keys" / "gateway.key").read_bytes()
    assert wireroom(tmp_path, "keys", "keys").returncode == 0
    assert (tmp_path / "keys" / "gateway.key").read_bytes() == first
    assert {path.stem for path in (tmp_path / "keys").glob("*.key")} == set(ROLES)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "keys").glob("*.key"))


def test_unknown_schema_is_refused(tmp_path: Path) -> None:
    result = wireroom(tmp_path, "migrate", "payroll")
    assert result.returncode == 1
    assert "payroll" in result.stderr


def test_ask_without_a_key_says_what_to_do(tmp_path: Path) -> None:
    result = wireroom(tmp_path, "ask", "anything")
    assert result.returncode == 1
    assert "wireroom join" in result.stderr


def test_sample_feed_holds_every_item() -> None:
    text = rss("http://127.0.0.1:1")
    assert all(f"http://127.0.0.1:1/articles/{item.slug}" in text for item in ITEMS)


STRONG = "h8Kq2vXz9LmN4pRt7wYbD1cFgJs3aE6uQ0oPiVxZ"


@pytest.mark.parametrize(
    ("content", "arguments", "told"),
    [
        ("", [], "--new-secret-file"),
        ("changeme" * 5, ["--new-secret-file", "new"], "sample value"),
        (STRONG, ["--new-secret-file", "new"], "is the present one"),
        ("", ["--new-secret-file", "missing"], "cannot be read"),
    ],
)
def test_bad_new_master_secret_is_refused_before_anything_is_touched(
    tmp_path: Path, content: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "new").write_text(content)
    result = wireroom(tmp_path, "rotate-master-secret", *arguments, WIREROOM_MASTER_SECRET=STRONG)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert STRONG not in result.stderr
    assert not (tmp_path / ".data").exists()


@pytest.mark.parametrize("command", [["run"], ["rotate-signing-key"]], ids=" ".join)
@pytest.mark.parametrize(
    ("secret", "told"),
    [
        ("your-secret-key-change-this-in-production", "sample value"),
        ("x9" * 20, "repeats itself"),
        ("", "must be set in production"),
    ],
)
def test_bad_master_secret_stops_production_before_anything_is_started(
    tmp_path: Path, command: list[str], secret: str, told: str
) -> None:
    given = {"WIREROOM_MASTER_SECRET": secret} if secret else {}
    result = wireroom(tmp_path, *command, WIREROOM_ENVIRONMENT="production", **given)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".data").exists()
