from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from joserfc import jws
from joserfc.jwk import KeySet
from sqlalchemy import text

from wireroom_auth.domain.permissions import permissions_of
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"


async def jwks_of(auth: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await auth.call(AUTH + "GetJwks", auth_pb2.GetJwksRequest())).jwks_json)
    return document


async def claims_of(auth: Any, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, after the signature was checked against the published keys."""
    keys = KeySet.import_key_set(await jwks_of(auth))
    with pytest.warns(match="EdDSA"):
        verified = jws.deserialize_compact(token, keys, algorithms=["EdDSA"])
    return dict(verified.headers()), json.loads(verified.payload)


async def test_login_gives_a_verifiable_access_token(auth: Any) -> None:
    user = await auth.register_admin()
    answer = await auth.login("ADA@example.org", client_ip="203.0.113.9", user_agent="browser/1")
    header, claims = await claims_of(auth, answer.tokens.access_token)
    assert header["alg"] == "EdDSA"
    assert header["typ"] == "at+jwt"
    assert header["kid"] in {key["kid"] for key in (await jwks_of(auth))["keys"]}
    now = int(auth.clock.now().timestamp())
    assert UUID(claims.pop("jti"))
    assert claims == {
        "iss": "wireroom",
        "aud": "wireroom",
        "sub": user.id,
        "tid": user.tenant_id,
        "sid": answer.tokens.session_id,
        "roles": ["Admin", "platform_admin"],
        "perms": sorted(permissions_of(["Admin", "platform_admin"])),
        "epoch": 0,
        "tepoch": 0,
        "iat": now,
        "nbf": now,
        "exp": now + 1800,
    }
    assert answer.tokens.expires_in == 1800
    assert answer.user == user
    (event,) = await auth.events_of(events_pb2.AuthUserLoginSucceeded)
    assert (event.user_id, event.session_id, event.ip) == (user.id, answer.tokens.session_id, "203.0.113.9")
    assert len(event.user_agent_sha256) == 64


async def test_refused_logins_look_alike_and_are_told(auth: Any, password: str) -> None:
    user = await auth.register_admin()
    await auth.add_user("disabled@example.org", "Viewer")
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        await connection.execute(text("UPDATE users SET disabled_at = now() WHERE email = 'disabled@example.org'"))
    answers = set()
    attempts = [
        ("ada@example.org", "not the password"),
        ("nobody@example.org", password),
        ("disabled@example.org", password),
        ("a\x00b@example.org", password),
        ("no address", password),
        ("ada@example.org", "p" * 5000),
        ("ada@example.org", ""),
    ]
    for email, attempt in attempts:
        with pytest.raises(WireroomError) as refused:
            await auth.login(email, attempt, client_ip="203.0.113.9")
        answers.add((refused.value.kind, refused.value.code, refused.value.detail))
    assert len(answers) == 1
    assert next(iter(answers))[:2] == (ErrorKind.UNAUTHENTICATED, "invalid_credentials")
    events = await auth.events_of(events_pb2.AuthUserLoginFailed)
    reasons = ["wrong_password", "unknown_user", "disabled", "unknown_user", "unknown_user", "wrong_password", "wrong_password"]
    assert [event.reason for event in events] == reasons
    assert {event.ip for event in events} == {"203.0.113.9"}


async def test_unknown_user_costs_a_hash_like_any_other(auth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415  patched here only

    await auth.register_admin()
    verified: list[list[str]] = []
    original = Argon2Hasher.verify

    def counting(self: Argon2Hasher, password: str | bytes, hash: str | bytes) -> bool:  # noqa: A002  the library's name
        verified.append(str(hash).split("$")[1:4])
        return original(self, password, hash)

    monkeypatch.setattr(Argon2Hasher, "verify", counting)
    for email in ("ada@example.org", "nobody@example.org"):
        with pytest.raises(WireroomError):
            await auth.login(email, "wrong password here")
    assert len(verified) == 2
    assert verified[0] == verified[1]


async def test_more_logins_than_the_queue_holds_are_refused_as_unavailable(make_auth: Any) -> None:
    auth = await make_auth(password_workers=1, password_queue=1)
    await auth.register_admin()
    outcomes = await asyncio.gather(*(auth.login() for _ in range(8)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert refused
    assert {(error.kind, error.code) for error in refused} == {(ErrorKind.UNAVAILABLE, "password_checks_busy")}
    assert len(refused) < 8
    assert (await auth.login()).tokens.access_token


async def test_password_that_differs_beyond_72_bytes_is_another(auth: Any) -> None:
    long = "correct horse " * 6
    await auth.register("long@example.org", token=auth.infra.admin_token(), password=long + "A")
    with pytest.raises(WireroomError):
        await auth.login("long@example.org", long + "B")
    assert (await auth.login("long@example.org", long + "A")).tokens.session_id


async def test_same_password_in_another_unicode_form_fits(auth: Any) -> None:
    await auth.register(token=auth.infra.admin_token(), password="caf\u00e9 terrasse nuit")
    assert (await auth.login(password="cafe\u0301 terrasse nuit")).tokens.session_id


async def test_get_me_tells_what_the_database_says_now(auth: Any) -> None:
    user = await auth.register_admin()
    caller = Principal(PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions))
    await auth.change_user(user, "roles = '{Viewer}'")
    me = (await auth.call(AUTH + "GetMe", auth_pb2.GetMeRequest(), caller)).user
    assert list(me.roles) == ["Viewer"]
    assert set(me.permissions) == permissions_of(["Viewer"])
    await auth.change_user(user, "disabled_at = now()")
    with pytest.raises(WireroomError) as refused:
        await auth.call(AUTH + "GetMe", auth_pb2.GetMeRequest(), caller)
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["Logout", "GetMe"])
async def test_anonymous_caller_is_refused(auth: Any, method: str) -> None:
    assert f"{AUTH}{method}" not in auth.service.public_rpcs
    request = auth_pb2.LogoutRequest() if method == "Logout" else auth_pb2.GetMeRequest()
    with pytest.raises(WireroomError) as refused:
        await auth.call(AUTH + method, request)
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_public_rpcs_exist(auth: Any) -> None:
    assert auth.service.public_rpcs < set(auth.handlers)


async def test_readiness_asks_the_database(auth: Any) -> None:
    await auth.service.checks["database"]()
    assert list(auth.service.checks) == ["database"]
