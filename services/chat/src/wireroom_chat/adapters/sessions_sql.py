"""Sessions in PostgreSQL. Row-level security keeps tenants apart, `owner_id` in each statement keeps users apart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters import audit_trail
from wireroom_chat.adapters.erasures_sql import refuse_erased
from wireroom_chat.adapters.session_rows import (
    MESSAGE_COLUMNS,
    SESSION_COLUMNS,
    json_text,
    message_of,
    session_missing,
    session_of,
    tell,
)
from wireroom_chat.domain.sessions import Feedback, Message, Session, SessionChange, SessionDraft
from wireroom_chat.ports.sessions import MessageQuery, Reader, SessionQuery
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_protos.events.v1 import events_pb2

_PURGE_LIMIT = 100
_EXPORT_BATCH = 200


class SqlSessions:
    """Implements `SessionStore`. Each method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: UUID, owner_id: UUID, draft: SessionDraft, now: datetime) -> Session:
        async with self._database.tenant(tenant_id) as connection:
            return await insert_session(connection, tenant_id, owner_id, draft, now)

    async def get(self, reader: Reader, session_id: UUID) -> Session:
        async with self._database.tenant(reader.tenant_id) as connection:
            return await _read(connection, reader, session_id, "session")

    async def page(self, reader: Reader, query: SessionQuery) -> list[Session]:
        if query.owner_id != reader.user_id and not reader.tenant_wide:
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "permission_missing",
                "The permission 'sessions:read:tenant' is needed to read the sessions of others.",
            )
        conditions = ["s.tenant_id = :tenant_id", "s.owner_id = :owner_id", "s.erase_reason = ''"]
        values: dict[str, Any] = {"tenant_id": reader.tenant_id, "owner_id": query.owner_id, "limit": query.limit}
        if query.archived is not None:
            conditions.append("s.archived = :archived")
            values["archived"] = query.archived
        if query.after is not None:
            conditions.append("(s.updated_at, s.id) < (:moment, :id)")
            values["moment"], values["id"] = query.after
        if query.text:
            conditions.append(
                "(to_tsvector('simple', s.title) @@ websearch_to_tsquery('simple', :text) OR s.id IN (SELECT m.session_id FROM messages m"
                " WHERE m.tenant_id = :tenant_id AND m.owner_id = :owner_id AND m.search @@ websearch_to_tsquery('simple', :text)))"
            )
            values["text"] = query.text
        async with self._database.tenant(reader.tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {SESSION_COLUMNS} FROM sessions s WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants
                    " ORDER BY s.updated_at DESC, s.id DESC LIMIT :limit"
                ),
                values,
            )
            found = [session_of(row) for row in rows.all()]
            if query.owner_id != reader.user_id:
                await _audit(connection, reader, "chat.sessions.listed", query.owner_id, owner_id=str(query.owner_id))
        return found

    async def update(self, tenant_id: UUID, owner_id: UUID, session_id: UUID, change: SessionChange, version: int) -> Session:
        members: dict[str, Any] = {
            name: value
            for name, value in (
                ("title", change.title),
                ("model", change.model),
                ("assistant", change.assistant),
                ("archived", change.archived),
            )
            if value is not None
        }
        assignments = [f"{name} = :{name}" for name in members]
        if change.grounding is not None or change.clear_grounding:
            assignments.append("grounding = CAST(:grounding AS jsonb)")
            members["grounding"] = json_text(change.grounding)
        async with self._database.tenant(tenant_id) as connection:
            held = await own_session(connection, tenant_id, owner_id, session_id, lock=True)
            if version and version != held.version:
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "version_conflict",
                    f"The session was changed meanwhile (version {held.version}); read it again and repeat the change.",
                )
            row = (
                await connection.execute(
                    text(
                        f"UPDATE sessions s SET {', '.join([*assignments, 'version = s.version + 1'])}"  # noqa: S608 - constants
                        f" WHERE tenant_id = :tenant_id AND id = :id RETURNING {SESSION_COLUMNS}"
                    ),
                    {**members, "tenant_id": tenant_id, "id": session_id},
                )
            ).one()
            return session_of(row)

    async def delete(self, tenant_id: UUID, owner_id: UUID, session_id: UUID) -> None:
        async with self._database.tenant(tenant_id) as connection:
            await own_session(connection, tenant_id, owner_id, session_id, lock=True)
            await connection.execute(
                text("DELETE FROM sessions WHERE tenant_id = :tenant_id AND id = :id"), {"tenant_id": tenant_id, "id": session_id}
            )
            event = events_pb2.ChatSessionDeleted(session_id=str(session_id), user_id=str(owner_id), reason="owner")
            await tell(connection, event, tenant_id=tenant_id, subject=session_id, actor=owner_id)

    async def messages(self, reader: Reader, query: MessageQuery) -> list[Message]:
        async with self._database.tenant(reader.tenant_id) as connection:
            # A page is part of one reading; the first page is what is audited.
            await _read(connection, reader, query.session_id, "messages", audited=query.after is None)
            return await _messages(connection, reader.tenant_id, query)

    async def export(self, reader: Reader, session_id: UUID) -> AsyncGenerator[Session | Message, None]:
        async with self._database.tenant(reader.tenant_id) as connection:
            session = await _read(connection, reader, session_id, "export")
        yield session
        after = 0
        while True:
            # A transaction for each batch: none stays open while the file is made.
            async with self._database.tenant(reader.tenant_id) as connection:
                batch = await _messages(connection, reader.tenant_id, MessageQuery(session_id, after, _EXPORT_BATCH))
            for message in batch:
                yield message
            if len(batch) < _EXPORT_BATCH:
                return
            after = batch[-1].number

    async def add_feedback(self, tenant_id: UUID, user_id: UUID, message_id: UUID, feedback: Feedback, now: datetime) -> None:
        async with self._database.tenant(tenant_id) as connection:
            found = await connection.execute(
                text(
                    "SELECT 1 FROM messages m JOIN sessions s ON s.tenant_id = m.tenant_id AND s.id = m.session_id"
                    " WHERE m.tenant_id = :tenant_id AND m.id = :id AND m.owner_id = :owner_id AND m.role = 'assistant'"
                    " AND s.erase_reason = ''"
                ),
                {"tenant_id": tenant_id, "id": message_id, "owner_id": user_id},
            )
            if found.first() is None:
                raise WireroomError(ErrorKind.NOT_FOUND, "message_not_found", "There is no such answer.")
            await connection.execute(
                text(
                    "INSERT INTO feedback (tenant_id, message_id, user_id, score, tags, comment, created_at)"
                    " VALUES (:tenant_id, :message_id, :user_id, :score, :tags, :comment, :now)"
                    " ON CONFLICT (tenant_id, message_id, user_id) DO UPDATE SET score = EXCLUDED.score, tags = EXCLUDED.tags,"
                    " comment = EXCLUDED.comment, created_at = EXCLUDED.created_at"
                ),
                {
                    "tenant_id": tenant_id,
                    "message_id": message_id,
                    "user_id": user_id,
                    "score": feedback.score,
                    "tags": list(feedback.tags),
                    "comment": feedback.comment,
                    "now": now,
                },
            )
            event = events_pb2.ChatFeedbackAdded(message_id=str(message_id), score=feedback.score, tags=feedback.tags)
            await tell(connection, event, tenant_id=tenant_id, subject=message_id, actor=user_id)

    async def purge(self, now: datetime, retention: timedelta | None) -> int:
        """Safe on several replicas. A session with a turn under way stays until that has ended."""
        old = " OR updated_at < :before" if retention is not None else ""
        values: dict[str, Any] = {"now": now, "limit": _PURGE_LIMIT}
        if retention is not None:
            values["before"] = now - retention
        async with self._database.system() as connection:
            rows = (
                await connection.execute(
                    text(
                        "WITH gone AS MATERIALIZED (SELECT tenant_id, id FROM sessions"  # noqa: S608 - constants
                        f" WHERE (erase_reason <> ''{old}) AND (turn_until IS NULL OR turn_until < :now)"
                        " LIMIT :limit FOR UPDATE SKIP LOCKED)"
                        " DELETE FROM sessions s USING gone WHERE s.tenant_id = gone.tenant_id AND s.id = gone.id"
                        " RETURNING s.tenant_id, s.id, s.owner_id, s.erase_reason"
                    ),
                    values,
                )
            ).all()
            for row in rows:
                event = events_pb2.ChatSessionDeleted(
                    session_id=str(row.id), user_id=str(row.owner_id), reason=row.erase_reason or "retention"
                )
                await tell(connection, event, tenant_id=row.tenant_id, subject=row.id, actor=row.owner_id)
        return len(rows)


