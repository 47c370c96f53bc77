"""Chat sessions and their messages, and what may be written into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from wireroom_common.errors import WireroomError, invalid

DEFAULT_MODEL = "grounded"
MAX_TITLE = 200
MAX_TAGS = 10
MAX_TAG = 50
MAX_COMMENT = 2000
MAX_QUERY = 200
_MAX_NAME = 200
_AUTO_TITLE = 60
# Line breaks and tabs stay; other control characters have no place in a text for people.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_ALL_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Session:
    """A conversation. `grounding` as in chat completions; `assistant` empty for none."""

    id: UUID
    owner_id: UUID
    title: str
    model: str
    assistant: str
    grounding: Mapping[str, Any] | None
    archived: bool
    message_count: int
    version: int
    created_at: datetime
    updated_at: datetime
    turn_running: bool


@dataclass(frozen=True)
class Message:
    """One message of a session. `number` counts from 1. `status`: "streaming", "completed", "failed" or "cancelled"."""

    id: UUID
    session_id: UUID
    number: int
    role: str
    content: str
    annotations: Sequence[Mapping[str, Any]]
    completion_id: str
    status: str
    finish_reason: str
    error_code: str
    model: str
    answer_mode: str
    tokens_in: int
    tokens_out: int
    created_at: datetime
    finished_at: datetime | None
    # What its owner said of it; 0 for nothing.
    feedback: int = 0


@dataclass(frozen=True)
class SessionDraft:
    """What a session is made from; checked by `checked_draft`."""

    title: str = ""
    model: str = ""
    assistant: str = ""
    grounding: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SessionChange:
    """What is to be changed; None leaves a member as it is. `clear_grounding` takes the grounding away."""

    title: str | None = None
    model: str | None = None
    assistant: str | None = None
    grounding: Mapping[str, Any] | None = None
    clear_grounding: bool = False
    archived: bool | None = None


@dataclass(frozen=True)
class Feedback:
    """What a user thinks of an answer: -1 or 1."""

    score: int
    tags: tuple[str, ...] = ()
    comment: str = ""


def clean_text(text: str) -> str:
    """Text as it may be stored and shown: no control characters but line breaks and tabs, no lone surrogates."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n"))


def clean_json(value: Any) -> Any:
    """JSON as PostgreSQL stores it: its texts cleaned."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


def checked_message(text: str, limit: int) -> str:
    """What the user says, cleaned; INVALID when it is empty or longer than `limit` characters."""
    message = clean_text(text).strip()
    if not message:
        raise invalid("message_empty", "The message is empty: write what you want to know.", field="message")
    if len(message) > limit:
        raise invalid(
            "message_too_long",
            f"The message has {len(message)} characters; at most {limit} are taken. Shorten it, or upload a document and ask about that.",
            field="message",
        )
    return message


def checked_title(title: str) -> str:
    """One line; INVALID when it is too long."""
    line = " ".join(_ALL_CONTROL.sub(" ", clean_text(title)).split())
    if len(line) > MAX_TITLE:
        raise invalid("title_too_long", f"A title has at most {MAX_TITLE} characters.", field="title")
    return line


def checked_name(name: str, field: str) -> str:
    """The name of a model or an assistant; INVALID when it could be none."""
    stripped = name.strip()
    if len(stripped) > _MAX_NAME or _ALL_CONTROL.search(stripped):
        raise invalid("name_invalid", f"A name has at most {_MAX_NAME} characters and no control characters.", field=field)
    return stripped


def checked_feedback(score: int, tags: Sequence[str], comment: str) -> Feedback:
    """INVALID names what is out of bounds."""
    if score not in (-1, 1):
        raise invalid("feedback_invalid", "The score is 1 (good) or -1 (bad).", field="score")
    cleaned = tuple(dict.fromkeys(checked_title(tag) for tag in tags[: MAX_TAGS + 1]))
    if len(tags) > MAX_TAGS or any(not tag or len(tag) > MAX_TAG for tag in cleaned):
        raise _feedback_tags()
    note = clean_text(comment).strip()
    if len(note) > MAX_COMMENT:
        raise invalid("feedback_invalid", f"A comment has at most {MAX_COMMENT} characters.", field="comment")
    return Feedback(score, cleaned, note)


def _feedback_tags() -> WireroomError:
    return invalid("feedback_invalid", f"At most {MAX_TAGS} tags of 1 to {MAX_TAG} characters are taken.", field="tags")


def title_of(message: str) -> str:
    """A title from the first words of a conversation."""
    line = checked_title(message[:MAX_TITLE])
    if len(line) <= _AUTO_TITLE:
        return line
    cut = line[:_AUTO_TITLE]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut).rstrip(" ,.;:-") + "\u2026"
