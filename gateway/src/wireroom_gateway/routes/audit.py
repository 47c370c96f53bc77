"""The audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Name, Output, TimeFilter, moment, timestamp
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

# Checking a chain takes about a second for 100,000 records.
_VERIFY_TIMEOUT = 60.0
Installation = Annotated[bool, Query(description="The installation's own chain instead of the tenant's; for operators")]


class AuditRecordOutput(Output):
    """Who did what to what, when, from where, with which outcome; and its link in the chain."""

    sequence: int
    id: str
    time: datetime | None
    actor: str
    action: str
    subject: str
    outcome: str
    client_ip: str
    request_id: str
    details: Any
    hash: str
    previous_hash: str


class AuditOutput(Output):
    """Records, oldest first; continue with `after=next_after`."""

    records: list[AuditRecordOutput]
    next_after: int


class VerificationOutput(Output):
    """`first_bad_sequence` is the first position that does not fit (0: intact), `problem` "changed", "missing" or "inserted".

    Keep `head_hash` with `records` outside of the installation: a chain that was cut back to an earlier state cannot show it again.
    """

    intact: bool
    records: int
    first_bad_sequence: int
    problem: str
    head_hash: str


def add_audit_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/audit`."""

    @api.get("/api/v1/audit", tags=["audit"], responses=problem_responses())
    @access("audit:read")
    async def list_audit_records(  # noqa: PLR0917 - query parameters
        after: Annotated[int, Query(ge=0, lt=2**63, description="Records after this sequence")] = 0,
        page_size: Annotated[int, Query(ge=1, le=500)] = 100,
        action: Name = "",
        actor: Name = "",
        since: TimeFilter = None,
        until: TimeFilter = None,
        installation: Installation = False,  # noqa: FBT002 - a query parameter
    ) -> AuditOutput:
        answer = await services.audit.QueryAudit(
            auth_pb2.QueryAuditRequest(
                after=after,
                page_size=page_size,
                action=action,
                actor=actor,
                since=timestamp(since),
                until=timestamp(until),
                installation=installation,
            ),
            timeout=timeout,
        )
        return AuditOutput(records=[_record(entry) for entry in answer.records], next_after=answer.next_after)

    @api.get("/api/v1/audit/verify", tags=["audit"], responses=problem_responses())
    @access("audit:read")
    async def verify_audit_chain(installation: Installation = False) -> VerificationOutput:  # noqa: FBT002 - a query parameter
        answer = await services.audit.VerifyChain(
            auth_pb2.VerifyChainRequest(installation=installation), timeout=max(timeout, _VERIFY_TIMEOUT)
        )
        return VerificationOutput(
            intact=answer.intact,
            records=answer.records,
            first_bad_sequence=answer.first_bad_sequence,
            problem=answer.problem,
            head_hash=answer.head_hash,
        )


def _record(record: auth_pb2.AuditRecord) -> AuditRecordOutput:
    return AuditRecordOutput(
        sequence=record.sequence,
        id=record.id,
        time=moment(record, "time"),
        actor=record.actor,
        action=record.action,
        subject=record.subject,
        outcome=record.outcome,
        client_ip=record.client_ip,
        request_id=record.request_id,
        details=orjson.loads(record.details_json or "{}"),
        hash=record.hash,
        previous_hash=record.previous_hash,
    )
