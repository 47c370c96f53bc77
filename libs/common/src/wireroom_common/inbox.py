"""The inbox: which events a consumer has already taken, so that a repeated delivery has no second effect."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database


async def first_sight(connection: AsyncConnection, consumer: str, event_id: UUID) -> bool:
    """Record the event for the consumer in the caller's transaction; False if it stood there already.

    A second transaction with the same event waits here until the first one has committed or rolled back.
    """
    result = await connection.execute(
        text("INSERT INTO inbox (consumer, event_id) VALUES (:consumer, :event_id) ON CONFLICT DO NOTHING"),
        {"consumer": consumer, "event_id": event_id},
    )
    return result.rowcount == 1


async def purge_inbox(database: Database, older_than: timedelta, *, limit: int = 5000) -> int:
    """Delete at most `limit` inbox rows older than `older_than`; returns how many went.

    `older_than` must exceed the longest time after which an event may still be delivered again (days, not minutes).
    """
    async with database.system() as connection:
        result = await connection.execute(
            text(
                "WITH old AS MATERIALIZED (SELECT consumer, event_id FROM inbox WHERE seen_at < now() - :age"
                " ORDER BY seen_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
                " DELETE FROM inbox USING old WHERE inbox.consumer = old.consumer AND inbox.event_id = old.event_id"
            ),
            {"age": older_than, "limit": limit},
        )
    return result.rowcount
