"""What follows from a user's deletion."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters.artefacts import erase_artefacts
from wireroom_chat.adapters.responses_sql import erase_responses
from wireroom_chat.adapters.sessions_sql import erase_user
from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "chat.erasure"

_USER_DELETED = event_type(events_pb2.AuthUserDeleted())


class Erasure:
    """The consumer `chat.erasure`. A malformed event raises and ends as a dead letter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def subscription(self) -> Subscription:
        """For the service's declaration."""
        return Subscription(CONSUMER, work=self.handle, database=self._database)

    async def handle(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """One event, on its transaction; events of other types are not ours."""
        if envelope.type != _USER_DELETED:
            return
        if envelope.tenant_id is None:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
            raise ValueError(msg)
        user_id = UUID(envelope.payload(events_pb2.AuthUserDeleted).user_id)
        await erase_user(connection, envelope.tenant_id, user_id)
        await erase_artefacts(connection, envelope.tenant_id, user_id)
        await erase_responses(connection, envelope.tenant_id, user_id)
