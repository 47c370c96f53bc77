from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_common.runtime.config_check import SettingsError, describe, load
from wireroom_common.runtime.secrets import keep_once, master_secret
from wireroom_common.runtime.settings import RuntimeSettings

STRONG = "k3Jx9-Qm2Lz7_Vb5Tn8Wc1Rf6Yh4Pd0Sg"


class Sample(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="WIREROOM_SAMPLE_", frozen=True, extra="ignore")

    size: int = Field(3, ge=1, description="how many")
    key: SecretStr | None = Field(None, description="a secret")
    depth: int = Field(
        1, validation_alias=AliasChoices("wireroom_sample_depth", "sample_depth"), description="also read without the prefix"
    )


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WIREROOM_SAMPLE_SIZE", "WIREROOM_SAMPLE_KEY", "WIREROOM_MASTER_SECRET", "WIREROOM_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("WIREROOM_SAMPLE_SIZE=5\nWIREROOM_SAMPLE_KEY=from-file\n")
    monkeypatch.setenv("WIREROOM_SAMPLE_SIZE", "7")
    sample = load(Sample, env_file)
    lines = {line.name: line for line in describe([sample], env_file)}
    assert (lines["WIREROOM_SAMPLE_SIZE"].value, lines["WIREROOM_SAMPLE_SIZE"].source) == ("7", "environment")
    assert lines["WIREROOM_SAMPLE_KEY"].source == str(env_file)
    assert "from-file" not in lines["WIREROOM_SAMPLE_KEY"].value
    monkeypatch.delenv("WIREROOM_SAMPLE_SIZE")
    assert describe([Sample()], None)[0].source == "default"


def test_unusable_value_names_the_variable_and_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIREROOM_SAMPLE_SIZE", "many-secrets")
    with pytest.raises(SettingsError) as caught:
        load(Sample, None)
    assert "WIREROOM_SAMPLE_SIZE" in str(caught.value)
    assert "many-secrets" not in str(caught.value)


def test_a_setting_with_two_names_is_shown_and_told_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_DEPTH", "4")
    line = next(line for line in describe([load(Sample, None)], None) if line.name == "WIREROOM_SAMPLE_DEPTH")
    assert (line.value, line.source) == ("4", "environment")
    monkeypatch.setenv("WIREROOM_SAMPLE_DEPTH", "deep")
    with pytest.raises(SettingsError) as caught:
        load(Sample, None)
    assert str(caught.value).splitlines()[1].startswith("  WIREROOM_SAMPLE_DEPTH: ")


@pytest.mark.parametrize("weak", ["short", "a" * 64, "changeme" * 8, "my-secret-my-secret-my-secret-my-secret"])
def test_weak_master_secret_stops_the_start(weak: str) -> None:
    with pytest.raises(RuntimeError, match="weak"):
        master_secret(RuntimeSettings(master_secret=SecretStr(weak)))


def test_production_demands_a_master_secret(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="WIREROOM_MASTER_SECRET"):
        master_secret(RuntimeSettings(environment="production", data_dir=tmp_path))
    assert master_secret(RuntimeSettings(environment="production", master_secret=SecretStr(STRONG))) == STRONG.encode()


def test_secret_is_made_once_and_private(tmp_path: Path) -> None:
    settings = RuntimeSettings(data_dir=tmp_path)
    first = master_secret(settings)
    assert master_secret(settings) == first
    assert (tmp_path / "secrets" / "master").stat().st_mode & 0o777 == 0o600
    assert keep_once(tmp_path / "secrets" / "master", lambda: b"another") == first
