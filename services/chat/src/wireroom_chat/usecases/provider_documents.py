"""How providers and aliases are written down: one shape for the settings, the file and the API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wireroom_chat.domain.catalogue import BUILT_IN_NAMES, BUILT_IN_PROVIDER
from wireroom_chat.domain.provider_address import check_address
from wireroom_chat.domain.providers import Alias, Candidate, Price, ProviderModel, Strategy, Wire

NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
ALIAS_NAME = r"^[a-z0-9][a-z0-9._:-]{0,79}$"
_MODEL_NAME = r"^[^\s\x00-\x1f\x7f]{1,200}$"
_ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
# The name of the only key of a provider, or of none.
ANONYMOUS_KEY = "default"
MAX_PROVIDERS = 100
MAX_MODELS = 500
MAX_KEYS = 20
MAX_ALIASES = 500
_MAX_CANDIDATES = 50
_MAX_MICROS = 10**12
MAX_KEY = 4096


class Preset(BaseModel):
    """What is known of a provider beforehand."""

    model_config = ConfigDict(frozen=True)

    wire: Wire
    base_url: str
    key_env: str = ""


PRESETS: Mapping[str, Preset] = {
    "openai": Preset(wire=Wire.OPENAI, base_url="https://api.openai.com/v1", key_env="OPENAI_API_KEY"),
    "groq": Preset(wire=Wire.OPENAI, base_url="https://api.groq.com/openai/v1", key_env="GROQ_API_KEY"),
    "openrouter": Preset(wire=Wire.OPENAI, base_url="https://openrouter.ai/api/v1", key_env="OPENROUTER_API_KEY"),
    "huggingface": Preset(wire=Wire.OPENAI, base_url="https://router.huggingface.co/v1", key_env="HF_TOKEN"),
    "anthropic": Preset(wire=Wire.ANTHROPIC, base_url="https://api.anthropic.com/v1", key_env="ANTHROPIC_API_KEY"),
    "ollama": Preset(wire=Wire.OPENAI, base_url="http://127.0.0.1:11434/v1"),
    "vllm": Preset(wire=Wire.OPENAI, base_url="http://127.0.0.1:8001/v1"),
}


class Strict(BaseModel):
    """Unknown members and other types than those named are refused; values do not stand in errors, for they may be keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def _enum(kind: Any) -> BeforeValidator:
    def read(value: object) -> object:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"is not known; there are {', '.join(kind)}") from None

    return BeforeValidator(read)


def _purposes(value: object) -> object:
    if isinstance(value, list) and value and all(item in ("chat", "embeddings") for item in value):
        return frozenset(value)
    raise ValueError("write a list of chat, embeddings or both")


Micros = Annotated[int, Field(ge=0, le=_MAX_MICROS)]


class ModelDocument(Strict):
    """A model. Prices are micro-units (millionths of the currency unit) for a million tokens; both or none."""

    input_micros: Micros | None = None
    output_micros: Micros | None = None
    cached_input_micros: Micros | None = None
    price_version: str = Field("", max_length=100)
    context_tokens: int = Field(0, ge=0, le=100_000_000)
    max_output_tokens: int = Field(0, ge=0, le=10_000_000)
    prefill: bool = False
    purposes: Annotated[frozenset[str], BeforeValidator(_purposes)] | None = None

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        # Embeddings have no output.
        if self.output_micros is not None and self.input_micros is None:
            raise ValueError("write input_micros beside output_micros")
        if self.input_micros is not None and self.output_micros is None and "embeddings" not in (self.purposes or ()):
            raise ValueError("write output_micros beside input_micros")
        return self

    def model(self, provider: str, name: str, *, local: bool = False) -> ProviderModel:
        """The model as the rest of the service knows it."""
        price = None
        if self.input_micros is not None:
            price = Price(self.input_micros, self.output_micros or 0, self.price_version, self.cached_input_micros)
        purposes = self.purposes or frozenset({"embeddings"} if "embed" in name.lower() else {"chat"})
        return ProviderModel(
            provider=provider,
            name=name,
            price=price,
            context_tokens=self.context_tokens,
            max_output_tokens=self.max_output_tokens,
            prefill=self.prefill,
            local=local,
            purposes=purposes,
        )


class KeyDocument(Strict):
    """Where a key is found: an environment variable or a file; without either, it is kept in the database."""

    env: Annotated[str, Field(pattern=_ENVIRONMENT_NAME)] | None = None
    file: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    weight: int = Field(1, ge=0, le=1000)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.env is not None and self.file is not None:
            raise ValueError("write env or file, not both")
        return self


class TimeoutsDocument(Strict):
    """Seconds; what is left out has the service's default."""

    connect: float | None = Field(None, gt=0, le=60)
    first_token: float | None = Field(None, gt=0, le=600)
    idle: float | None = Field(None, gt=0, le=600)
    total: float | None = Field(None, gt=0, le=3600)


