"""What follows from a user's deletion and from a request to erase, and the receipts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.rag.v1 import access_pb2, access_pb2_grpc
from wireroom_rag.adapters.erasure_sql import begin_erasure
from wireroom_rag.domain.erasure import Receipt
from wireroom_rag.ports.access import Receipts

CONSUMER = "rag.erasure"
READ_RECEIPTS = "privacy:erase:tenant"
_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_USER_DELETED = event_type(events_pb2.AuthUserDeleted())
_REQUESTED = event_type(events_pb2.PrivacyErasureRequested())


class ErasureEvents:
    """The consumer `rag.erasure`. A malformed event raises and ends as a dead letter."""

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
        if envelope.type == _USER_DELETED:
            deleted = envelope.payload(events_pb2.AuthUserDeleted)
            # From a version that asks for the erasure by an event of its own, this one tells nothing new.
            if not deleted.erasure_id:
                await begin_erasure(connection, envelope.tenant_id, envelope.id, UUID(deleted.user_id))
        else:
            requested = envelope.payload(events_pb2.PrivacyErasureRequested)
            of_user = UUID(requested.user_id) if requested.user_id else None
            heir = UUID(requested.transfer_to) if requested.transfer_to else None
            await begin_erasure(connection, envelope.tenant_id, UUID(requested.erasure_id), of_user, heir)


class ReceiptServicer(access_pb2_grpc.ReceiptServiceServicer):
    """Maps messages to the store."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    async def ListReceipts(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.ListReceiptsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.ListReceiptsResponse:
        principal = current_principal()
        principal.require(READ_RECEIPTS)
        if request.page_size < 0:
            raise invalid("page_size_out_of_range", f"page_size must be between 1 and {_MAX_PAGE}.", field="page_size")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        after = parse_id(request.after, "receipt") if request.after else None
        found = await self._receipts.receipts(principal.tenant(), limit=size + 1, after=after)
        return access_pb2.ListReceiptsResponse(receipts=[_message(entry) for entry in found[:size]], has_more=len(found) > size)

    async def GetReceipt(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.GetReceiptRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.GetReceiptResponse:
        principal = current_principal()
        principal.require(READ_RECEIPTS)
        found = await self._receipts.receipt(principal.tenant(), parse_id(request.id, "receipt"))
        if found is None:
            raise not_found("receipt")
        return access_pb2.GetReceiptResponse(receipt=_message(found))


def _message(receipt: Receipt) -> access_pb2.ErasureReceipt:
    message = access_pb2.ErasureReceipt(
        id=str(receipt.id), content=receipt.content, signature=receipt.signature, public_key=receipt.public_key
    )
    message.requested_at.FromDatetime(receipt.requested_at)
    if receipt.completed_at is not None:
        message.completed_at.FromDatetime(receipt.completed_at)
    return message
