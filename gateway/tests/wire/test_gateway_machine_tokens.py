"""`POST /auth/token`, and what the gateway makes of the tokens it hands out."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest
from gateway_rig import Rig
from gateway_tokens import TENANT, USER

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

ROUTE = "/api/v1/documents"
KEY_ID = "0198a000-0000-7000-8000-0000000000dd"
SECRET = "wr_abcdefgh_" + "x" * 43


def basic(name: str = KEY_ID, secret: str = SECRET) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


class Auth:
    """The key as auth knows it."""

    def __init__(self, rig: Rig) -> None:
        self.key = auth_pb2.VerifyKeyResponse(
            key_id=KEY_ID, tenant_id=str(TENANT), user_id=str(USER), permissions=["docs:read", "news:read"], limits={"api": 7}
        )
        self.asked: list[auth_pb2.IssueTokenRequest] = []
        self.refuse_with: WireroomError | None = None
        rig.neighbours.answers |= {"VerifyKey": self.verify, "IssueToken": self.issue}

    async def verify(self, request: auth_pb2.VerifyKeyRequest) -> auth_pb2.VerifyKeyResponse:
        assert request.key_id in ("", KEY_ID)
        return self.key

    async def issue(self, request: auth_pb2.IssueTokenRequest) -> auth_pb2.IssueTokenResponse:
        self.asked.append(request)
        if self.refuse_with is not None:
            raise self.refuse_with
        return auth_pb2.IssueTokenResponse(access_token="made", expires_in=900, scope=request.scope or ["docs:read", "news:read"])


@pytest.fixture
def auth(rig: Rig) -> Auth:
    return Auth(rig)


async def ask(rig: Rig, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
    form = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
    data = aiohttp.FormData(body)() if isinstance(body, dict) else body
    async with rig.session.post("/auth/token", data=data, headers=form) as reply:
        return reply.status, await reply.json(content_type=None), reply


async def test_basic_and_post_get_a_token_that_is_not_stored(rig: Rig, auth: Auth) -> None:
    posted = {"grant_type": "client_credentials", "client_id": KEY_ID, "client_secret": SECRET, "scope": "docs:read news:read"}
    for body, headers in ((posted, {}), ({"grant_type": "client_credentials", "scope": "docs:read news:read"}, basic())):
        status, answer, reply = await ask(rig, body, headers)
        assert status == 200, answer
        assert answer == {"access_token": "made", "token_type": "Bearer", "expires_in": 900, "scope": "docs:read news:read"}
        assert (reply.headers["cache-control"], reply.headers["pragma"]) == ("no-store", "no-cache")
    assert [(one.client_id, one.client_secret, list(one.scope)) for one in auth.asked] == [
        (KEY_ID, SECRET, ["docs:read", "news:read"])
    ] * 2


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        ("", {}, 400, "invalid_request"),
        ("grant_type=password&username=a&password=b", {}, 400, "unsupported_grant_type"),
        ("grant_type=refresh_token&refresh_token=x", {}, 400, "unsupported_grant_type"),
        ("grant_type=client_credentials&grant_type=client_credentials", basic(), 400, "invalid_request"),
        ("grant_type=client_credentials", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=x", {}, 401, "invalid_client"),
        (f"grant_type=client_credentials&client_id={KEY_ID}&client_secret=x", basic(), 400, "invalid_request"),
        ("grant_type=client_credentials&client_id=other", basic(), 400, "invalid_request"),
        ("grant_type=client_credentials", {"authorization": "Bearer x"}, 401, "invalid_client"),
        ("grant_type=client_credentials", {"authorization": "Basic ###"}, 401, "invalid_client"),
        (
            "grant_type=client_credentials",
            {"authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()},
            401,
            "invalid_client",
        ),
        ("grant_type=client_credentials&scope=a++b", basic(), 400, "invalid_scope"),
        ("grant_type=client_credentials&scope=" + "a+" * 200, basic(), 400, "invalid_scope"),
        ("grant_type=client_credentials&x=%00", basic(), 400, "invalid_request"),
        ("grant_type=client_credentials&x=%ff", basic(), 400, "invalid_request"),
        ("&".join(f"a{n}=1" for n in range(50)), basic(), 400, "invalid_request"),
        (b"grant_type=\xff", basic(), 400, "invalid_request"),
        ("rubbish", basic(), 400, "invalid_request"),
    ],
)
async def test_bad_requests_are_told_as_oauth_does(
    *, rig: Rig, auth: Auth, body: Any, headers: dict[str, str], status: int, error: str
) -> None:
    answered, answer, reply = await ask(rig, body, headers)
    assert (answered, answer["error"]) == (status, error)
    assert answer["error_description"]
    assert reply.headers["cache-control"] == "no-store"
    assert ("Basic" in reply.headers.get("www-authenticate", "")) == (status == 401)
    assert auth.asked == []


@pytest.mark.parametrize(
    ("kind", "code", "status", "error"),
    [
        (ErrorKind.UNAUTHENTICATED, "client_invalid", 401, "invalid_client"),
        (ErrorKind.INVALID, "scope_invalid", 400, "invalid_scope"),
        (ErrorKind.FORBIDDEN, "client_unauthorized", 400, "unauthorized_client"),
    ],
)
async def test_refusals_of_auth(*, rig: Rig, auth: Auth, kind: ErrorKind, code: str, status: int, error: str) -> None:
    auth.refuse_with = WireroomError(kind, code, 'No "such" client \\ é.')
    answered, answer, _ = await ask(rig, "grant_type=client_credentials", basic())
    assert (answered, answer) == (status, {"error": error, "error_description": "No 'such' client  ."})


async def test_outage_and_wrong_type_stay_problems(rig: Rig, auth: Auth) -> None:
    auth.refuse_with = WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Try again.", retry_after=2)
    answered, answer, reply = await ask(rig, "grant_type=client_credentials", basic())
    assert (answered, answer["code"], reply.headers["retry-after"]) == (503, "database_unavailable", "2")
    async with rig.session.post("/auth/token", json={"grant_type": "client_credentials"}) as refused:
        assert refused.status == 415


def machine(rig: Rig, *permissions: str, **claims: Any) -> dict[str, str]:
    return rig.bearer(*permissions, **{"sid": KEY_ID, "client_id": KEY_ID, "kind": "api_key", **claims})


async def status(rig: Rig, headers: dict[str, str]) -> int:
    async with rig.session.get(ROUTE, headers=headers) as reply:
        return reply.status


async def test_machine_token_acts_as_its_key(rig: Rig, auth: Auth) -> None:
    assert [await status(rig, machine(rig, "docs:read", "users:manage")) for _ in range(3)] == [200] * 3
    (first, *_) = rig.neighbours.called("ListDocuments")
    assert (first.principal.kind, first.principal.credential_id) == ("api_key", KEY_ID)
    # Never more than the key holds now.
    assert first.principal.permissions == {"docs:read"}
    assert len(rig.neighbours.called("VerifyKey")) == 1
    asker = rig.neighbours.called("VerifyKey")[0].principal
    assert (asker.kind, asker.subject) == ("service", "gateway")


async def test_machine_token_ends_with_its_key(rig: Rig, auth: Auth) -> None:
    headers = machine(rig, "docs:read")
    assert await status(rig, headers) == 200
    await rig.publish(events_pb2.AuthApiKeyRevoked(key_id=KEY_ID, owner_id=str(USER)))
    assert await status(rig, headers) == 401


async def test_machine_token_follows_changes_of_its_key(rig: Rig, auth: Auth) -> None:
    headers = machine(rig, "docs:read")
    assert await status(rig, headers) == 200
    del auth.key.permissions[:]
    auth.key.permissions.append("news:read")
    await rig.publish(events_pb2.AuthApiKeyChanged(key_id=KEY_ID, owner_id=str(USER), change="updated"))
    assert await status(rig, headers) == 403
    auth.key.signature_required = True
    await rig.publish(events_pb2.AuthApiKeyChanged(key_id=KEY_ID, owner_id=str(USER), change="updated"))
    assert await status(rig, headers) == 401


async def test_tokens_of_odd_kinds_are_401(rig: Rig, auth: Auth) -> None:
    odd = {
        "unknown kind": machine(rig, "docs:read", kind="service"),
        "kind a list": machine(rig, "docs:read", kind=["api_key"]),
        "kind null in text": machine(rig, "docs:read", kind="user"),
        "another client": machine(rig, "docs:read", client_id="0198a000-0000-7000-8000-0000000000ee"),
        "no client": machine(rig, "docs:read", client_id=None),
        "another owner": machine(rig, "docs:read", sub="0198a000-0000-7000-8000-0000000000ee"),
        "another tenant": machine(rig, "docs:read", tid="0198a000-0000-7000-8000-0000000000ee"),
    }
    assert {name: await status(rig, headers) for name, headers in odd.items()} == dict.fromkeys(odd, 401)
    assert rig.neighbours.called("ListDocuments") == []


async def test_key_changes_are_seen_although_an_answer_was_under_way(rig: Rig, auth: Auth) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}

    async def change_meanwhile(request: auth_pb2.VerifyKeyRequest) -> auth_pb2.VerifyKeyResponse:
        stale = auth_pb2.VerifyKeyResponse()
        stale.CopyFrom(await auth.verify(request))
        rig.neighbours.answers["VerifyKey"] = auth.verify
        await rig.publish(events_pb2.AuthApiKeyChanged(key_id=KEY_ID, owner_id=str(USER), change="updated"))
        return stale

    rig.neighbours.answers["VerifyKey"] = change_meanwhile
    assert await status(rig, headers) == 200
    assert await status(rig, headers) == 200
    assert len(rig.neighbours.called("VerifyKey")) == 2
