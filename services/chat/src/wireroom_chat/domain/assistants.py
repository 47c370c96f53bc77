"""Assistants: configured personas in immutable versions, one or several of which are active."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.request import Grounding, GroundingMode
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError, invalid

PREFIX = "assistant/"
BUILT_IN_VERSION = 0
MAX_WEIGHT = 10_000
MAX_ACTIVE = 10
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
_KINDS = {"news": SourceKind.ARTICLE, "docs": SourceKind.DOCUMENT}
_MAX_PROBLEMS = 10
_Tool = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Host = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sources(_Part):
    """What it may search. `upfront`: passages for the question are put into the first prompt, instead of only what its tools find."""

    kinds: Annotated[tuple[Literal["news", "docs"], ...], Field(max_length=2)] = ()
    top_k: Annotated[int, Field(ge=1, le=20)] = 8
    mode: Literal["strict", "assist"] = "assist"
    upfront: bool = True

    def grounding(self) -> Grounding:
        """As a request would ask for it."""
        return Grounding(tuple(_KINDS[kind] for kind in dict.fromkeys(self.kinds)), None, self.top_k, GroundingMode(self.mode))


class Limits(_Part):
    """Bounds of one answer. `rounds`: how often the model may ask for tools; `tool_seconds` for each call; result size in characters."""

    rounds: Annotated[int, Field(ge=0, le=10)] = 5
    parallel_calls: Annotated[int, Field(ge=1, le=8)] = 4
    tool_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    result_characters: Annotated[int, Field(ge=500, le=50_000)] = 8_000
    max_tokens: Annotated[int | None, Field(ge=1, le=100_000)] = None


class OutputPolicy(_Part):
    """What of an answer is shown when its prompt held untrusted text: links and pictures of these hosts only. Sources may be linked."""

    allowed_hosts: Annotated[tuple[_Host, ...], Field(max_length=50)] = ()


class AssistantConfig(_Part):
    """One version. The disclaimer is appended to each answer by the system."""

    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    description: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")] = ""
    prompt: Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"^[^\x00]*$")]
    disclaimer: Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
    # A model or alias; empty: the default of the installation.
    model: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    sources: Sources = Sources()
    tools: Annotated[tuple[_Tool, ...], Field(max_length=32)] = ()
    # Tools that may run although the prompt holds untrusted text, beside those that are harmless.
    allow_untrusted: Annotated[tuple[_Tool, ...], Field(max_length=32)] = ()
    limits: Limits = Limits()
    output: OutputPolicy = OutputPolicy()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model.startswith(PREFIX):
            raise ValueError("model: an assistant cannot answer through another assistant")
        if not set(self.allow_untrusted) <= set(self.tools):
            raise ValueError("allow_untrusted: names tools that are not among 'tools'")
        return self


@dataclass(frozen=True)
class AssistantVersion:
    """A configuration with its number; 0 is what is shipped."""

    number: int
    config: AssistantConfig
    created_at: datetime | None = None
    created_by: str = ""


@dataclass(frozen=True)
class Assistant:
    """An assistant with the versions that are known of it; `weights` by version number, those that are not named are 0."""

    name: str
    built_in: bool
    weights: Mapping[int, int]
    versions: Mapping[int, AssistantVersion]

    def version_for(self, tenant_id: UUID, user_id: UUID) -> AssistantVersion:
        """The user's version: always the same one while the weights stay."""
        active = sorted((number, weight) for number, weight in self.weights.items() if weight > 0 and number in self.versions)
        total = sum(weight for _, weight in active)
        if not total:
            raise WireroomError(
                ErrorKind.NOT_FOUND, "assistant_not_active", f"No version of the assistant '{self.name}' is active."
            )
        digest = hashlib.sha256(f"{tenant_id}/{user_id}/{self.name}".encode()).digest()
        # A point in the unit interval, not a remainder: it stays put when the weights grow in proportion.
        point = int.from_bytes(digest[:8], "big") * total >> 64
        for number, weight in active:
            if point < weight:
                return self.versions[number]
            point -= weight
        return self.versions[active[-1][0]]


