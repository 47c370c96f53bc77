"""Settings of models behind HTTP endpoints."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from wireroom_rag.embedding.http import HttpModel


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
    calls_at_once: int = Field(default=4, ge=1, le=64, description="Calls at the same time; ten times as many may wait.")

    @model_validator(mode="after")
    def _one_key(self) -> _Endpoint:
        if self.api_key is not None and self.api_key_file:
            msg = "Give either 'api_key' or 'api_key_file', not both."
            raise ValueError(msg)
        return self

    def http(self, name: str) -> HttpModel:
        """How it is called; reads the key's file."""
        key = SecretStr(Path(self.api_key_file).read_text(encoding="utf-8").strip()) if self.api_key_file else self.api_key
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

    @property
    def name(self) -> str:
        """The model's id in the index."""
        return self.id or self.model


class RerankEndpoint(_Endpoint):
    """A `/rerank` endpoint (Cohere, Jina and common inference servers)."""

    timeout_seconds: float = Field(default=2.0, gt=0, le=60, description="Time that one call may take; queries wait for it.")
    retries: int = Field(default=0, ge=0, le=5, description="How often a call is repeated when the endpoint is busy or silent.")