def _model_entry(value: object) -> object:
    return {} if value is None else value


_Name = Annotated[str, Field(pattern=NAME)]
_ModelName = Annotated[str, Field(pattern=_MODEL_NAME)]


class ProviderDocument(Strict):
    """A provider. `preset` fills in what is left out."""

    preset: str | None = None
    wire: Annotated[Wire, _enum(Wire)] | None = None
    base_url: str | None = None
    keys: dict[_Name, KeyDocument] = Field(default_factory=dict, max_length=MAX_KEYS)
    models: dict[_ModelName, Annotated[ModelDocument, BeforeValidator(_model_entry)]] = Field(min_length=1, max_length=MAX_MODELS)
    timeouts: TimeoutsDocument = Field(default_factory=lambda: TimeoutsDocument.model_validate({}))
    enabled: bool = True
    # Texts of collections that name `local` may go to it.
    local: bool = False

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            raise ValueError(f"is not known; there are {', '.join(PRESETS)}")
        return value

    @field_validator("base_url")
    @classmethod
    def _usable_address(cls, value: str | None) -> str | None:
        return None if value is None else check_address(value)

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if self.base_url is None and self.preset is None:
            raise ValueError("write base_url, or a preset that knows it")
        return self

    @property
    def address(self) -> str:
        """Up to and with the version."""
        url = self.base_url or PRESETS[self.preset or ""].base_url
        return f"{url}/v1" if self.speaks is Wire.ANTHROPIC and not url.endswith("/v1") else url

    @property
    def speaks(self) -> Wire:
        """The wire."""
        return self.wire or (PRESETS[self.preset].wire if self.preset else Wire.OPENAI)

    def places(self) -> Mapping[str, KeyDocument]:
        """Its keys; a preset's own variable where none is named and the address is the preset's."""
        if self.keys or self.preset is None or self.base_url is not None or not PRESETS[self.preset].key_env:
            return self.keys
        return {ANONYMOUS_KEY: KeyDocument.model_validate({"env": PRESETS[self.preset].key_env})}


def _candidate(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


class CandidateDocument(Strict):
    """A model as `provider/model`; without `key` through all keys of its provider."""

    model: str = Field(min_length=3, max_length=250, pattern=r"^[^/\s]+/\S+$")
    key: str = Field("", max_length=40)
    weight: int = Field(1, ge=0, le=1000)


def _tenants(value: object) -> object:
    try:
        return frozenset(str(UUID(str(item))) for item in value) if isinstance(value, list) else value
    except ValueError:
        raise ValueError("write the ids of tenants as the API shows them, UUIDs") from None


class AliasDocument(Strict):
    """A name for several models. Without `tenants` it is everybody's."""

    candidates: list[Annotated[CandidateDocument, BeforeValidator(_candidate)]] = Field(min_length=1, max_length=_MAX_CANDIDATES)
    strategy: Annotated[Strategy, _enum(Strategy)] = Strategy.ORDERED
    tenants: Annotated[frozenset[str], BeforeValidator(_tenants)] = Field(default_factory=frozenset, max_length=1000)

    def alias(self, name: str, candidates: Mapping[str, list[Candidate]]) -> Alias:
        """The alias over those of its candidates that exist; ValueError names the first that does not."""
        found: list[Candidate] = []
        for entry in self.candidates:
            keys = [item for item in candidates.get(entry.model, ()) if entry.key in ("", item.key)]
            if not keys:
                named = f"the key '{entry.key}' of '{entry.model}'" if entry.key else f"'{entry.model}'"
                raise ValueError(f"the alias '{name}' names {named}, which no enabled provider has")
            found.extend(Candidate(item.model, item.key, item.weight * entry.weight) for item in keys)
        return Alias(name, tuple(found), self.strategy, self.tenants)


def check_provider_name(name: str) -> str:
    """The name of a provider; ValueError for one that cannot be had."""
    if not re.fullmatch(NAME, name) or name == BUILT_IN_PROVIDER:
        raise ValueError("a provider's name has 1 to 40 of a-z 0-9 . _ - and is not 'wireroom'")
    return name


def check_alias_name(name: str) -> str:
    """The name of an alias; ValueError for one that cannot be had."""
    if not re.fullmatch(ALIAS_NAME, name) or name in BUILT_IN_NAMES:
        raise ValueError(f"an alias has 1 to 80 of a-z 0-9 . _ : - and is none of {', '.join(BUILT_IN_NAMES)}")
    return name


def check_key(value: str) -> str:
    """A key that can stand in a header; ValueError otherwise."""
    if not value or len(value) > MAX_KEY or not value.isascii() or not value.isprintable():
        raise ValueError("a key has 1 to 4096 printable ASCII characters")
    return value
