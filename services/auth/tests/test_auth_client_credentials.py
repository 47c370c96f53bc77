"""API keys exchanged for access tokens."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
KEYS = "/wireroom_protos.auth.v1.ApiKeyService/"


async def analyst(auth: Any) -> Principal:
    await auth.register_admin()
    principal: Principal = await auth.add_user("ann@example.org", "Analyst")
    return principal


async def token(auth: Any, client_id: str, secret: str, *scope: str) -> Any:
    request = auth_pb2.IssueTokenRequest(client_id=client_id, client_secret=secret, scope=scope)
    return await auth.call(AUTH + "IssueToken", request)


async def refusal(coroutine: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as refused:
        await coroutine
    return refused.value.kind, refused.value.code


def claims_of(access_token: str) -> dict[str, Any]:
    payload = access_token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


async def outcomes(auth: Any) -> list[tuple[str, str]]:
    records = await auth.events_of(events_pb2.AuditRecorded)
    return [(record.action, record.outcome) for record in records if record.action.startswith("client_token.")]


async def test_key_is_exchanged_for_a_token_of_its_own_kind(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller, "docs:read", "docs:write")
    answer = await token(auth, made.key.id, made.secret)
    claims = claims_of(answer.access_token)
    now = int(auth.clock.now().timestamp())
    assert (claims["sub"], claims["sid"], claims["client_id"], claims["kind"]) == (
        caller.subject,
        made.key.id,
        made.key.id,
        "api_key",
    )
    assert (claims["perms"], claims["exp"], answer.expires_in) == (["docs:read", "docs:write"], now + 900, 900)
    assert claims["tid"] == str(caller.tenant_id)
    assert await outcomes(auth) == [("client_token.issued", "success")]
    (listed,) = (await auth.call(KEYS + "ListKeys", auth_pb2.ListKeysRequest(), caller)).keys
    assert listed.last_used_at.seconds == now


async def test_scope_narrows_and_never_widens(auth: Any) -> None:
    made = await auth.create_key(await analyst(auth), "docs:read", "docs:write")
    answer = await token(auth, made.key.id, made.secret, "docs:read")
    assert (list(answer.scope), claims_of(answer.access_token)["perms"]) == (["docs:read"], ["docs:read"])
    assert await refusal(token(auth, made.key.id, made.secret, "docs:read", "feeds:manage")) == (
        ErrorKind.INVALID,
        "scope_invalid",
    )
    assert await outcomes(auth) == [("client_token.issued", "success"), ("client_token.refused", "denied")]


async def test_token_never_outlives_key_or_secret(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller, ttl=100)
    assert (await token(auth, made.key.id, made.secret)).expires_in == 100
    long = await auth.create_key(caller)
    await auth.call(KEYS + "RotateKey", auth_pb2.RotateKeyRequest(id=long.key.id, overlap_seconds=30), caller)
    assert (await token(auth, long.key.id, long.secret)).expires_in == 30


async def test_wrong_clients_look_alike(auth: Any) -> None:
    caller = await analyst(auth)
    made, other = await auth.create_key(caller), await auth.create_key(caller, name="other")
    revoked = await auth.create_key(caller, name="revoked")
    await auth.call(KEYS + "RevokeKey", auth_pb2.RevokeKeyRequest(id=revoked.key.id), caller)
    session = (await auth.login()).tokens
    for client_id, secret in (
        (made.key.id, other.secret),
        (made.key.id, ""),
        ("", made.secret),
        (str(uuid4()), made.secret),
        ("é", made.secret),
        (revoked.key.id, revoked.secret),
        (session.session_id, session.refresh_token),
        (session.session_id, session.access_token),
        (made.key.id, "x" * 4000),
    ):
        assert await refusal(token(auth, client_id, secret)) == (ErrorKind.UNAUTHENTICATED, "client_invalid")


async def test_key_that_signs_gets_no_bearer_token(auth: Any) -> None:
    caller = await analyst(auth)
    request = auth_pb2.CreateKeyRequest(name="signed", signature_required=True)
    made = await auth.call(KEYS + "CreateKey", request, caller)
    assert (await refusal(token(auth, made.key.id, made.signing_secret)))[1] == "client_invalid"


async def test_refresh_takes_no_client_token(auth: Any) -> None:
    made = await auth.create_key(await analyst(auth))
    answer = await token(auth, made.key.id, made.secret)
    for text in (answer.access_token, made.secret):
        assert (await refusal(auth.refresh(text)))[1] == "refresh_token_invalid"
    assert (await refusal(auth.verify_key(answer.access_token)))[1] == "api_key_invalid"
