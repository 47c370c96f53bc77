"""What the use cases of chat sessions need from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from wireroom_chat.domain.sessions import Feedback, Message, Session, SessionChange, SessionDraft
from wireroom_chat.domain.source_terms import ANY, SourceTerms


@dataclass(frozen=True)
class Reader:
    """Who reads. `tenant_wide`: may read what belongs to others of the tenant; each such reading is audited."""

    tenant_id: UUID
    user_id: UUID
    tenant_wide: bool


@dataclass(frozen=True)
class SessionQuery:
    """Which sessions of an owner. `text`: words that stand in the title or together in one message."""

    owner_id: UUID
    text: str
    archived: bool | None
    after: tuple[datetime, UUID] | None
    limit: int


@dataclass(frozen=True)
class MessageQuery:
    """Which messages of a session: those after (newest first: before) a number."""

    session_id: UUID
    after: int | None
    limit: int
    newest_first: bool = False


class SessionStore(Protocol):
    """Sessions, private to their owner. What the caller may not know of is NOT_FOUND `session_not_found`."""

    async def create(self, tenant_id: UUID, owner_id: UUID, draft: SessionDraft, now: datetime) -> Session:
        """A new session."""

    async def get(self, reader: Reader, session_id: UUID) -> Session:
        """One session."""

    async def page(self, reader: Reader, query: SessionQuery) -> list[Session]:
        """Most recently used first. FORBIDDEN for another owner without the right."""

    async def update(self, tenant_id: UUID, owner_id: UUID, session_id: UUID, change: SessionChange, version: int) -> Session:
        """Change it; CONFLICT `version_conflict` unless `version` is 0 or the current one."""

    async def delete(self, tenant_id: UUID, owner_id: UUID, session_id: UUID) -> None:
        """Delete it with all its texts."""

    async def messages(self, reader: Reader, query: MessageQuery) -> list[Message]:
        """Messages in the order asked for."""

    def export(self, reader: Reader, session_id: UUID) -> AsyncGenerator[Session | Message, None]:
        """The session, then its messages in order, read in batches."""

    async def add_feedback(self, tenant_id: UUID, user_id: UUID, message_id: UUID, feedback: Feedback, now: datetime) -> None:
        """Keep it, in place of what the user said before. NOT_FOUND unless it is an answer in one of the user's sessions."""

    async def purge(self, now: datetime, retention: timedelta | None) -> int:
        """Delete a batch of sessions that are to be erased or were not used for `retention`; returns how many went."""


@dataclass(frozen=True)
class TurnStart:
    """A question about to be kept. Without `session_id` a session is made from `draft`."""

    tenant_id: UUID
    owner_id: UUID
    session_id: UUID | None
    draft: SessionDraft
    title: str
    message: str
    tokens: int
    model: str
    until: datetime
    now: datetime


@dataclass(frozen=True)
class Turn:
    """A turn whose question and empty answer stand. `history`: what was said before and is not in `summary`, in order."""

    session: Session
    user_message_id: UUID
    message_id: UUID
    model: str
    history: Sequence[Message]
    summary: str
    # Of the sources of all its answers so far.
    terms: SourceTerms = ANY


@dataclass(frozen=True)
class FinishedAnswer:
    """How an answer ended."""

    completion_id: str
    status: str
    content: str
    annotations: Sequence[Mapping[str, Any]]
    finish_reason: str
    error_code: str
    answer_mode: str
    tokens_in: int
    tokens_out: int
    # Of the sources that it may come from.
    terms: SourceTerms = ANY


class TurnStore(Protocol):
    """Turns of sessions; one at a time in each, under a lease."""

    async def begin(self, start: TurnStart) -> Turn:
        """Keep the question and an empty answer. CONFLICT `turn_in_progress`, `session_archived`; NOT_FOUND `session_not_found`."""

    async def finish(self, tenant_id: UUID, message_id: UUID, answer: FinishedAnswer, now: datetime) -> bool:
        """Complete the answer and free the session; False when that has been done already."""

    async def keep_summary(self, tenant_id: UUID, session_id: UUID, summary: str, through: int) -> None:
        """Keep a summary of the messages up to a number; never goes back."""

    async def renew(self, turns: Mapping[UUID, UUID], until: datetime) -> None:
        """Prolong the leases of these running turns (message → tenant)."""

    async def expire(self, now: datetime) -> int:
        """Fail the answers whose lease has run out; returns how many."""


@dataclass(frozen=True)
class Persona:
    """What an assistant brings into a conversation. Empty members leave the session's own."""

    instructions: str
    model: str = ""
    grounding: Mapping[str, Any] | None = None


class Personas(Protocol):
    """The assistants a session can have."""

    async def persona(self, tenant_id: UUID, name: str, session_id: UUID | None) -> Persona:
        """NOT_FOUND `assistant_not_found` when the tenant has none of that name. The session chooses between variants."""
