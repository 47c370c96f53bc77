"""The OpenAI chat completion request, checked once; what is not ours passes through untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError

MAX_MESSAGES = 2000
MAX_CHOICES = 16
MAX_TOP_K = 50
MAX_SEARCH = 4000
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_SOURCES = {"news": SourceKind.ARTICLE, "docs": SourceKind.DOCUMENT}
# "docs:<id or name>": the members of that collection.
_COLLECTION = "docs:"
MAX_COLLECTIONS = 20
_MAX_COLLECTION_NAME = 256
_GROUNDING_MEMBERS = frozenset({"sources", "since", "top_k", "mode", "unsupported"})
_OURS = frozenset({"grounding", "disable_fallback", "cache"})
# What goes to providers, beside the messages: OpenAI's members, and the sampling parameters that servers of open models have. Others could
# choose another model, another price or another server behind the provider.
_PASSED = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "stop",
        "seed",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "top_k",
        "min_p",
        "top_a",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "min_tokens",
        "stop_token_ids",
        "skip_special_tokens",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "chat_template_kwargs",
        "thinking",
        "reasoning",
    ]
)
# Taken, and kept here: what is stored and what is noted is this installation's business.
_DROPPED = frozenset({"store", "metadata", "service_tier"})
_SERVICE_TIERS = (None, "auto", "default")
_MAX_PROBLEMS = 20


class GroundingMode(StrEnum):
    """What happens to what the sources do not support: dropped, or kept without a citation."""

    STRICT = "strict"
    ASSIST = "assist"


class Unsupported(StrEnum):
    """What becomes of a sentence that its source does not bear out."""

    DROP = "drop"
    # It is shown without the marker, and marked as not verified.
    FLAG = "flag"


class CacheMode(StrEnum):
    """Which questions get a kept answer: none, the same, or those that ask the same."""

    OFF = "off"
    EXACT = "exact"
    SEMANTIC = "semantic"


@dataclass(frozen=True)
class Grounding:
    """Which sources an answer may rest on. No kinds = all kinds. `collections` (ids or names) limit documents; empty = all documents."""

    kinds: tuple[SourceKind, ...] = ()
    since: datetime | None = None
    top_k: int = 8
    mode: GroundingMode = GroundingMode.STRICT
    collections: tuple[str, ...] = ()
    # None: dropped in strict mode, flagged in the other.
    unsupported: Unsupported | None = None

    @property
    def flags(self) -> bool:
        """Whether sentences without support are shown and flagged."""
        if self.unsupported is None:
            return self.mode is GroundingMode.ASSIST
        return self.unsupported is Unsupported.FLAG


@dataclass(frozen=True)
class ChatRequest:
    """A checked request. `raw` holds the members that may go to providers."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    choices: int
    include_usage: bool
    grounding: Grounding | None
    raw: Mapping[str, Any]
    # Whether another model may answer when the first one cannot.
    fallback: bool = True
    # What to look for in the sources where that is not the question itself: a follow-up that leans on earlier ones.
    search: str = ""

    # What the caller wants of kept answers; None: as is usual for the request.
    cache: CacheMode | None = None
    # Of earlier answers that stand among the messages: kept here, never the caller's to say.
    terms: SourceTerms = ANY

    def search_text(self) -> str:
        """What to look for in the sources: of a very long question its end."""
        return (self.search or self.question())[-MAX_SEARCH:]

    def can_be_quoted(self) -> bool:
        """Whether an answer made of quotes fits the request."""
        return not self._problems_with_quotes()

    def question(self) -> str:
        """The text of the last user message; empty when there is none."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return text_of(message.get("content"))
        return ""

    def refuse_for_quotes(self) -> None:
        """INVALID when the request asks for what an answer with checked citations cannot have."""
        _raise_for(self._problems_with_quotes())

    def _problems_with_quotes(self) -> list[FieldProblem]:
        problems = []
        if self.choices != 1:
            problems.append(FieldProblem("n", "Answers with citations have one choice: leave 'n' out or set it to 1."))
        if self.raw.get("tools") or self.raw.get("functions"):
            problems.append(
                FieldProblem("tools", "Tools cannot be combined with grounding; use a provider model without grounding.")
            )
        response_format = self.raw.get("response_format")
        if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
            problems.append(
                FieldProblem(
                    "response_format", "Answers with citations are text; use a provider model without grounding for JSON."
                )
            )
        if self.raw.get("logprobs"):
            problems.append(FieldProblem("logprobs", "Log probabilities cannot be given for answers with citations."))
        if not self.question().strip():
            problems.append(FieldProblem("messages", "There is no user message with text to answer."))
        return problems


def text_of(content: Any) -> str:
    """The text of a message's content: the string, or its text parts joined by line breaks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return ""


