"""AuditService, and the consumer that chains the facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.audit_sql import append, stored_details
from wireroom_auth.domain.audit import INSTALLATION, AuditFact, AuditFilter, AuditRecord
from wireroom_auth.transport.messages import timestamp
from wireroom_auth.usecases.audit import QueryAudit, VerifyAudit
from wireroom_common.bus import Envelope
from wireroom_common.errors import invalid
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "auth.audit"
# A page ends early rather than outgrow what a gRPC message may hold by default (4 MiB).
_MAX_PAGE_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class AuditServicer(auth_pb2_grpc.AuditServiceServicer):
    """AuditService."""

    query: QueryAudit
    verify: VerifyAudit

    async def QueryAudit(self, request: auth_pb2.QueryAuditRequest, context: Any) -> auth_pb2.QueryAuditResponse:  # noqa: ARG002, N802
        chosen = AuditFilter(
            action=request.action,
            actor=request.actor,
            since=_moment(request.since, "since") if request.HasField("since") else None,
            until=_moment(request.until, "until") if request.HasField("until") else None,
        )
        records = await self.query.run(
            current_principal(), request.after, request.page_size, chosen, installation=request.installation
        )
        messages, next_after = audit_page(records, request.after)
        return auth_pb2.QueryAuditResponse(records=messages, next_after=next_after)

    async def VerifyChain(self, request: auth_pb2.VerifyChainRequest, context: Any) -> auth_pb2.VerifyChainResponse:  # noqa: ARG002, N802
        verdict = await self.verify.run(current_principal(), installation=request.installation)
        return auth_pb2.VerifyChainResponse(
            intact=verdict.intact,
            records=verdict.records,
            first_bad_sequence=verdict.first_bad_sequence,
            problem=verdict.problem.value if verdict.problem else "",
            head_hash=verdict.head_hash.hex(),
        )


class Chaining:
    """The handler of `auth.audit`."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    async def on_event(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """Chain the fact, once however often it is delivered."""
        payload = envelope.payload(events_pb2.AuditRecorded)
        fact = AuditFact(
            id=envelope.id,
            time=envelope.time,
            actor=_storable(envelope.actor),
            action=_storable(payload.action),
            subject=_storable(envelope.subject),
            outcome=_storable(payload.outcome),
            client_ip=_storable(payload.client_ip),
            request_id=_storable(payload.request_id),
            details=stored_details(payload.details_json),
        )
        await append(connection, self._key(), envelope.tenant_id or INSTALLATION, fact)


def audit_page(records: Sequence[AuditRecord], after: int) -> tuple[list[auth_pb2.AuditRecord], int]:
    """As many of the records as one message holds, and the sequence of the last of them (`after` if there is none)."""
    messages: list[auth_pb2.AuditRecord] = []
    size = 0
    for record in records:
        message = _message(record)
        size += message.ByteSize()
        if size > _MAX_PAGE_BYTES and messages:
            break
        messages.append(message)
    return messages, messages[-1].sequence if messages else after


def _storable(text: str) -> str:
    # PostgreSQL's text holds no NUL.
    return text.replace("\x00", "\ufffd")


def _moment(moment: Timestamp, field: str) -> datetime:
    try:
        return moment.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid(f"{field}_out_of_range", f"'{field}' is not a moment between the years 1 and 9999.", field=field) from None


def _message(record: AuditRecord) -> auth_pb2.AuditRecord:
    fact = record.fact
    return auth_pb2.AuditRecord(
        sequence=record.sequence,
        id=str(fact.id),
        time=timestamp(fact.time),
        actor=fact.actor,
        action=fact.action,
        subject=fact.subject,
        outcome=fact.outcome,
        client_ip=fact.client_ip,
        request_id=fact.request_id,
        details_json=fact.details,
        hash=record.hash.hex(),
        previous_hash=record.previous_hash.hex(),
    )