@dataclass(frozen=True)
class ChosenAssistant:
    """The version of an assistant that answers a request."""

    name: str
    version: int
    config: AssistantConfig

    @property
    def model(self) -> str:
        """The model name under which the answer is recorded."""
        return f"{PREFIX}{self.name}@{self.version}"


def is_assistant(model: str) -> bool:
    """Whether a model name means an assistant."""
    return model.startswith(PREFIX)


def parse_model(model: str) -> tuple[str, int | None]:
    """Name and, if one is named, version of `assistant/<name>[@<version>]`; NOT_FOUND `model_not_found` otherwise."""
    name, at, number = model.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(name) or (at and not (number.isascii() and number.isdigit() and len(number) <= 9)):  # noqa: PLR2004 - fits an integer
        raise unknown(model)
    return name, int(number) if at else None


def unknown(model: str) -> WireroomError:
    """There is no such assistant."""
    return WireroomError(
        ErrorKind.NOT_FOUND,
        "model_not_found",
        f"The model '{model[:100]}' does not exist; GET /api/v1/assistants lists the assistants.",
    )


def check_name(name: str) -> str:
    """The name; INVALID `assistant_name_invalid`."""
    if not _NAME.fullmatch(name):
        raise invalid(
            "assistant_name_invalid",
            "A name has 1 to 50 small letters, digits and hyphens, and begins with a letter or digit.",
            field="name",
        )
    return name


def parse_config(value: Any) -> AssistantConfig:
    """A configuration from JSON or YAML data; INVALID `assistant_config_invalid` names what does not fit."""
    try:
        return AssistantConfig.model_validate(value)
    except ValidationError as error:
        problems = [
            FieldProblem(".".join(("config", *(str(part) for part in entry["loc"]))), str(entry["msg"])[:200])
            for entry in error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]
        ]
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
        raise WireroomError(
            ErrorKind.INVALID, "assistant_config_invalid", f"The configuration does not fit: {detail}.", fields=problems
        ) from None


def check_tools(config: AssistantConfig, known: Sequence[str]) -> None:
    """INVALID when the configuration names tools that do not exist."""
    missing = sorted(set(config.tools) - set(known))
    if missing:
        raise invalid(
            "assistant_config_invalid",
            f"There is no tool '{missing[0]}'; there are {', '.join(sorted(known))}.",
            field="config.tools",
        )


def check_weights(weights: Mapping[int, int], known: Sequence[int]) -> dict[int, int]:
    """The weights without zeros; INVALID `assistant_weights_invalid`."""
    active = {number: weight for number, weight in weights.items() if weight}
    problem = ""
    if not active or len(active) > MAX_ACTIVE:
        problem = f"Between 1 and {MAX_ACTIVE} versions need a weight above 0."
    elif not all(0 < weight <= MAX_WEIGHT for weight in active.values()):
        problem = f"Weights are whole numbers from 0 to {MAX_WEIGHT}."
    elif missing := sorted(set(active) - set(known)):
        problem = f"There is no version {missing[0]}."
    if problem:
        raise invalid("assistant_weights_invalid", problem, field="weights")
    return active


def narrowed(config: AssistantConfig, asked: Grounding | None) -> Grounding:
    """The assistant's sources, as far as the request narrows them: it can leave out, never add."""
    own = config.sources.grounding()
    if asked is None:
        return own
    kinds = tuple(kind for kind in own.kinds if not asked.kinds or kind in asked.kinds)
    mode = GroundingMode.STRICT if GroundingMode.STRICT in (own.mode, asked.mode) else GroundingMode.ASSIST
    return Grounding(kinds or own.kinds, asked.since, min(own.top_k, asked.top_k), mode, asked.collections, asked.unsupported)
