"""Chat sessions: make, read, change, delete, export, and what people think of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson

from wireroom_chat.domain.assistants import is_assistant, parse_model
from wireroom_chat.domain.request import parse_request
from wireroom_chat.domain.sessions import (
    DEFAULT_MODEL,
    MAX_QUERY,
    Message,
    Session,
    SessionChange,
    SessionDraft,
    checked_feedback,
    checked_name,
    checked_title,
    clean_text,
)
from wireroom_chat.domain.transcript import JsonTranscript, MarkdownTranscript
from wireroom_chat.metrics import FeedbackMetrics
from wireroom_chat.ports.providers import ProviderDirectory
from wireroom_chat.ports.sessions import MessageQuery, Personas, Reader, SessionQuery, SessionStore
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.principal import Principal

READ, WRITE, READ_ALL = "sessions:read:own", "sessions:write:own", "sessions:read:tenant"
_PDF_CHARACTERS = 1_000_000
_PDF_AT_ONCE = 2
# In one round; the rest waits for the next.
_PURGE_BATCHES = 50
_MEDIA_TYPES = {"json": "application/json", "markdown": "text/markdown; charset=utf-8", "pdf": "application/pdf"}
_SUFFIXES = {"json": "json", "markdown": "md", "pdf": "pdf"}


class PdfRenderer(Protocol):
    """Makes a PDF of a session; CPU work."""

    def render(self, session: Session, messages: list[Message]) -> bytes:
        """The whole file."""


class ExportHead:
    """What an export is."""

    def __init__(self, session: Session, file_format: str) -> None:
        self.media_type = _MEDIA_TYPES[file_format]
        self.filename = f"session-{session.id}.{_SUFFIXES[file_format]}"


def parsed_grounding(data: bytes) -> Mapping[str, Any] | None:
    """A grounding as chat completions take it; None for no bytes. INVALID names the offending member."""
    if not data:
        return None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise invalid("json_malformed", "The grounding is not valid JSON.", field="grounding") from None
    if not isinstance(value, dict):
        raise invalid("request_invalid", "The grounding must be a JSON object.", field="grounding")
    body = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "?"}], "grounding": value}
    parse_request(orjson.dumps(body), stream=False)
    return value


class ManageSessions:
    """`SessionService`."""

    def __init__(
        self,
        *,
        sessions: SessionStore,
        directory: ProviderDirectory,
        personas: Personas,
        pdf: PdfRenderer,
        clock: Clock,
        metrics: FeedbackMetrics,
    ) -> None:
        self._sessions = sessions
        self._directory = directory
        self._personas = personas
        self._pdf = pdf
        self._clock = clock
        self._metrics = metrics
        self._rendering = asyncio.Semaphore(_PDF_AT_ONCE)

    async def create(self, principal: Principal, draft: SessionDraft) -> Session:
        """A new session of the caller."""
        principal.require(WRITE)
        checked = SessionDraft(
            checked_title(draft.title),
            checked_name(draft.model, "model"),
            checked_name(draft.assistant, "assistant"),
            draft.grounding,
        )
        await self._check_names(principal, checked.model, checked.assistant)
        if not checked.model and not checked.assistant:
            checked = replace(checked, model=DEFAULT_MODEL)
        return await self._sessions.create(principal.tenant(), principal.user_id(), checked, self._clock.now())

    async def get(self, principal: Principal, session_id: UUID) -> Session:
        """A session the caller may read."""
        return await self._sessions.get(_reader(principal), session_id)

    async def page(self, principal: Principal, query: SessionQuery) -> list[Session]:
        """Sessions of one owner."""
        reader = _reader(principal)
        words = clean_text(query.text).strip()
        if len(words) > MAX_QUERY:
            raise invalid("query_too_long", f"A search has at most {MAX_QUERY} characters.", field="q")
        return await self._sessions.page(reader, replace(query, text=words))

    async def update(self, principal: Principal, session_id: UUID, change: SessionChange, version: int) -> Session:
        """Change one of the caller's sessions."""
        principal.require(WRITE)
        checked = replace(
            change,
            title=None if change.title is None else checked_title(change.title),
            model=None if change.model is None else checked_name(change.model, "model"),
            assistant=None if change.assistant is None else checked_name(change.assistant, "assistant"),
        )
        await self._check_names(principal, checked.model or "", checked.assistant or "", session_id)
        return await self._sessions.update(principal.tenant(), principal.user_id(), session_id, checked, version)

    async def delete(self, principal: Principal, session_id: UUID) -> None:
        """Delete one of the caller's sessions with all its texts."""
        principal.require(WRITE)
        await self._sessions.delete(principal.tenant(), principal.user_id(), session_id)

    async def messages(self, principal: Principal, query: MessageQuery) -> list[Message]:
        """Messages of a session the caller may read."""
        return await self._sessions.messages(_reader(principal), query)

    async def add_feedback(self, principal: Principal, message_id: UUID, score: int, tags: list[str], comment: str) -> None:
        """What the caller thinks of an answer in one of the caller's sessions."""
        principal.require(WRITE)
        feedback = checked_feedback(score, tags, comment)
        await self._sessions.add_feedback(principal.tenant(), principal.user_id(), message_id, feedback, self._clock.now())
        self._metrics.given(feedback.score)

    async def export(self, principal: Principal, session_id: UUID, file_format: str) -> AsyncGenerator[ExportHead | bytes, None]:
        """What it is, then its bytes in pieces."""
        if file_format not in _MEDIA_TYPES:
            raise invalid("format_unknown", f"The format is one of {', '.join(sorted(_MEDIA_TYPES))}.", field="format")
        async with aclosing(self._sessions.export(_reader(principal), session_id)) as entries:
            session = await anext(entries)
            if not isinstance(session, Session):
                raise TypeError("an export begins with its session")
            yield ExportHead(session, file_format)
            if file_format == "pdf":
                yield await self._rendered(session, entries)
                return
            writer = JsonTranscript() if file_format == "json" else MarkdownTranscript()
            yield writer.head(session)
            async for entry in entries:
                if isinstance(entry, Message):
                    yield writer.message(entry)
            yield writer.tail()

    async def _rendered(self, session: Session, entries: AsyncGenerator[Session | Message, None]) -> bytes:
        messages: list[Message] = []
        characters = 0
        async for entry in entries:
            if isinstance(entry, Message):
                messages.append(entry)
                characters += len(entry.content)
                if characters > _PDF_CHARACTERS:
                    raise WireroomError(
                        ErrorKind.TOO_LARGE,
                        "export_too_large",
                        f"The session has more than {_PDF_CHARACTERS} characters, too many for a PDF; export it as json or markdown.",
                    )
        async with self._rendering:
            return await asyncio.to_thread(self._pdf.render, session, messages)

    async def _check_names(self, principal: Principal, model: str, assistant: str, session_id: UUID | None = None) -> None:
        if is_assistant(model):
            await self._personas.persona(principal.tenant(), parse_model(model)[0], session_id)
        elif model:
            self._directory.catalogue().route(model, None, principal.tenant())
        if assistant:
            await self._personas.persona(principal.tenant(), assistant, session_id)


def purge_sessions(sessions: SessionStore, clock: Clock, retention_days: int) -> Callable[[], Any]:
    """The periodic work that deletes in small batches what is to go."""

    async def purge() -> None:
        retention = timedelta(days=retention_days) if retention_days else None
        for _ in range(_PURGE_BATCHES):
            if not await sessions.purge(clock.now(), retention):
                return

    return purge


def _reader(principal: Principal) -> Reader:
    tenant_wide = READ_ALL in principal.permissions
    if not tenant_wide:
        principal.require(READ)
    return Reader(principal.tenant(), principal.user_id(), tenant_wide)
