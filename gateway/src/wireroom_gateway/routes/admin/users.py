"""The users of the caller's tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import UserOutput, user_output
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, SearchText, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

MANAGE = "users:manage"
RoleName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
RoleNames = Annotated[list[RoleName], Field(min_length=1, max_length=20)]
Documents = Annotated[Literal["transfer", "erase"], Query(description="What becomes of what the user shared with others")]
Heir = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$", description="Id of the user who gets what was shared")]
DisplayName = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class CreateUserInput(Input):
    """A new account with a password, or with a hash of another system (argon2id or bcrypt in modular crypt format), or with neither.

    Without both nobody can sign in with it until a password is set by mail.
    """

    email: Line
    name: DisplayName = ""
    roles: RoleNames
    password: Annotated[str, Field(max_length=4_096, pattern=r"^[^\x00]*$")] = ""
    password_hash: Annotated[str, Field(max_length=500, pattern=r"^[!-~]*$")] = ""


class UpdateUserInput(Input):
    """What is to change; what is left out stays. `roles` replace all that the user has."""

    name: DisplayName | None = None
    roles: RoleNames | None = None
    disabled: bool | None = None


class ManagedUserOutput(UserOutput):
    """An account as its administrators see it."""

    disabled_at: datetime | None


class UsersOutput(Output):
    """A page of users, newest first."""

    users: list[ManagedUserOutput]
    next_page_token: str


def add_user_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/users`."""

    @api.get("/api/v1/admin/users", tags=["administration"])
    @access(MANAGE)
    async def list_users(page_size: PageSize = 50, page_token: PageToken = "", q: SearchText = "") -> UsersOutput:
        answer = await services.directory.ListUsers(
            auth_pb2.ListUsersRequest(page_size=page_size, page_token=page_token, query=q), timeout=timeout
        )
        return UsersOutput(users=[_managed(user) for user in answer.users], next_page_token=answer.next_page_token)

    @api.post("/api/v1/admin/users", status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access(MANAGE)
    async def create_user(body: CreateUserInput, response: Response) -> ManagedUserOutput:
        answer = await services.directory.CreateUser(
            auth_pb2.CreateUserRequest(
                email=body.email, name=body.name, roles=body.roles, password=body.password, password_hash=body.password_hash
            ),
            timeout=timeout,
        )
        response.headers["location"] = f"/api/v1/admin/users/{answer.user.id}"
        return _managed(answer.user)

    @api.get("/api/v1/admin/users/{id}", tags=["administration"], responses=problem_responses(404))
    @access(MANAGE)
    async def get_user(id: str) -> ManagedUserOutput:  # noqa: A002 - the path's name for it
        return _managed((await services.directory.GetUser(auth_pb2.GetUserRequest(id=id), timeout=timeout)).user)

    @api.patch("/api/v1/admin/users/{id}", tags=["administration"], responses=problem_responses(404, 409, 415))
    @access(MANAGE)
    async def update_user(id: str, body: UpdateUserInput) -> ManagedUserOutput:  # noqa: A002 - the path's name for it
        request = auth_pb2.UpdateUserRequest(id=id, name=body.name, disabled=body.disabled)
        if body.roles is not None:
            request.roles.names.extend(body.roles)
        return _managed((await services.directory.UpdateUser(request, timeout=timeout)).user)

    @api.delete("/api/v1/admin/users/{id}", status_code=204, tags=["administration"], responses=problem_responses(404, 409))
    @access(MANAGE)
    async def delete_user(id: str, documents: Documents = "transfer", to: Heir = "") -> Response:  # noqa: A002 - the path's name for it
        """Erase the user in every service; `location` names the erasure and its receipt.

        What others read goes to `to`, by default the caller, or with `documents=erase` to nobody.
        """
        request = auth_pb2.DeleteUserRequest(id=id, erase_shared=documents == "erase", transfer_to=to)
        answer = await services.directory.DeleteUser(request, timeout=timeout)
        return Response(status_code=204, headers={"location": f"/api/v1/privacy/erasures/{answer.erasure_id}"})


def _managed(user: auth_pb2.User) -> ManagedUserOutput:
    return ManagedUserOutput(**user_output(user).model_dump(), disabled_at=moment(user, "disabled_at"))
