"""Settings of the chat service, `WIREROOM_CHAT_*`."""

from __future__ import annotations

import os
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProviderSettings(BaseModel):
    """One OpenAI-compatible provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(description="First part of its models' names.", pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    base_url: str = Field(description="Address of the API, up to and with `/v1`.", pattern=r"^https?://\S+$", max_length=500)
    api_key: SecretStr | None = Field(default=None, description="Bearer token; none for providers that want none.")
    api_key_env: str = Field(default="", description="Name of the environment variable that holds the key, instead of `api_key`.")
    models: tuple[str, ...] = Field(description="The models on offer, by the provider's names.", min_length=1, max_length=500)
    timeout: float = Field(default=120.0, gt=0, le=3600, description="Seconds for a whole answer that is not streamed.")

    @model_validator(mode="before")
    @classmethod
    def _key_from_environment(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("api_key_env") and not values.get("api_key"):
            name = str(values["api_key_env"])
            key = os.environ.get(name)
            if not key:
                msg = f"the environment variable {name} that should hold the API key is not set"
                raise ValueError(msg)
            return {**values, "api_key": key}
        return values

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")


class ChatSettings(BaseSettings):
    """Everything an operator can set here."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_CHAT_", frozen=True, extra="ignore", hide_input_in_errors=True)

    providers: tuple[ProviderSettings, ...] = Field(
        default=(), description="JSON list of OpenAI-compatible providers.", max_length=100
    )
    default_model: str = Field(
        default="",
        description="Model that writes the answers of `grounded`, `news` and `docs`; empty: the first model of the first provider.",
    )
    connect_timeout: float = Field(default=5.0, gt=0, le=60, description="Seconds to connect to a provider.")
    first_byte_timeout: float = Field(
        default=30.0, gt=0, le=600, description="Seconds from the request to the first byte of a stream."
    )
    idle_timeout: float = Field(default=60.0, gt=0, le=600, description="Seconds between two pieces of a stream.")
    max_connections: int = Field(default=512, ge=1, le=10000, description="Open connections to all providers.")
    retrieval_timeout: float = Field(default=5.0, gt=0, le=60, description="Seconds for one call of the rag service.")
    max_generation: float = Field(
        default=1800.0, ge=60, le=86400, description="Seconds after which a running completion counts as abandoned."
    )
    sweep_interval: float = Field(default=60.0, ge=1, le=3600, description="Seconds between two looks for abandoned completions.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [provider.name for provider in self.providers]
        if len(set(names)) != len(names) or "wireroom" in names:
            msg = "providers: each needs a name of its own, and none may be called 'wireroom'"
            raise ValueError(msg)
        return self