async def insert_session(
    connection: AsyncConnection, tenant_id: UUID, owner_id: UUID, draft: SessionDraft, now: datetime
) -> Session:
    """A new session and the event that tells of it; FORBIDDEN `owner_erased`."""
    await refuse_erased(connection, tenant_id, owner_id)
    row = (
        await connection.execute(
            text(
                "INSERT INTO sessions AS s (tenant_id, id, owner_id, title, model, assistant, grounding, created_at, updated_at)"  # noqa: S608
                " VALUES (:tenant_id, :id, :owner_id, :title, :model, :assistant, CAST(:grounding AS jsonb), :now, :now)"
                f" RETURNING {SESSION_COLUMNS}"
            ),
            {
                "tenant_id": tenant_id,
                "id": new_id(),
                "owner_id": owner_id,
                "title": draft.title,
                "model": draft.model,
                "assistant": draft.assistant,
                "grounding": json_text(draft.grounding),
                "now": now,
            },
        )
    ).one()
    event = events_pb2.ChatSessionCreated(session_id=str(row.id), user_id=str(owner_id))
    await tell(connection, event, tenant_id=tenant_id, subject=row.id, actor=owner_id)
    return session_of(row)


async def own_session(
    connection: AsyncConnection, tenant_id: UUID, owner_id: UUID, session_id: UUID, *, lock: bool = False
) -> Any:
    """The row of one of the owner's sessions; NOT_FOUND for any other."""
    row = (
        await connection.execute(
            text(
                f"SELECT {SESSION_COLUMNS}, s.summary, s.summary_through, s.source_terms, s.turn_message_id, s.turn_until FROM sessions s"  # noqa: S608
                " WHERE s.tenant_id = :tenant_id AND s.id = :id AND s.owner_id = :owner_id AND s.erase_reason = ''"
                + (" FOR UPDATE" if lock else "")
            ),
            {"tenant_id": tenant_id, "id": session_id, "owner_id": owner_id},
        )
    ).first()
    if row is None:
        raise session_missing()
    return row


