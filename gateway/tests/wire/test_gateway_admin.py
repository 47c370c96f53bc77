"""Users, invitations, roles and tenants over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2

BASE = "/api/v1/admin"
NEEDS = {"users": "users:manage", "invitations": "users:manage", "roles": "roles:manage", "tenants": "tenants:manage"}
PERSON = {"email": "vera@example.org", "roles": ["Viewer"]}
CASES = [
    ("GET", "/users?page_size=7&page_token=t&q=ve", None, 200, "ListUsers", {"page_size": 7, "page_token": "t", "query": "ve"}),
    (
        "POST",
        "/users",
        {**PERSON, "name": "Vera", "password": "p", "password_hash": ""},
        201,
        "CreateUser",
        {"email": "vera@example.org", "roles": ["Viewer"], "name": "Vera", "password": "p", "password_hash": ""},
    ),
    ("POST", "/users", {**PERSON, "password_hash": "$2b$10$x"}, 201, "CreateUser", {"password_hash": "$2b$10$x"}),
    ("GET", "/users/u1", None, 200, "GetUser", {"id": "u1"}),
    ("DELETE", "/users/u1", None, 204, "DeleteUser", {"id": "u1", "erase_shared": False, "transfer_to": ""}),
    ("DELETE", "/users/u1?documents=transfer&to=u2", None, 204, "DeleteUser", {"erase_shared": False, "transfer_to": "u2"}),
    ("DELETE", "/users/u1?documents=erase", None, 204, "DeleteUser", {"erase_shared": True}),
    (
        "POST",
        "/invitations",
        {**PERSON, "ttl_seconds": 3600},
        201,
        "CreateInvitation",
        {"email": "vera@example.org", "roles": ["Viewer"], "ttl_seconds": 3600, "tenant_id": ""},
    ),
    ("GET", "/invitations?page_size=3", None, 200, "ListInvitations", {"page_size": 3}),
    ("DELETE", "/invitations/i1", None, 204, "RevokeInvitation", {"id": "i1"}),
    ("GET", "/roles", None, 200, "ListRoles", {}),
    (
        "PUT",
        "/roles/Front%20desk",
        {"permissions": ["news:read"]},
        200,
        "PutRole",
        {"name": "Front desk", "permissions": ["news:read"]},
    ),
    ("DELETE", "/roles/Front%20desk", None, 204, "DeleteRole", {"name": "Front desk"}),
    ("POST", "/tenants", {"name": "acme"}, 201, "CreateTenant", {"name": "acme"}),
    ("GET", "/tenants?page_token=t", None, 200, "ListTenants", {"page_token": "t", "page_size": 50}),
    ("PATCH", "/tenants/t1", {"disabled": True}, 200, "UpdateTenant", {"id": "t1", "disabled": True}),
    (
        "POST",
        "/tenants/t1/invitations",
        {"email": "a@b.example", "roles": ["Admin"]},
        201,
        "CreateInvitation",
        {"tenant_id": "t1", "roles": ["Admin"], "ttl_seconds": 0},
    ),
]


def need_of(path: str) -> str:
    return NEEDS[path.split("?", maxsplit=1)[0].split("/")[1]]


@pytest.mark.parametrize(("method", "path", "body", "status", "rpc", "fields"), CASES)
async def test_requests_reach_their_rpc(  # noqa: PLR0917 - one row of the table
    rig: Rig, method: str, path: str, body: Any, status: int, rpc: str, fields: dict[str, Any]
) -> None:
    async with rig.session.request(method, BASE + path, json=body, headers=rig.bearer(need_of(path))) as reply:
        assert reply.status == status, await reply.text()
    (call,) = rig.neighbours.called(rpc)
    found = {name: getattr(call.request, name) for name in fields}
    assert {name: list(value) if isinstance(fields[name], list) else value for name, value in found.items()} == fields


@pytest.mark.parametrize(("method", "path", "body", "status", "rpc", "fields"), CASES)
async def test_other_permissions_do_not_help(  # noqa: PLR0917 - one row of the table
    rig: Rig,
    method: str,
    path: str,
    body: Any,
    status: int,
    rpc: str,
    fields: dict[str, Any],
) -> None:
    del status, fields
    others = sorted({*NEEDS.values(), "docs:write", "config:manage"} - {need_of(path)})
    for headers, refusal in ((rig.bearer(*others), 403), ({}, 401)):
        async with rig.session.request(method, BASE + path, json=body, headers=headers) as reply:
            assert reply.status == refusal
    assert rig.neighbours.called(rpc) == []


@pytest.mark.parametrize(
    ("body", "set_fields"),
    [
        ({}, {"name": False, "roles": False, "disabled": False}),
        ({"name": ""}, {"name": True, "roles": False, "disabled": False}),
        ({"roles": ["Viewer", "Analyst"]}, {"name": False, "roles": True, "disabled": False}),
        ({"disabled": False}, {"name": False, "roles": False, "disabled": True}),
    ],
)
async def test_what_a_change_leaves_out_is_left_out(rig: Rig, body: dict[str, Any], set_fields: dict[str, bool]) -> None:
    async with rig.session.patch(f"{BASE}/users/u1", json=body, headers=rig.bearer("users:manage")) as reply:
        assert reply.status == 200
    request = rig.neighbours.called("UpdateUser")[0].request
    assert {name: request.HasField(name) for name in set_fields} == set_fields
    assert list(request.roles.names) == body.get("roles", [])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {**PERSON, "id": "0198a000-0000-7000-8000-000000000001"}),
        ("POST", "/users", {**PERSON, "tenant_id": "0198a000-0000-7000-8000-000000000001"}),
        ("POST", "/users", {**PERSON, "permissions": ["config:manage"]}),
        ("POST", "/users", {**PERSON, "epoch": 7}),
        ("POST", "/users", {**PERSON, "email_verified_at": "2026-01-01T00:00:00Z"}),
        ("POST", "/users", {"email": "vera@example.org", "roles": "Viewer"}),
        ("POST", "/users", {"email": "vera@example.org", "roles": []}),
        ("POST", "/users", {"email": "vera@example.org", "roles": [f"r{n}" for n in range(21)]}),
        ("POST", "/users", {"email": "v\x00@example.org", "roles": ["Viewer"]}),
        ("POST", "/users", {**PERSON, "password_hash": "$2b$10$" + "a" * 500}),
        ("PATCH", "/users/u1", {"email": "other@example.org"}),
        ("PATCH", "/users/u1", {"tenant_id": "0198a000-0000-7000-8000-000000000001"}),
        ("PATCH", "/users/u1", {"password": "four horses in the rain"}),
        ("PATCH", "/users/u1", {"disabled": "yes"}),
        ("PATCH", "/users/u1", {"second_factor": False}),
        ("POST", "/invitations", {**PERSON, "tenant_id": "0198a000-0000-7000-8000-000000000001"}),
        ("POST", "/invitations", {**PERSON, "ttl_seconds": -1}),
        ("POST", "/invitations", {**PERSON, "ttl_seconds": 31 * 86_400}),
        ("PUT", "/roles/x", {"permissions": ["news:read"], "built_in": True}),
        ("PUT", "/roles/x", {"permissions": []}),
        ("PUT", "/roles/x", {"name": "y", "permissions": ["news:read"]}),
        ("POST", "/tenants", {"name": "acme", "id": "x"}),
        ("POST", "/tenants", {"name": ""}),
        ("PATCH", "/tenants/t1", {"epoch": 1}),
    ],
)
async def test_unknown_and_read_only_members_are_refused(rig: Rig, method: str, path: str, body: Any) -> None:
    async with rig.session.request(method, BASE + path, json=body, headers=rig.bearer(need_of(path))) as reply:
        assert reply.status == 422, await reply.text()
        assert (await reply.json())["errors"]
    assert not [call for call in rig.neighbours.calls if call.method not in ("GetJwks", "ListRevocations", "ListBlocks")]


async def test_users_are_shown_with_what_administrators_need(rig: Rig) -> None:
    async def user(_request: Any) -> Any:
        shown = auth_pb2.User(
            id="u1", tenant_id="t", email="v@example.org", name="V", roles=["Viewer"], permissions=["news:read"]
        )
        shown.created_at.FromSeconds(1_767_225_600)
        shown.disabled_at.FromSeconds(1_767_225_600)
        return auth_pb2.GetUserResponse(user=shown)

    rig.neighbours.answers["GetUser"] = user
    async with rig.session.get(f"{BASE}/users/u1", headers=rig.bearer("users:manage")) as reply:
        assert await reply.json() == {
            "id": "u1",
            "tenant_id": "t",
            "email": "v@example.org",
            "name": "V",
            "roles": ["Viewer"],
            "permissions": ["news:read"],
            "created_at": "2026-01-01T00:00:00Z",
            "disabled_at": "2026-01-01T00:00:00Z",
            "email_verified_at": None,
            "second_factor": False,
        }


@pytest.mark.parametrize(
    ("kind", "status"),
    [(ErrorKind.NOT_FOUND, 404), (ErrorKind.CONFLICT, 409), (ErrorKind.FORBIDDEN, 403), (ErrorKind.INVALID, 400)],
)
async def test_refusals_keep_their_code(rig: Rig, kind: ErrorKind, status: int) -> None:
    async def refuse(_request: Any) -> Any:
        raise WireroomError(kind, "some_code", "A sentence.")

    rig.neighbours.answers |= {"UpdateUser": refuse, "DeleteRole": refuse, "UpdateTenant": refuse}
    headers = rig.bearer(*NEEDS.values())
    for method, path, body in (
        ("PATCH", "/users/u1", {"name": "x"}),
        ("DELETE", "/roles/x", None),
        ("PATCH", "/tenants/t1", {"name": "x"}),
    ):
        async with rig.session.request(method, BASE + path, json=body, headers=headers) as reply:
            assert (reply.status, (await reply.json())["code"]) == (status, "some_code")


async def test_registration_passes_the_invitation_on(rig: Rig) -> None:
    body = {"email": "vera@example.org", "password": "four horses in the rain", "invitation_token": "wr_inv_x"}
    async with rig.session.post("/auth/register", json=body) as reply:
        assert reply.status == 201
    (call,) = rig.neighbours.called("Register")
    assert (call.request.invitation_token, call.request.admin_token) == ("wr_inv_x", "")


async def test_the_token_of_an_invitation_is_shown_once(rig: Rig) -> None:
    async def created(_request: Any) -> Any:
        return auth_pb2.CreateInvitationResponse(invitation=auth_pb2.Invitation(id="i1"), token="wr_inv_secret")

    async def listed(_request: Any) -> Any:
        return auth_pb2.ListInvitationsResponse(invitations=[auth_pb2.Invitation(id="i1")])

    rig.neighbours.answers |= {"CreateInvitation": created, "ListInvitations": listed}
    headers = rig.bearer("users:manage")
    async with rig.session.post(f"{BASE}/invitations", json=PERSON, headers=headers) as reply:
        assert (await reply.json())["token"] == "wr_inv_secret"
        assert "no-store" in reply.headers["cache-control"]
    async with rig.session.get(f"{BASE}/invitations", headers=headers) as reply:
        assert "wr_inv_secret" not in await reply.text()
