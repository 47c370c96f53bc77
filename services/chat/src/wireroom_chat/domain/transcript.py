"""A session as a file for people or programs: JSON and Markdown, piece by piece.

What was said is quoted as it is and never read as markup: in Markdown it stands in fenced blocks, longer fenced than anything in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from wireroom_chat.domain.sessions import Message, Session

_BACKTICKS = re.compile(r"`{3,}")
# CommonMark lets any of its punctuation be escaped.
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+\-.!<>|~&:\"'$%=@^/?,;])")
_PLAIN_LINK = re.compile(r"https?://[^\s<>\x00-\x20\\`|]{1,2000}")
_SPEAKERS = {"user": "Question", "assistant": "Answer", "tool": "Tool", "system": "System"}
_MAX_LINKS = 100


def session_object(session: Session) -> dict[str, Any]:
    """The session as JSON has it."""
    return {
        "id": str(session.id),
        "title": session.title,
        "model": session.model,
        "assistant": session.assistant,
        "grounding": session.grounding,
        "archived": session.archived,
        "message_count": session.message_count,
        "created_at": session.created_at.isoformat(),
        "updated_at": session.updated_at.isoformat(),
    }


def message_object(message: Message) -> dict[str, Any]:
    """A message as JSON has it."""
    return {
        "id": str(message.id),
        "number": message.number,
        "role": message.role,
        "content": message.content,
        "annotations": message.annotations,
        "status": message.status,
        "finish_reason": message.finish_reason,
        "error_code": message.error_code,
        "model": message.model,
        "answer_mode": message.answer_mode,
        "tokens_in": message.tokens_in,
        "tokens_out": message.tokens_out,
        "feedback": message.feedback,
        "created_at": message.created_at.isoformat(),
        "finished_at": message.finished_at.isoformat() if message.finished_at else None,
    }


class JsonTranscript:
    """`{"session": …, "messages": […]}`."""

    def __init__(self) -> None:
        self._begun = False

    def head(self, session: Session) -> bytes:
        """Before the first message."""
        return b'{"session":' + orjson.dumps(session_object(session)) + b',"messages":['

    def message(self, message: Message) -> bytes:
        """One message."""
        comma, self._begun = b"," if self._begun else b"", True
        return comma + orjson.dumps(message_object(message))

    def tail(self) -> bytes:
        """After the last message."""
        return b"]}\n"


class MarkdownTranscript:
    """CommonMark."""

    def head(self, session: Session) -> bytes:
        """Before the first message."""
        lines = [
            f"# {escaped(session.title) or 'Chat session'}",
            "",
            f"Begun {session.created_at:%Y-%m-%d %H:%M} UTC, model `{_code(session.model)}`.",
            "",
        ]
        return ("\n".join(lines) + "\n").encode()

    def message(self, message: Message) -> bytes:
        """One message."""
        fence = "`" * max([3, *(len(run) + 1 for run in _BACKTICKS.findall(message.content))])
        lines = [heading(message, "##"), "", f"{fence}text", message.content, fence, ""]
        for number, (title, url) in enumerate(sources(message), start=1):
            lines.append(f"{number}. {escaped(title)}{f' <{url}>' if url else ''}")
        if lines[-1]:
            lines.append("")
        return ("\n".join(lines) + "\n").encode()

    def tail(self) -> bytes:
        """After the last message."""
        return b""


def heading(message: Message, mark: str) -> str:
    """Who spoke, when, and how it ended if not well."""
    ending = "" if message.status == "completed" else f" ({message.status})"
    return f"{mark} {_SPEAKERS[message.role]}, {message.created_at:%Y-%m-%d %H:%M}{ending}"


def sources(message: Message) -> list[tuple[str, str]]:
    """Titles and addresses that the message cites, each once; an address that is not plain http(s) is left out."""
    found: dict[tuple[str, str], None] = {}
    for annotation in message.annotations:
        citation = annotation.get("url_citation")
        if isinstance(citation, Mapping):
            url = str(citation.get("url") or "")
            title = " ".join(str(citation.get("title") or "").split())[:300]
            found[title or "Untitled", url if _PLAIN_LINK.fullmatch(url) else ""] = None
    return list(found)[:_MAX_LINKS]


def escaped(text: str) -> str:
    """One line in which Markdown and HTML find nothing to read as markup."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
