"""PrivacyService, and the consumer of what the other services have erased."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.erasures_sql import take_part
from wireroom_auth.domain.erasure import OWN_PART, PARTS, Erasure, ErasureState, Part, Signer
from wireroom_auth.transport.audit import audit_page
from wireroom_auth.transport.messages import timestamp, user_message
from wireroom_auth.usecases.erase import EraseMe, EraseTenant, ReadErasures
from wireroom_auth.usecases.export import ListOwnAudit, StartExport
from wireroom_common.bus import Envelope, event_type
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import privacy_pb2, privacy_pb2_grpc
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "auth.erasure"
_SERVICE = "/wireroom_protos.auth.v1.PrivacyService"
PUBLIC_RPCS = frozenset({f"{_SERVICE}/OpenErasure", f"{_SERVICE}/GetReceiptKey"})
_STATES = {
    ErasureState.REQUESTED: privacy_pb2.ERASURE_STATE_REQUESTED,
    ErasureState.RUNNING: privacy_pb2.ERASURE_STATE_RUNNING,
    ErasureState.COMPLETED: privacy_pb2.ERASURE_STATE_COMPLETED,
    ErasureState.FAILED: privacy_pb2.ERASURE_STATE_FAILED,
}
_PART_DONE = event_type(events_pb2.PrivacyErasurePartDone())


class ErasureParts:
    """The handler of `auth.erasure`. A malformed event raises and ends as a dead letter."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    async def on_event(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """Take one answer; events of other types are not ours."""
        if envelope.type != _PART_DONE:
            return
        payload = envelope.payload(events_pb2.PrivacyErasurePartDone)
        if envelope.tenant_id is None or payload.part not in PARTS or payload.part == OWN_PART:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant, or a part that nobody has: {payload.part[:50]!r}."
            raise ValueError(msg)
        part = Part(
            payload.part, envelope.time, dict(payload.counts), payload.receipt_sha256, payload.signature, payload.public_key
        )
        await take_part(connection, envelope.tenant_id, UUID(payload.erasure_id), part, self._signer)


@dataclass(frozen=True)
class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """PrivacyService."""

    erase_me: EraseMe
    erase_tenant: EraseTenant
    read: ReadErasures
    start_export: StartExport
    own_audit: ListOwnAudit
    signer: Signer

    async def EraseMe(self, request: privacy_pb2.EraseMeRequest, context: Any) -> privacy_pb2.EraseMeResponse:  # noqa: ARG002, N802
        erasure, token = await self.erase_me.run(current_principal(), request.password, request.code)
        return privacy_pb2.EraseMeResponse(erasure=_message(erasure), token=token)

    async def EraseTenant(  # noqa: N802
        self,
        request: privacy_pb2.EraseTenantRequest,
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.EraseTenantResponse:
        erasure, token = await self.erase_tenant.run(current_principal(), request.name, request.password, request.code)
        return privacy_pb2.EraseTenantResponse(erasure=_message(erasure), token=token)

    async def GetErasure(self, request: privacy_pb2.GetErasureRequest, context: Any) -> privacy_pb2.GetErasureResponse:  # noqa: ARG002, N802
        return privacy_pb2.GetErasureResponse(erasure=_message(await self.read.get(current_principal(), request.id)))

    async def OpenErasure(  # noqa: N802
        self,
        request: privacy_pb2.OpenErasureRequest,
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.OpenErasureResponse:
        return privacy_pb2.OpenErasureResponse(erasure=_message(await self.read.opened(request.id, request.token)))

    async def ListErasures(  # noqa: N802
        self,
        request: privacy_pb2.ListErasuresRequest,
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.ListErasuresResponse:
        found, token = await self.read.page(current_principal(), request.page_size, request.page_token)
        return privacy_pb2.ListErasuresResponse(erasures=[_message(one) for one in found], next_page_token=token)

    async def GetReceiptKey(  # noqa: N802
        self,
        request: privacy_pb2.GetReceiptKeyRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.GetReceiptKeyResponse:
        return privacy_pb2.GetReceiptKeyResponse(public_key=base64.b64encode(self.signer.public_key()).decode())

    async def StartExport(  # noqa: N802
        self,
        request: privacy_pb2.StartExportRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.StartExportResponse:
        user = await self.start_export.run(current_principal())
        return privacy_pb2.StartExportResponse(user=user_message(user, user.permissions))

    async def ListOwnAudit(  # noqa: N802
        self,
        request: privacy_pb2.ListOwnAuditRequest,
        context: Any,  # noqa: ARG002
    ) -> privacy_pb2.ListOwnAuditResponse:
        records = await self.own_audit.run(current_principal(), request.after, request.page_size)
        messages, next_after = audit_page(records, request.after)
        return privacy_pb2.ListOwnAuditResponse(records=messages, next_after=next_after)


def _message(erasure: Erasure) -> privacy_pb2.Erasure:
    return privacy_pb2.Erasure(
        id=str(erasure.id),
        user_id=str(erasure.user_id or ""),
        requested_by=erasure.requested_by,
        state=_STATES[erasure.state],
        requested_at=timestamp(erasure.requested_at),
        deadline_at=timestamp(erasure.deadline_at),
        completed_at=timestamp(erasure.completed_at),
        parts=[
            privacy_pb2.ErasurePart(part=part.name, done_at=timestamp(part.done_at), counts=dict(part.counts))
            for part in erasure.parts
        ],
        transfer_to=str(erasure.transfer_to or ""),
        receipt=erasure.receipt,
        signature=erasure.signature,
        public_key=erasure.public_key,
    )
