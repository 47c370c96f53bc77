"""Providers, their models and prices, and the names under which they are offered: one immutable snapshot of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Wire(StrEnum):
    """Which API a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Strategy(StrEnum):
    """In which order the candidates of an alias are tried. Unhealthy ones always come last."""

    ORDERED = "ordered"
    WEIGHTED = "weighted"
    CHEAPEST = "cheapest"
    LOWEST_LATENCY = "lowest_latency"


@dataclass(frozen=True)
class Price:
    """Micro-units (millionths of the currency unit) for a million tokens. `version` names the price list in the ledger."""

    input_micros: int
    output_micros: int
    version: str = ""
    # Of prompt tokens that the provider had in its cache; None: as `input_micros`.
    cached_input_micros: int | None = None


FREE = Price(0, 0, "free")


@dataclass(frozen=True)
class ProviderModel:
    """A model of a provider; `name` is the provider's own name for it. `price` None: unknown, which is never free."""

    provider: str
    name: str
    price: Price | None = None
    context_tokens: int = 0
    max_output_tokens: int = 0
    # Whether it goes on with a last message of the assistant's by itself.
    prefill: bool = False
    # Whether its provider keeps what it is told inside the house.
    local: bool = False
    # "chat", "embeddings"
    purposes: frozenset[str] = frozenset({"chat"})

    @property
    def id(self) -> str:
        """The name under which it is offered."""
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True)
class Candidate:
    """One way to an answer: a model through one of its provider's keys. `key` names the key, it is not the key."""

    model: ProviderModel
    key: str = ""
    weight: int = 1

    @property
    def label(self) -> str:
        """For paths, logs and records."""
        return self.model.id


@dataclass(frozen=True)
class Alias:
    """A name for several models. `tenants` empty: offered to all."""

    name: str
    candidates: tuple[Candidate, ...]
    strategy: Strategy = Strategy.ORDERED
    tenants: frozenset[str] = field(default_factory=frozenset)