async def _read(connection: AsyncConnection, reader: Reader, session_id: UUID, what: str, *, audited: bool = True) -> Session:
    row = (
        await connection.execute(
            text(
                f"SELECT {SESSION_COLUMNS} FROM sessions s"  # noqa: S608 - constants
                " WHERE s.tenant_id = :tenant_id AND s.id = :id AND s.erase_reason = '' AND (s.owner_id = :user_id OR :tenant_wide)"
            ),
            {"tenant_id": reader.tenant_id, "id": session_id, "user_id": reader.user_id, "tenant_wide": reader.tenant_wide},
        )
    ).first()
    if row is None:
        raise session_missing()
    if row.owner_id != reader.user_id and audited:
        await _audit(connection, reader, "chat.session.read", session_id, owner_id=str(row.owner_id), what=what)
    return session_of(row)


async def _messages(connection: AsyncConnection, tenant_id: UUID, query: MessageQuery) -> list[Message]:
    values: dict[str, Any] = {"tenant_id": tenant_id, "session_id": query.session_id, "limit": query.limit}
    border = ""
    if query.after is not None:
        border = f" AND m.number {'<' if query.newest_first else '>'} :after"
        values["after"] = query.after
    rows = await connection.execute(
        text(
            f"SELECT {MESSAGE_COLUMNS}, coalesce(f.score, 0) AS feedback FROM messages m"  # noqa: S608 - constants
            " LEFT JOIN feedback f ON f.tenant_id = m.tenant_id AND f.message_id = m.id AND f.user_id = m.owner_id"
            f" WHERE m.tenant_id = :tenant_id AND m.session_id = :session_id{border}"
            f" ORDER BY m.number {'DESC' if query.newest_first else 'ASC'} LIMIT :limit"
        ),
        values,
    )
    return [message_of(row, row.feedback) for row in rows.all()]


async def _audit(connection: AsyncConnection, reader: Reader, action: str, subject: UUID, **details: str) -> None:
    await audit_trail.record_reading(
        connection, action, tenant_id=reader.tenant_id, subject=str(subject), actor=str(reader.user_id), **details
    )
