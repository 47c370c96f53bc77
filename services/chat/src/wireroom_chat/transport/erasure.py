"""What follows from a user's deletion and from a request to erase."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters.erasures_sql import begin_erasure
from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "chat.erasure"

_USER_DELETED = event_type(events_pb2.AuthUserDeleted())
_REQUESTED = event_type(events_pb2.PrivacyErasureRequested())


class Erasure:
    """The consumer `chat.erasure`. A malformed event raises and ends as a dead letter.

    Kept answers from documents that are erased go with what `rag` tells of them; others expire, encrypted and for nobody to ask for.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def subscription(self) -> Subscription:
        """For the service's declaration."""
        return Subscription(CONSUMER, work=self.handle, database=self._database)

    async def handle(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """One event, on its transaction; events of other types are not ours."""
        if envelope.type not in {_USER_DELETED, _REQUESTED}:
            return
        if envelope.tenant_id is None:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
            raise ValueError(msg)
        if envelope.type == _REQUESTED:
            requested = envelope.payload(events_pb2.PrivacyErasureRequested)
            of_user = UUID(requested.user_id) if requested.user_id else None
            await begin_erasure(connection, envelope.tenant_id, UUID(requested.erasure_id), of_user)
        else:
            deleted = envelope.payload(events_pb2.AuthUserDeleted)
            # From a version that asks for the erasure by an event of its own, this one tells nothing new.
            if not deleted.erasure_id:
                await begin_erasure(connection, envelope.tenant_id, envelope.id, UUID(deleted.user_id), tell=False)
