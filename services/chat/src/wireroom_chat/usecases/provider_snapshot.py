"""One state of the configured providers, and what managing them needs from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import SecretStr

from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_chat.domain.providers import Candidate, ProviderModel, Wire
from wireroom_chat.domain.routing import Circuit, Health
from wireroom_chat.ports.providers import ChatProvider


@dataclass(frozen=True)
class NamedKey:
    """A key of a provider; `secret` None for providers that want none."""

    name: str
    secret: SecretStr | None
    weight: int
    source: str


@dataclass(frozen=True)
class ConfiguredProvider:
    """A provider with everything that is needed to call it."""

    name: str
    source: str
    wire: Wire
    base_url: str
    keys: tuple[NamedKey, ...]
    models: tuple[ProviderModel, ...]
    timeouts: ProviderTimeouts
    preset: str = ""
    enabled: bool = True
    problem: str = ""
    local: bool = False


@dataclass(frozen=True)
class Snapshot:
    """One state of the whole configuration. `problems`: what is configured and cannot be used, in sentences."""

    providers: tuple[ConfiguredProvider, ...]
    catalogue: Catalogue
    alias_sources: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class ListingProvider(ChatProvider, Protocol):
    """A provider that can be asked what it offers."""

    async def models(self) -> Sequence[str]:
        """The names of its models; a call that costs nothing."""


class ManagedDirectory(Protocol):
    """The configuration in force."""

    def snapshot(self) -> Snapshot:
        """As it was read last; no I/O."""

    async def poll(self) -> None:
        """Read what changed."""

    def provider(self, candidate: Candidate) -> ListingProvider:
        """The client of a provider through a key."""


class ConfigStore(Protocol):
    """What is managed by API. Each change is one transaction with its events; NOT_FOUND for what is not there."""

    async def put_provider(self, name: str, document: Mapping[str, Any], values: Mapping[str, str], actor: str) -> None:
        """Write a provider and the key values given."""

    async def delete_provider(self, name: str, actor: str) -> None:
        """Take it away with its keys."""

    async def put_alias(self, name: str, document: Mapping[str, Any], actor: str) -> None:
        """Write an alias."""

    async def delete_alias(self, name: str, actor: str) -> None:
        """Take it away."""


class HealthView(Protocol):
    """What is known of candidates."""

    @property
    def shared(self) -> bool:
        """Whether the replicas exchange what they know."""

    def health(self, candidate: Candidate) -> tuple[Health, Circuit, float]:
        """Its state, its circuit, and the seconds for which it is blocked."""
