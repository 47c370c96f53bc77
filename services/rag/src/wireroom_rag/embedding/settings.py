"""Settings of models behind HTTP endpoints."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from wireroom_common.errors import OperatorError
from wireroom_rag.domain.provider_terms import Receiver
from wireroom_rag.embedding.http import HttpModel

_FEWEST_TOKENS = 50


class _Endpoint(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, max_length=200, description="The model's name at the endpoint.")
    base_url: str = Field(
        pattern=r"^https?://[^\s?#]+$",
        max_length=2_000,
        description="Address up to and including the version, as `https://…/v1`.",
    )
    api_key: SecretStr | None = Field(default=None, description="Bearer token; none for endpoints that want none.")
    api_key_file: str = Field(default="", description="File with the token, instead of `api_key`.")
    timeout_seconds: float = Field(default=30.0, gt=0, le=300, description="Time that one call may take.")
    retries: int = Field(default=2, ge=0, le=5, description="How often a call is repeated when the endpoint is busy or silent.")
    provider: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9._-]{0,39})?$",
        description="Its name in the lists of providers that collections have; empty for none: only those for any provider.",
    )
    local: bool = Field(
        default=False,
        description="It keeps what it is told inside the house: texts of collections that name `local` may go to it.",
    )
    calls_at_once: int = Field(default=4, ge=1, le=64, description="Calls at the same time; ten times as many may wait.")

    @model_validator(mode="after")
    def _one_key(self) -> _Endpoint:
        if self.api_key is not None and self.api_key_file:
            msg = "Give either 'api_key' or 'api_key_file', not both."
            raise ValueError(msg)
        # What cannot be used is told before anything is started.
        self._key()
        return self

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        return require_address(value)

    def _key(self) -> SecretStr | None:
        """ValueError for a file that cannot be read, and for what no header can carry."""
        key = self.api_key
        if self.api_key_file:
            try:
                key = SecretStr(Path(self.api_key_file).read_text(encoding="utf-8").strip())
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
                msg = f"'api_key_file' is '{self.api_key_file}', which cannot be read: {reason}."
                raise ValueError(msg) from None
            if not key.get_secret_value():
                msg = f"'api_key_file' is '{self.api_key_file}', which is empty."
                raise ValueError(msg)
        if key is not None and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            msg = "The key holds characters that no HTTP header can carry: one line of ASCII is expected."
            raise ValueError(msg)
        return key

    @property
    def receiver(self) -> Receiver:
        """As collections know it."""
        return Receiver(self.provider, self.local)

    def http(self, name: str) -> HttpModel:
        """How it is called; reads the key's file."""
        try:
            key = self._key()
        except ValueError as error:
            raise OperatorError(f"The model '{name}' cannot be called: {error}") from None
        return HttpModel(name, self.base_url, key, self.timeout_seconds, self.retries, self.calls_at_once)


class EmbeddingEndpoint(_Endpoint):
    """An OpenAI-compatible embeddings endpoint."""

    id: str = Field(
        default="",
        max_length=200,
        description="Name by which the index remembers it; empty for the model's. Never give it to another model.",
    )
    dimensions: int = Field(
        ge=1, le=4_000, description="Length of the vectors; 384, 512, 768, 1024 and 1536 have an index, others are scanned."
    )
    ask_dimensions: bool = Field(default=False, description="Name the length in each call, for models that can be shortened.")
    batch: int = Field(default=16, ge=1, le=256, description="Texts of one call.")
    max_tokens: int = Field(
        default=0,
        ge=0,
        le=2_000,
        description="Most tokens of a passage that it gets, from 50 on, counted by the local model's tokenizer, and at least one for every"
        " 8 characters: stay a fifth below what the model reads. 0: 250, as for the local model. Holds for indexes built from then on.",
    )

    @model_validator(mode="after")
    def _passages_of_some_length(self) -> EmbeddingEndpoint:
        if 0 < self.max_tokens < _FEWEST_TOKENS:
            msg = f"'max_tokens' is 0, or lies between {_FEWEST_TOKENS} and 2000."
            raise ValueError(msg)
        return self

    @property
    def name(self) -> str:
        """The model's id in the index."""
        return self.id or self.model


class RerankEndpoint(_Endpoint):
    """A `/rerank` endpoint (Cohere, Jina and common inference servers)."""

    timeout_seconds: float = Field(default=2.0, gt=0, le=60, description="Time that one call may take; queries wait for it.")
    retries: int = Field(default=0, ge=0, le=5, description="How often a call is repeated when the endpoint is busy or silent.")


def require_address(value: str) -> str:
    """An http or https address with a host and, if any, a port that there is; ValueError otherwise."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        msg = f"'{value}' is no address: write http:// or https://, a host, and a port between 1 and 65535 if there is one."
        raise ValueError(msg)
    return value
