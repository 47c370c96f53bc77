"""Rows of sessions and messages as the domain has them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from google.protobuf.message import Message as Event
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.domain.sessions import Message, Session
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit

# A running turn counts as long as its lease does.
SESSION_COLUMNS = (
    "s.id, s.owner_id, s.title, s.model, s.assistant, s.grounding, s.archived, s.message_count, s.version, s.created_at, s.updated_at,"
    " coalesce(s.turn_until > now(), false) AS turn_running"
)
MESSAGE_COLUMNS = (
    "m.id, m.session_id, m.number, m.role, m.content, m.annotations, m.completion_id, m.status, m.finish_reason, m.error_code, m.model,"
    " m.answer_mode, m.tokens_in, m.tokens_out, m.created_at, m.finished_at"
)


def session_of(row: Any) -> Session:
    """From the columns above."""
    return Session(
        id=row.id,
        owner_id=row.owner_id,
        title=row.title,
        model=row.model,
        assistant=row.assistant,
        grounding=row.grounding,
        archived=row.archived,
        message_count=row.message_count,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        turn_running=row.turn_running,
    )


def message_of(row: Any, feedback: int = 0) -> Message:
    """From the columns above."""
    return Message(
        id=row.id,
        session_id=row.session_id,
        number=row.number,
        role=row.role,
        content=row.content,
        annotations=row.annotations,
        completion_id=row.completion_id,
        status=row.status,
        finish_reason=row.finish_reason,
        error_code=row.error_code,
        model=row.model,
        answer_mode=row.answer_mode,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        created_at=row.created_at,
        finished_at=row.finished_at,
        feedback=feedback,
    )


def session_missing() -> WireroomError:
    """There is none, or the caller may not know of it."""
    return WireroomError(ErrorKind.NOT_FOUND, "session_not_found", "There is no such chat session.")


def json_text(value: Any) -> str | None:
    """For a jsonb parameter."""
    return None if value is None else orjson.dumps(value).decode()


async def tell(
    connection: AsyncConnection, event: Event, *, tenant_id: UUID, subject: UUID, actor: UUID, effect: bool = True
) -> None:
    """Write an event of a user's action."""
    await emit(connection, event, tenant_id=tenant_id, subject=str(subject), actor=str(actor), effect=effect)
