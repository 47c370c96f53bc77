"""The one table of roles. `all` is one more row: every role in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from wireroom.demo import DEMO_ADDRESS
from wireroom_common.bus import Catalogue
from wireroom_common.runtime.config_check import load
from wireroom_common.runtime.process import Module
from wireroom_common.runtime.service import Infra, Service
from wireroom_common.runtime.settings import RuntimeSettings
from wireroom_protos.events.v1 import events_pb2

CATALOGUE = Catalogue.from_files(events_pb2.DESCRIPTOR)


@dataclass(frozen=True)
class Row:
    """How a role's settings are read and how it is built."""

    settings: type[BaseSettings]
    build: Callable[[Any, Infra], Service]


def settings_of(roles: Sequence[str], runtime: RuntimeSettings, env_file: Path | None) -> dict[str, BaseSettings]:
    """Each role's settings; SettingsError when a value does not fit."""
    return {role: _with_defaults(role, load(_row(role).settings, env_file), runtime) for role in roles}


def modules(settings: dict[str, BaseSettings]) -> list[Module]:
    """What the runtime runs."""

    def module(role: str) -> Module:
        return Module(role, lambda infra: _row(role).build(settings[role], infra))

    return [module(role) for role in settings]


def _with_defaults(role: str, settings: BaseSettings, runtime: RuntimeSettings) -> BaseSettings:
    """Defaults that depend on where the whole installation runs; what is set explicitly stays."""
    given = settings.model_fields_set
    updates: dict[str, object] = {}
    if role == "news" and runtime.database_url == "embedded:" and "allowed_private_hosts" not in given:
        updates["allowed_private_hosts"] = (DEMO_ADDRESS,)
    built = Path(".build/models")
    if role == "rag" and "model_dir" not in given and built.is_dir():
        updates["model_dir"] = built.resolve()
    return settings.model_copy(update=updates) if updates else settings


def _row(role: str) -> Row:
    # Imported here so that a process of one role loads the code of that role only.
    match role:
        case "auth":
            from wireroom_auth import app as auth  # noqa: PLC0415
            from wireroom_auth.settings import AuthSettings  # noqa: PLC0415

            return Row(AuthSettings, auth.build)
        case "monitoring":
            from wireroom_monitoring import app as monitoring  # noqa: PLC0415
            from wireroom_monitoring.settings import MonitoringSettings  # noqa: PLC0415

            return Row(MonitoringSettings, monitoring.build)
        case "news":
            from wireroom_news import app as news  # noqa: PLC0415
            from wireroom_news.settings import NewsSettings  # noqa: PLC0415

            return Row(NewsSettings, news.build)
        case "rag":
            from wireroom_rag import app as rag  # noqa: PLC0415
            from wireroom_rag.settings import RagSettings  # noqa: PLC0415

            return Row(RagSettings, rag.build)
        case "chat":
            from wireroom_chat import app as chat  # noqa: PLC0415
            from wireroom_chat.settings import ChatSettings  # noqa: PLC0415

            return Row(ChatSettings, chat.build)
        case "gateway":
            from wireroom_gateway import app as gateway  # noqa: PLC0415
            from wireroom_gateway.settings import GatewaySettings  # noqa: PLC0415

            return Row(GatewaySettings, gateway.build)
        case _:
            msg = f"There is no role '{role}'."
            raise ValueError(msg)
