"""Erasure of one's own data or of the tenant, its receipt, and what one takes along."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response

from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import Secret
from wireroom_gateway.routes.auth.second_factor import Code
from wireroom_gateway.routes.exporting import EXPORT, Exporter
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import privacy_pb2

_State = Literal["requested", "running", "completed", "failed"]
_STATES: dict[int, _State] = {
    privacy_pb2.ERASURE_STATE_REQUESTED: "requested",
    privacy_pb2.ERASURE_STATE_RUNNING: "running",
    privacy_pb2.ERASURE_STATE_COMPLETED: "completed",
    privacy_pb2.ERASURE_STATE_FAILED: "failed",
}
ReceiptToken = Annotated[str, Query(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]*$")]


class EraseMeInput(Input):
    """The password, asked for again, and a code where a second factor is in force."""

    password: Secret
    code: Code | None = None


class EraseTenantInput(Input):
    """The name of the tenant as it is written, and the caller's password and code."""

    name: Line
    password: Secret
    code: Code | None = None


class ErasurePartOutput(Output):
    """What one service erased, by kind; `done_at` null: it has not answered."""

    store: str
    done_at: datetime | None
    counts: dict[str, int]


class ErasureOutput(Output):
    """`user_id` empty: the tenant. `failed`: not completed by `deadline_at`; it goes on. `receipt` is canonical JSON, signed (Ed25519)."""

    id: str
    user_id: str
    requested_by: str
    state: _State
    requested_at: datetime | None
    deadline_at: datetime | None
    completed_at: datetime | None
    transfer_to: str
    stores: list[ErasurePartOutput]
    receipt: str
    signature: str
    public_key: str


class ErasuresOutput(Output):
    """A page of erasures, newest first."""

    erasures: list[ErasureOutput]
    next_page_token: str


class BegunErasureOutput(Output):
    """`receipt_url` opens the erasure for whoever has it, when its subject can no longer sign in. Shown this once."""

    erasure: ErasureOutput
    receipt_url: str


class ReceiptKeyOutput(Output):
    """Verifies receipts; `public_key` is raw, in base64."""

    algorithm: Literal["Ed25519"]
    public_key: str


def add_privacy_routes(api: FastAPI, services: Services, *, timeout: float, export_timeout: float) -> None:
    """`/api/v1/privacy`, without the receipts of single services."""
    exporter = Exporter(services, timeout=timeout, stream_timeout=export_timeout)

    @api.delete("/api/v1/privacy/me", status_code=202, tags=["privacy"], responses=problem_responses(409, 415))
    @access("privacy:erase:self", bucket=Bucket.AUTH, secret_answer=True)
    async def erase_me(body: EraseMeInput, response: Response) -> BegunErasureOutput:
        request = privacy_pb2.EraseMeRequest(password=body.password, code=body.code or "")
        answer = await services.privacy.EraseMe(request, timeout=timeout)
        return _begun(answer.erasure, answer.token, response)

    @api.delete("/api/v1/privacy/tenant", status_code=202, tags=["privacy"], responses=problem_responses(409, 415))
    @access("privacy:erase:tenant", bucket=Bucket.AUTH, secret_answer=True)
    async def erase_tenant(body: EraseTenantInput, response: Response) -> BegunErasureOutput:
        request = privacy_pb2.EraseTenantRequest(name=body.name, password=body.password, code=body.code or "")
        answer = await services.privacy.EraseTenant(request, timeout=timeout)
        return _begun(answer.erasure, answer.token, response)

    @api.get("/api/v1/privacy/erasures", tags=["privacy"])
    @access("privacy:erase:tenant")
    async def list_erasures(page_size: PageSize = 50, page_token: PageToken = "") -> ErasuresOutput:
        request = privacy_pb2.ListErasuresRequest(page_size=page_size, page_token=page_token)
        answer = await services.privacy.ListErasures(request, timeout=timeout)
        return ErasuresOutput(erasures=[_output(one) for one in answer.erasures], next_page_token=answer.next_page_token)

    @api.get("/api/v1/privacy/erasures/{id}", tags=["privacy"], responses=problem_responses(404))
    @access("privacy:erase:self")
    async def get_erasure(id: str) -> ErasureOutput:  # noqa: A002 - the path's name for it
        return _output((await services.privacy.GetErasure(privacy_pb2.GetErasureRequest(id=id), timeout=timeout)).erasure)

    @api.get("/api/v1/privacy/erasures/{id}/receipt", tags=["privacy"], responses=problem_responses(404))
    @access(Need.NOTHING)
    async def open_erasure(id: str, token: ReceiptToken, response: Response) -> ErasureOutput:  # noqa: A002 - the path's name for it
        response.headers["cache-control"] = "no-store"
        request = privacy_pb2.OpenErasureRequest(id=id, token=token)
        return _output((await services.privacy.OpenErasure(request, timeout=timeout)).erasure)

    @api.get("/api/v1/privacy/receipt-key", tags=["privacy"])
    @access(Need.NOTHING)
    async def receipt_key() -> ReceiptKeyOutput:
        answer = await services.privacy.GetReceiptKey(privacy_pb2.GetReceiptKeyRequest(), timeout=timeout)
        return ReceiptKeyOutput(algorithm="Ed25519", public_key=answer.public_key)

    @api.post("/api/v1/privacy/export", tags=["privacy"], responses=EXPORT, response_model=None)
    @access("privacy:erase:self", bucket=Bucket.AUTH, secret_answer=True)
    async def export() -> Response:
        return await exporter.start()


def _begun(erasure: privacy_pb2.Erasure, token: str, response: Response) -> BegunErasureOutput:
    path = f"/api/v1/privacy/erasures/{erasure.id}"
    response.headers["location"] = path
    response.headers["cache-control"] = "no-store"
    return BegunErasureOutput(erasure=_output(erasure), receipt_url=f"{path}/receipt?token={token}")


def _output(erasure: privacy_pb2.Erasure) -> ErasureOutput:
    return ErasureOutput(
        id=erasure.id,
        user_id=erasure.user_id,
        requested_by=erasure.requested_by,
        state=_STATES[erasure.state],
        requested_at=moment(erasure, "requested_at"),
        deadline_at=moment(erasure, "deadline_at"),
        completed_at=moment(erasure, "completed_at"),
        transfer_to=erasure.transfer_to,
        stores=[
            ErasurePartOutput(store=part.part, done_at=moment(part, "done_at"), counts=dict(part.counts))
            for part in erasure.parts
        ],
        receipt=erasure.receipt,
        signature=erasure.signature,
        public_key=erasure.public_key,
    )
