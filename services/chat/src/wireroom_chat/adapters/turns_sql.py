"""Turns of sessions in PostgreSQL: the question, the answer that follows, and the lease between them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters.session_rows import MESSAGE_COLUMNS, SESSION_COLUMNS, json_text, message_of, session_of, tell
from wireroom_chat.adapters.sessions_sql import insert_session, own_session
from wireroom_chat.domain.sessions import Message, clean_json, clean_text
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.ports.sessions import FinishedAnswer, Turn, TurnStart
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_protos.events.v1 import events_pb2

TURN_LOST = "turn_lost"
_EXPIRE_LIMIT = 200
# What may stand between two summaries.
_HISTORY_LIMIT = 400
_RETRY_AFTER = 2.0


class SqlTurns:
    """Implements `TurnStore`. Each method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, start: TurnStart) -> Turn:
        async with self._database.tenant(start.tenant_id) as connection:
            summary, through, terms = "", 0, ANY
            if start.session_id is None:
                session = await insert_session(connection, start.tenant_id, start.owner_id, start.draft, start.now)
            else:
                held = await own_session(connection, start.tenant_id, start.owner_id, start.session_id, lock=True)
                await _free(connection, start, held)
                session, summary, through = session_of(held), held.summary, held.summary_through
                terms = SourceTerms.read(held.source_terms)
            history = await _history(connection, start.tenant_id, session.id, through)
            last = await _last_number(connection, start.tenant_id, session.id)
            user_message_id, message_id = new_id(), new_id()
            model = start.model or session.model
            for number, identity, role, content in (
                (last + 1, user_message_id, "user", start.message),
                (last + 2, message_id, "assistant", ""),
            ):
                await connection.execute(
                    text(
                        "INSERT INTO messages (tenant_id, id, session_id, owner_id, number, role, content, status, model, tokens_in,"
                        " created_at, finished_at) VALUES (:tenant_id, :id, :session_id, :owner_id, :number, :role, :content, :status,"
                        " :model, :tokens, :now, :finished_at)"
                    ),
                    {
                        "tenant_id": start.tenant_id,
                        "id": identity,
                        "session_id": session.id,
                        "owner_id": start.owner_id,
                        "number": number,
                        "role": role,
                        "content": content,
                        "status": "completed" if role == "user" else "streaming",
                        "model": "" if role == "user" else model,
                        "tokens": start.tokens if role == "user" else 0,
                        "now": start.now,
                        "finished_at": start.now if role == "user" else None,
                    },
                )
            row = (
                await connection.execute(
                    text(
                        "UPDATE sessions s SET message_count = message_count + 2, version = version + 1, updated_at = :now,"  # noqa: S608
                        " title = CASE WHEN title = '' THEN :title ELSE title END, turn_message_id = :message_id, turn_until = :until"
                        f" WHERE tenant_id = :tenant_id AND id = :id RETURNING {SESSION_COLUMNS}"
                    ),
                    {
                        "tenant_id": start.tenant_id,
                        "id": session.id,
                        "now": start.now,
                        "title": start.title,
                        "message_id": message_id,
                        "until": start.until,
                    },
                )
            ).one()
            event = events_pb2.ChatMessageCreated(
                message_id=str(user_message_id), session_id=str(session.id), role="user", tokens=start.tokens, model=model
            )
            await tell(connection, event, tenant_id=start.tenant_id, subject=user_message_id, actor=start.owner_id)
        return Turn(session_of(row), user_message_id, message_id, model, history, summary, terms)

    async def finish(self, tenant_id: UUID, message_id: UUID, answer: FinishedAnswer, now: datetime) -> bool:
        async with self._database.tenant(tenant_id) as connection:
            # The session before its message, like everybody who needs both.
            await connection.execute(
                text(
                    "SELECT 1 FROM sessions WHERE tenant_id = :tenant_id AND id = (SELECT session_id FROM messages"
                    " WHERE tenant_id = :tenant_id AND id = :id) FOR UPDATE"
                ),
                {"tenant_id": tenant_id, "id": message_id},
            )
            row = (
                await connection.execute(
                    text(
                        "UPDATE messages SET status = :status, content = :content, annotations = CAST(:annotations AS jsonb),"
                        " completion_id = :completion_id, finish_reason = :finish_reason, error_code = :error_code,"
                        " answer_mode = :answer_mode, tokens_in = :tokens_in, tokens_out = :tokens_out, finished_at = :now"
                        # An answer that was given up as lost, but came after all, counts.
                        " WHERE tenant_id = :tenant_id AND id = :id AND (status = 'streaming' OR error_code = :lost)"
                        " RETURNING session_id, owner_id, model"
                    ),
                    {
                        "tenant_id": tenant_id,
                        "id": message_id,
                        "status": answer.status,
                        "content": clean_text(answer.content),
                        "annotations": json_text(clean_json(list(answer.annotations))),
                        "completion_id": answer.completion_id,
                        "finish_reason": answer.finish_reason,
                        "error_code": answer.error_code,
                        "answer_mode": answer.answer_mode,
                        "tokens_in": answer.tokens_in,
                        "tokens_out": answer.tokens_out,
                        "now": now,
                        "lost": TURN_LOST,
                    },
                )
            ).first()
            if row is None:
                return False
            await _add_terms(connection, tenant_id, row.session_id, answer.terms)
            await _release(connection, tenant_id, row.session_id, message_id, now)
            event = events_pb2.ChatMessageCreated(
                message_id=str(message_id),
                session_id=str(row.session_id),
                role="assistant",
                tokens=answer.tokens_out,
                model=row.model,
            )
            await tell(connection, event, tenant_id=tenant_id, subject=message_id, actor=row.owner_id, effect=False)
        return True

    async def keep_summary(self, tenant_id: UUID, session_id: UUID, summary: str, through: int) -> None:
        async with self._database.tenant(tenant_id) as connection:
            await connection.execute(
                text(
                    "UPDATE sessions SET summary = :summary, summary_through = :through"
                    " WHERE tenant_id = :tenant_id AND id = :id AND summary_through < :through"
                ),
                {"tenant_id": tenant_id, "id": session_id, "summary": clean_text(summary), "through": through},
            )

    async def renew(self, turns: Mapping[UUID, UUID], until: datetime) -> None:
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE sessions s SET turn_until = :until FROM unnest(CAST(:tenants AS uuid[]), CAST(:messages AS uuid[]))"
                    " AS held(tenant_id, message_id) WHERE s.tenant_id = held.tenant_id AND s.turn_message_id = held.message_id"
                ),
                {"until": until, "tenants": list(turns.values()), "messages": list(turns)},
            )

    async def expire(self, now: datetime) -> int:
        """Safe on several replicas."""
        async with self._database.system() as connection:
            rows = (
                await connection.execute(
                    text(
                        "WITH gone AS MATERIALIZED (SELECT tenant_id, id, turn_message_id FROM sessions WHERE turn_until < :now"
                        " ORDER BY turn_until LIMIT :limit FOR UPDATE SKIP LOCKED)"
                        " UPDATE sessions s SET turn_message_id = NULL, turn_until = NULL FROM gone"
                        " WHERE s.tenant_id = gone.tenant_id AND s.id = gone.id RETURNING s.tenant_id, gone.turn_message_id"
                    ),
                    {"now": now, "limit": _EXPIRE_LIMIT},
                )
            ).all()
            for row in rows:
                await _lose(connection, row.tenant_id, row.turn_message_id, now)
        return len(rows)