def parse_request(body: bytes, *, stream: bool) -> ChatRequest:
    """Check the body; INVALID names every offending member. `stream` is how the answer is delivered, whatever the body says."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireroomError(ErrorKind.INVALID, "json_malformed", "The request body is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise WireroomError(ErrorKind.INVALID, "json_malformed", "The request body must be a JSON object.")
    problems: list[FieldProblem] = []

    model = raw.get("model")
    if not isinstance(model, str) or not model.strip():
        problems.append(FieldProblem("model", "The name of a model is required; GET /v1/models lists them."))
        model = ""
    messages = _messages(raw.get("messages"), problems)
    if not isinstance(raw.get("stream") or False, bool):
        problems.append(FieldProblem("stream", "Must be true or false."))
    choices = _integer(raw.get("n"), "n", (1, MAX_CHOICES), 1, problems)
    include_usage = False
    options = raw.get("stream_options")
    if options is not None:
        if not isinstance(options, dict):
            problems.append(FieldProblem("stream_options", "Must be an object."))
        elif not isinstance(options.get("include_usage") or False, bool):
            problems.append(FieldProblem("stream_options.include_usage", "Must be true or false."))
        else:
            include_usage = bool(options.get("include_usage"))
    grounding = _grounding(raw["grounding"], problems) if raw.get("grounding") is not None else None
    disabled = raw.get("disable_fallback") or False
    if not isinstance(disabled, bool):
        problems.append(FieldProblem("disable_fallback", "Must be true or false."))
    cache = _cache(raw.get("cache"), problems)
    _lengths(raw, problems)
    problems.extend(
        FieldProblem(name, "Is not known here; see the documentation of this route.")
        for name in sorted(raw.keys() - _PASSED - _DROPPED - _OURS)[:_MAX_PROBLEMS]
    )
    if raw.get("service_tier") not in _SERVICE_TIERS:
        problems.append(FieldProblem("service_tier", 'Must be "auto" or "default": other tiers have other prices.'))
    _raise_for(problems)
    rest = {key: value for key, value in raw.items() if key in _PASSED}
    return ChatRequest(
        model.strip(), messages, stream, choices, include_usage, grounding, rest, fallback=not disabled, cache=cache
    )


def _lengths(raw: Mapping[str, Any], problems: list[FieldProblem]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        value = raw.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.append(FieldProblem(name, "Must be a whole number, 1 or more."))


def _cache(value: Any, problems: list[FieldProblem]) -> CacheMode | None:
    try:
        return CacheMode(value) if value is not None else None
    except ValueError:
        problems.append(FieldProblem("cache", 'Must be "off", "exact" or "semantic".'))
        return None


def _raise_for(problems: list[FieldProblem]) -> None:
    if problems:
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
        raise WireroomError(ErrorKind.INVALID, "request_invalid", detail, fields=problems[:_MAX_PROBLEMS])


def _integer(value: Any, name: str, bounds: tuple[int, int], default: int, problems: list[FieldProblem]) -> int:
    low, high = bounds
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        problems.append(FieldProblem(name, f"Must be a whole number from {low} to {high}."))
        return default
    return value


def _messages(value: Any, problems: list[FieldProblem]) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        problems.append(FieldProblem("messages", "A list of at least one message is required."))
        return []
    if len(value) > MAX_MESSAGES:
        problems.append(FieldProblem("messages", f"At most {MAX_MESSAGES} messages are taken."))
        return []
    for index, message in enumerate(value):
        if len(problems) >= _MAX_PROBLEMS:
            break
        name = f"messages[{index}]"
        if not isinstance(message, dict):
            problems.append(FieldProblem(name, "Must be an object with 'role' and 'content'."))
            continue
        if not isinstance(message.get("role"), str) or message["role"] not in _ROLES:
            problems.append(FieldProblem(f"{name}.role", f"Must be one of {', '.join(sorted(_ROLES))}."))
            continue
        _content(name, message, problems)
    return value


def _content(name: str, message: Mapping[str, Any], problems: list[FieldProblem]) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] != "assistant":
            problems.append(FieldProblem(f"{name}.content", "A text or a list of parts is required."))
        return
    if not isinstance(content, list) or not content:
        problems.append(FieldProblem(f"{name}.content", "Must be a text or a list of at least one part."))
        return
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            problems.append(FieldProblem(f"{name}.content[{index}]", "Must be an object with a 'type'."))
        elif part["type"] == "text" and not isinstance(part.get("text"), str):
            problems.append(FieldProblem(f"{name}.content[{index}].text", "Must be a text."))


def _grounding(value: Any, problems: list[FieldProblem]) -> Grounding | None:
    if not isinstance(value, dict):
        problems.append(FieldProblem("grounding", "Must be an object."))
        return None
    problems.extend(
        FieldProblem(f"grounding.{key}", "Is not known; there are sources, since, top_k, mode and unsupported.")
        for key in sorted(set(value) - _GROUNDING_MEMBERS)[:_MAX_PROBLEMS]
    )
    kinds, collections = _sources(value.get("sources"), problems)
    mode = GroundingMode.STRICT
    if value.get("mode") is not None:
        try:
            mode = GroundingMode(value["mode"])
        except ValueError:
            problems.append(FieldProblem("grounding.mode", 'Must be "strict" or "assist".'))
    unsupported = None
    if value.get("unsupported") is not None:
        try:
            unsupported = Unsupported(value["unsupported"])
        except ValueError:
            problems.append(FieldProblem("grounding.unsupported", 'Must be "drop" or "flag".'))
    top_k = _integer(value.get("top_k"), "grounding.top_k", (1, MAX_TOP_K), 8, problems)
    return Grounding(kinds, _since(value.get("since"), problems), top_k, mode, collections, unsupported)


def _sources(value: Any, problems: list[FieldProblem]) -> tuple[tuple[SourceKind, ...], tuple[str, ...]]:
    """The kinds, and the collections."""
    if value is None:
        return (), ()
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and _is_source(item) for item in value):
        problems.append(
            FieldProblem("grounding.sources", 'Must be a list of "news", "docs", or "docs:" with the id or name of a collection.')
        )
        return (), ()
    collections = dict.fromkeys(item.removeprefix(_COLLECTION).strip() for item in value if item.startswith(_COLLECTION))
    if collections and ("docs" in value or len(collections) > MAX_COLLECTIONS):
        problems.append(
            FieldProblem("grounding.sources", f'Take either all documents ("docs") or up to {MAX_COLLECTIONS} collections.')
        )
    kinds = dict.fromkeys(_SOURCES["docs" if item.startswith(_COLLECTION) else item] for item in value)
    return tuple(kinds), tuple(collections)


def _is_source(item: str) -> bool:
    name = item.removeprefix(_COLLECTION).strip()
    return item in _SOURCES or (item.startswith(_COLLECTION) and 0 < len(name) <= _MAX_COLLECTION_NAME and "\x00" not in name)


def _since(value: Any, problems: list[FieldProblem]) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        problems.append(
            FieldProblem("grounding.since", "Must be a date or a time in ISO 8601, for example 2026-03-01T00:00:00Z.")
        )
        return None
