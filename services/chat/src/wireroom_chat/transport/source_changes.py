"""What the rag service tells: documents and articles that can be found now, or no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription
from wireroom_common.db import Database

CONSUMER = "chat.answers"


def source_changes(database: Database, changed: Callable[[UUID], Awaitable[None]]) -> Subscription:
    """The consumer `chat.answers`: after each change of a tenant's sources no answer kept before it is given again."""

    async def handle(connection: AsyncConnection, envelope: Envelope) -> None:
        del connection
        if envelope.tenant_id is not None:
            await changed(envelope.tenant_id)

    return Subscription(CONSUMER, work=handle, database=database)