async def _free(connection: AsyncConnection, start: TurnStart, held: Any) -> None:
    """CONFLICT unless the locked session takes a turn now; a turn whose lease has run out is given up."""
    if held.archived:
        raise WireroomError(
            ErrorKind.CONFLICT, "session_archived", "The session is archived: take it out of the archive to go on."
        )
    if held.turn_message_id is None:
        return
    if held.turn_until > start.now:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "turn_in_progress",
            "The answer to the question before is still being written: wait for its end, or cancel it.",
            retry_after=_RETRY_AFTER,
        )
    await _lose(connection, start.tenant_id, held.turn_message_id, start.now)


async def _lose(connection: AsyncConnection, tenant_id: UUID, message_id: UUID, now: datetime) -> None:
    await connection.execute(
        text(
            "UPDATE messages SET status = 'failed', error_code = :lost, finished_at = :now"
            " WHERE tenant_id = :tenant_id AND id = :id AND status = 'streaming'"
        ),
        {"tenant_id": tenant_id, "id": message_id, "lost": TURN_LOST, "now": now},
    )


async def _add_terms(connection: AsyncConnection, tenant_id: UUID, session_id: UUID, terms: SourceTerms) -> None:
    """To those of the (locked) session's earlier answers: they are never taken off, for its summary may tell of any answer."""
    if terms == ANY:
        return
    keys = {"tenant_id": tenant_id, "id": session_id}
    before = await connection.execute(text("SELECT source_terms FROM sessions WHERE tenant_id = :tenant_id AND id = :id"), keys)
    joined = SourceTerms.union((SourceTerms.read(before.scalar_one()), terms))
    await connection.execute(
        text("UPDATE sessions SET source_terms = CAST(:terms AS jsonb) WHERE tenant_id = :tenant_id AND id = :id"),
        {**keys, "terms": json_text(joined.written())},
    )


async def _release(connection: AsyncConnection, tenant_id: UUID, session_id: UUID, message_id: UUID, now: datetime) -> None:
    await connection.execute(
        text(
            "UPDATE sessions SET updated_at = :now,"
            " turn_until = CASE WHEN turn_message_id = :message_id THEN NULL ELSE turn_until END,"
            " turn_message_id = NULLIF(turn_message_id, :message_id)"
            " WHERE tenant_id = :tenant_id AND id = :id"
        ),
        {"tenant_id": tenant_id, "id": session_id, "message_id": message_id, "now": now},
    )


async def _history(connection: AsyncConnection, tenant_id: UUID, session_id: UUID, through: int) -> list[Message]:
    rows = await connection.execute(
        text(
            f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.tenant_id = :tenant_id AND m.session_id = :session_id"  # noqa: S608
            " AND m.number > :through ORDER BY m.number DESC LIMIT :limit"
        ),
        {"tenant_id": tenant_id, "session_id": session_id, "through": through, "limit": _HISTORY_LIMIT},
    )
    return [message_of(row) for row in reversed(rows.all())]


async def _last_number(connection: AsyncConnection, tenant_id: UUID, session_id: UUID) -> int:
    found = await connection.execute(
        text("SELECT coalesce(max(number), 0) FROM messages WHERE tenant_id = :tenant_id AND session_id = :session_id"),
        {"tenant_id": tenant_id, "session_id": session_id},
    )
    return int(found.scalar_one())
