"""Which settings apply, and where each value comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from pydantic_settings.exceptions import SettingsError as UnreadableError

from wireroom_common.errors import OperatorError

S = TypeVar("S", bound=BaseSettings)
_credentials = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


@dataclass(frozen=True)
class SettingLine:
    """One setting as shown to an operator; secrets are masked."""

    name: str
    value: str
    source: str
    description: str


class SettingsError(OperatorError):
    """Settings that cannot be used; the message names each variable and what is wrong with it."""


def load(settings: type[S], env_file: Path | None) -> S:
    """The settings from the environment, then `env_file`, then defaults; SettingsError when a value does not fit."""
    prefix = settings.model_config.get("env_prefix", "")
    try:
        return settings(_env_file=env_file)
    except UnreadableError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{prefix}{field[1]}".upper() if field else "A setting"
        raise SettingsError(f"These settings cannot be used:\n  {name}: is not valid JSON") from None
    except ValidationError as error:
        lines = [f"  {_variable(prefix, item['loc'])}: {item['msg']}" for item in error.errors(include_input=False)]
        raise SettingsError("These settings cannot be used:\n" + "\n".join(lines)) from None


def describe(settings: Iterable[BaseSettings], env_file: Path | None) -> list[SettingLine]:
    """Every setting with its value and source: `environment`, the file's name, or `default`."""
    from_file: Mapping[str, str | None] = dotenv_values(env_file) if env_file is not None and env_file.exists() else {}
    environment = {name.upper() for name in os.environ}
    file_names = {name.upper() for name in from_file}
    lines = []
    for instance in settings:
        prefix = instance.model_config.get("env_prefix", "")
        for field, info in type(instance).model_fields.items():
            name = f"{prefix}{field}".upper()
            choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else ()
            names = {name} | {str(choice).upper() for choice in choices}
            source = "environment" if names & environment else str(env_file) if names & file_names else "default"
            value = getattr(instance, field)
            shown = "(set, hidden)" if isinstance(value, SecretStr) and source != "default" else _plain(value)
            lines.append(SettingLine(name, shown, source, info.description or ""))
    return lines


def _variable(prefix: str, location: tuple[int | str, ...]) -> str:
    # A field with several names is told by the first of them, prefix included.
    name = ".".join(map(str, location)).upper()
    return name if name.startswith(prefix.upper()) else f"{prefix}{name}".upper()


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "" if value is None else _credentials.sub(r"\1:***@", str(value))
