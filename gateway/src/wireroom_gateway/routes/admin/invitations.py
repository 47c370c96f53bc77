"""Invitations: who has the token may register at `/auth/register` with the address and roles that it was made for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.admin.users import MANAGE, RoleNames
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2


class CreateInvitationInput(Input):
    """Whom to invite, as what; `ttl_seconds` 0 for 7 days."""

    email: Line
    roles: RoleNames
    ttl_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 0


class InvitationOutput(Output):
    """An invitation without its token."""

    id: str
    email: str
    roles: list[str]
    created_at: datetime | None
    expires_at: datetime | None
    accepted_at: datetime | None


class CreatedInvitationOutput(InvitationOutput):
    """An invitation with its token, which is shown this once; where mail is configured, it is also sent."""

    token: str


class InvitationsOutput(Output):
    """A page of invitations, newest first."""

    invitations: list[InvitationOutput]
    next_page_token: str


def invitation_request(body: CreateInvitationInput, *, tenant_id: str = "") -> auth_pb2.CreateInvitationRequest:
    """Invite into a tenant; by default the caller's own."""
    return auth_pb2.CreateInvitationRequest(email=body.email, roles=body.roles, ttl_seconds=body.ttl_seconds, tenant_id=tenant_id)


def created_invitation(answer: auth_pb2.CreateInvitationResponse) -> CreatedInvitationOutput:
    """The invitation as its maker sees it, once."""
    return CreatedInvitationOutput(**_invitation(answer.invitation).model_dump(), token=answer.token)


def add_invitation_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/invitations`."""

    @api.post("/api/v1/admin/invitations", status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access(MANAGE, secret_answer=True)
    async def create_invitation(body: CreateInvitationInput) -> CreatedInvitationOutput:
        return created_invitation(await services.directory.CreateInvitation(invitation_request(body), timeout=timeout))

    @api.get("/api/v1/admin/invitations", tags=["administration"])
    @access(MANAGE)
    async def list_invitations(page_size: PageSize = 50, page_token: PageToken = "") -> InvitationsOutput:
        answer = await services.directory.ListInvitations(
            auth_pb2.ListInvitationsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return InvitationsOutput(
            invitations=[_invitation(entry) for entry in answer.invitations], next_page_token=answer.next_page_token
        )

    @api.delete("/api/v1/admin/invitations/{id}", status_code=204, tags=["administration"], responses=problem_responses(404, 409))
    @access(MANAGE)
    async def revoke_invitation(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.directory.RevokeInvitation(auth_pb2.RevokeInvitationRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def _invitation(invitation: auth_pb2.Invitation) -> InvitationOutput:
    return InvitationOutput(
        id=invitation.id,
        email=invitation.email,
        roles=list(invitation.roles),
        created_at=moment(invitation, "created_at"),
        expires_at=moment(invitation, "expires_at"),
        accepted_at=moment(invitation, "accepted_at"),
    )
