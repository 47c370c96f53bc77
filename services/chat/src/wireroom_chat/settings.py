"""Settings of the chat service, `WIREROOM_CHAT_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_chat.domain.answer import Degrade
from wireroom_chat.domain.provider_address import check_address
from wireroom_chat.domain.providers import Wire

# For how long answers are given again unless a setting says otherwise.
ANSWER_SECONDS = 1800.0


class ProviderSettings(BaseModel):
    """One OpenAI-compatible provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(description="First part of its models' names.", pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    base_url: str = Field(description="Address of the API, up to and with `/v1`.", pattern=r"^https?://\S+$", max_length=500)
    api_key: SecretStr | None = Field(default=None, description="Bearer token; none for providers that want none.")
    api_key_env: str = Field(default="", description="Name of the environment variable that holds the key, instead of `api_key`.")
    models: tuple[str, ...] = Field(description="The models on offer, by the provider's names.", min_length=1, max_length=500)
    wire: Wire = Field(default=Wire.OPENAI, description='"openai" or "anthropic" (the Messages API).')
    timeout: float = Field(default=30.0, gt=0, le=3600, description="Seconds for a whole answer that is not streamed.")
    local: bool = Field(
        default=False,
        description="It keeps what it is told inside the house: texts of collections that name `local` may go to it.",
    )

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
    def _usable_address(cls, value: str) -> str:
        return check_address(value)


class ChatSettings(BaseSettings):
    """Everything an operator can set here."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_CHAT_", frozen=True, extra="ignore", hide_input_in_errors=True)

    providers: tuple[ProviderSettings, ...] = Field(
        default=(), description="JSON list of OpenAI-compatible providers.", max_length=100
    )
    providers_file: Path | None = Field(
        default=None, description="YAML file of providers, models, prices and aliases; read again when it changes."
    )
    provider_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds for a whole answer that is not streamed, where the provider has no limit of its own.",
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
    max_connections: int = Field(default=512, ge=1, le=10000, description="Open connections to one provider.")
    connection_wait: float = Field(
        default=2.0, gt=0, le=60, description="Seconds that a call waits for a free connection to its provider."
    )
    max_generations_per_user: int = Field(
        default=64, ge=1, le=100_000, description="Answers of one user under way at a time in one process."
    )
    max_generations_per_tenant: int = Field(
        default=256, ge=1, le=100_000, description="Answers of one tenant under way at a time in one process."
    )
    retrieval_timeout: float = Field(default=5.0, gt=0, le=60, description="Seconds for one call of the rag service.")
    support_timeout: float = Field(
        default=1.0,
        gt=0,
        le=30,
        description="Seconds that a sentence waits for the vectors of its check; without them its words decide alone.",
    )
    unsupported: dict[str, Literal["drop", "flag"]] = Field(
        default_factory=dict,
        description="What becomes of sentences that their source does not bear out, by tenant id or `*`, where the request does not say.",
        max_length=10_000,
    )
    allowed_link_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts that links in answers from sources may lead to, beside this installation and the sources' own addresses.",
        max_length=500,
    )
    max_generation: float = Field(
        default=1800.0, ge=60, le=86400, description="Seconds after which a running completion counts as abandoned."
    )
    degrade: Degrade = Field(
        default=Degrade.ALWAYS,
        description="When quotes stand in where no provider answers or no budget pays: always (if they fit), grounded, never.",
    )
    answer_cache_seconds: float = Field(
        default=ANSWER_SECONDS, ge=0, le=86400, description="Seconds for which a kept answer is given again; 0 keeps none."
    )
    sweep_interval: float = Field(default=60.0, ge=1, le=3600, description="Seconds between two looks for abandoned completions.")

    default_price_input_micros: int = Field(
        default=10_000_000,
        ge=0,
        le=10**12,
        description="Millionths of the currency unit for a million prompt tokens of models without a price; 0: they are refused.",
    )
    default_price_output_micros: int = Field(
        default=30_000_000, ge=0, le=10**12, description="The same for tokens of their answers; 0: they are refused."
    )
    usage_retention_months: int = Field(
        default=13,
        ge=1,
        le=120,
        description="Months before the running one for which generations and calls of providers are kept.",
    )
    usage_sums_retention_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days for which daily sums of usage and ended budget periods are kept; 0 keeps them.",
    )
    ledger_upkeep_interval: float = Field(
        default=3600.0, ge=1, le=86_400, description="Seconds between two rounds of making and dropping the ledger's partitions."
    )

    response_retention_days: int = Field(
        default=30, ge=1, le=3650, description="Days for which responses of `/v1/responses` are kept."
    )

    max_message_characters: int = Field(
        default=1000, ge=1, le=100_000, description="Characters of one message in a chat session."
    )
    history_messages: int = Field(
        default=50, ge=0, le=200, description="Earlier messages of a chat session that go with a question, at most."
    )
    history_tokens: int = Field(
        default=8000, ge=0, le=200_000, description="Tokens of those messages, at most, as `unicode-words-v1` counts them."
    )
    history_policy: Literal["truncate", "summarise"] = Field(
        default="truncate",
        description="What becomes of older messages: left out, or summarised by a model (billed to who asks).",
    )
    summary_model: str = Field(
        default="", description="Model that writes the summaries; empty: the one that writes `grounded` answers."
    )
    turn_lease: float = Field(
        default=60.0, ge=1, le=3600, description="Seconds after which a chat session whose process died takes the next question."
    )
    session_retention_days: int = Field(
        default=0, ge=0, le=36_500, description="Days after their last use after which chat sessions are deleted; 0 keeps them."
    )
    purge_interval: float = Field(default=300.0, ge=1, le=86_400, description="Seconds between two looks for sessions to delete.")
    stream_kept: float = Field(
        default=600.0, ge=10, le=86400, description="Seconds that a stream can still be read after its last piece."
    )
    stream_max_bytes: int = Field(
        default=2 * 1024 * 1024, ge=65_536, le=2**28, description="Bytes kept of one stream in Redis, the newest."
    )
    stream_flush_milliseconds: float = Field(
        default=10.0, ge=1, le=1000, description="Pieces of streams are written to Redis together this often."
    )
    stream_lease: float = Field(
        default=3.0,
        ge=2,
        le=60,
        description="Seconds of silence after which a replica counts as gone: others may go on with its streams.",
    )
    stream_take_up_after: float = Field(
        default=8.0,
        ge=3,
        le=300,
        description="Seconds of silence after which its streams are taken up even if nobody asks for them.",
    )
    stream_max_followers: int = Field(default=10_000, ge=1, le=1_000_000, description="Streams that are being resumed at a time.")
    stream_grace: float = Field(
        default=30.0,
        ge=0,
        le=600,
        description="Seconds that a streamed answer of a chat session goes on when its client is gone.",
    )

    artefact_lifetime: float = Field(
        default=86_400.0, ge=60, le=31_536_000, description="Seconds for which files made by tools are kept."
    )
    max_artefacts: int = Field(default=100, ge=1, le=10_000, description="Files made by tools that a user may have at a time.")
    tool_timeout: float = Field(default=10.0, gt=0, le=60, description="Seconds for a tool that is called without a model.")
    assistant_cache: float = Field(
        default=5.0, ge=0, le=60, description="Seconds after which a change of an assistant is known to all replicas."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [provider.name for provider in self.providers]
        if len(set(names)) != len(names) or "wireroom" in names:
            msg = "providers: each needs a name of its own, and none may be called 'wireroom'"
            raise ValueError(msg)
        return self
