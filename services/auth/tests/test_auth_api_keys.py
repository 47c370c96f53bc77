from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from wireroom_auth.domain.permissions import permissions_of
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

KEYS = "/wireroom_protos.auth.v1.ApiKeyService/"


async def admin(auth: Any) -> Principal:
    user = await auth.register_admin()
    return Principal(PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions))


async def analyst(auth: Any) -> Principal:
    await auth.register_admin()
    principal: Principal = await auth.add_user("ann@example.org", "Analyst")
    return principal


async def list_keys(auth: Any, caller: Principal, size: int = 0, token: str = "") -> Any:
    return await auth.call(KEYS + "ListKeys", auth_pb2.ListKeysRequest(page_size=size, page_token=token), caller)


async def revoke(auth: Any, caller: Principal, key_id: str) -> None:
    await auth.call(KEYS + "RevokeKey", auth_pb2.RevokeKeyRequest(id=key_id), caller)


async def refused_key(auth: Any, secret: str) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.verify_key(secret)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.UNAUTHENTICATED, "api_key_invalid")


async def test_key_is_shown_once_and_works(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller, "docs:write", "docs:read", name=" ingest ", ttl=3600)
    assert re.fullmatch(r"wr_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", made.secret)
    assert made.key.prefix == made.secret[:11]
    verified = await auth.verify_key(made.secret)
    assert (verified.key_id, verified.user_id, verified.tenant_id) == (made.key.id, caller.subject, str(caller.tenant_id))
    assert list(verified.permissions) == ["docs:read", "docs:write"]
    assert list(verified.roles) == ["Analyst"]
    assert verified.expires_at.seconds == int(auth.clock.now().timestamp()) + 3600
    (listed,) = (await list_keys(auth, caller)).keys
    assert (listed.name, listed.prefix, listed.owner_id) == ("ingest", made.key.prefix, caller.subject)
    assert made.secret not in str(listed)
    (event,) = await auth.events_of(events_pb2.AuthApiKeyCreated)
    assert (event.key_id, list(event.permissions)) == (made.key.id, ["docs:read", "docs:write"])


async def test_unrestricted_key_follows_its_owner(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller)
    assert set((await auth.verify_key(made.secret)).permissions) == permissions_of(["Analyst"])
    await auth.change_user(_Row(caller), "roles = '{Viewer}'")
    assert set((await auth.verify_key(made.secret)).permissions) == permissions_of(["Viewer"])


async def test_named_permissions_shrink_with_the_owners(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller, "docs:read", "docs:write")
    await auth.change_user(_Row(caller), "roles = '{Viewer}'")
    assert list((await auth.verify_key(made.secret)).permissions) == ["docs:read"]
    await auth.change_user(_Row(caller), "roles = '{}'")
    assert list((await auth.verify_key(made.secret)).permissions) == []


async def test_key_cannot_exceed_its_owner(auth: Any) -> None:
    caller = await analyst(auth)
    with pytest.raises(WireroomError) as refused:
        await auth.create_key(caller, "docs:read", "users:manage")
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "permission_exceeds_owner")
    # Not even with a token that still says more than the database.
    stale = Principal(PrincipalKind.USER, caller.subject, caller.tenant_id, permissions=permissions_of(["Admin"]))
    with pytest.raises(WireroomError) as still:
        await auth.create_key(stale, "users:manage")
    assert still.value.code == "permission_exceeds_owner"
    assert (await list_keys(auth, caller)).keys == []


async def test_bad_fields_are_invalid(auth: Any) -> None:
    caller = await analyst(auth)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"name": " "}, "name_missing"),
        ({"name": "n" * 101}, "name_malformed"),
        ({"name": "a\x00b"}, "name_malformed"),
        ({"ttl": -1}, "ttl_out_of_range"),
        ({"ttl": 2**62}, "ttl_out_of_range"),
    ]
    for arguments, code in bad:
        with pytest.raises(WireroomError) as refused:
            await auth.create_key(caller, **arguments)
        assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, code)


async def test_unknown_permission_is_invalid(auth: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.create_key(await analyst(auth), "docs:fly")
    assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, "permission_unknown")


async def test_viewer_and_key_cannot_make_keys(auth: Any) -> None:
    caller = await analyst(auth)
    viewer = await auth.add_user("vera@example.org", "Viewer")
    with pytest.raises(WireroomError) as missing:
        await auth.create_key(viewer)
    assert (missing.value.kind, missing.value.code) == (ErrorKind.FORBIDDEN, "permission_missing")
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, permissions=caller.permissions)
    with pytest.raises(WireroomError) as by_key:
        await auth.create_key(key)
    assert (by_key.value.kind, by_key.value.code) == (ErrorKind.FORBIDDEN, "session_required")


async def test_expired_key_is_refused_from_its_second_on(auth: Any) -> None:
    made = await auth.create_key(await analyst(auth), ttl=60)
    auth.clock.advance(59.9)
    assert (await auth.verify_key(made.secret)).key_id == made.key.id
    auth.clock.advance(0.1)
    await refused_key(auth, made.secret)


async def test_revoked_key_is_refused_and_told_once(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller)
    await revoke(auth, caller, made.key.id)
    await refused_key(auth, made.secret)
    assert (await list_keys(auth, caller)).keys == []
    with pytest.raises(WireroomError) as again:
        await revoke(auth, caller, made.key.id)
    assert (again.value.kind, again.value.code) == (ErrorKind.NOT_FOUND, "api_key_not_found")
    (event,) = await auth.events_of(events_pb2.AuthApiKeyRevoked)
    assert (event.key_id, event.owner_id) == (made.key.id, caller.subject)


async def test_key_of_a_disabled_owner_is_refused(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller)
    await auth.change_user(_Row(caller), "disabled_at = now()")
    await refused_key(auth, made.secret)
    with pytest.raises(WireroomError) as refused:
        await auth.create_key(caller)
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


async def test_rubbish_is_not_a_key(auth: Any) -> None:
    for secret in ("", "wr_", "wr_abcdefgh_" + "A" * 43, "wr_rt_" + "A" * 43, "wr_abcdefgh_\x00", "é" * 55):
        await refused_key(auth, secret)


async def test_keys_of_others_look_as_if_not_there(auth: Any) -> None:
    owner = await analyst(auth)
    made = await auth.create_key(owner)
    colleague = await auth.add_user("bob@example.org", "Admin")
    stranger = await auth.add_user("eve@example.org", "Admin", tenant_id=await auth.add_tenant("other"))
    details = set()
    for caller, key_id in ((colleague, made.key.id), (stranger, made.key.id), (owner, str(uuid4()))):
        with pytest.raises(WireroomError) as refused:
            await revoke(auth, caller, key_id)
        details.add((refused.value.kind, refused.value.code, refused.value.detail))
        if caller is not owner:
            assert (await list_keys(auth, caller)).keys == []
    assert len(details) == 1
    assert (await auth.verify_key(made.secret)).key_id == made.key.id


async def test_malformed_key_id_is_invalid(auth: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await revoke(auth, await analyst(auth), "../1")
    assert refused.value.kind is ErrorKind.INVALID


async def test_use_is_remembered_at_most_once_a_minute(auth: Any) -> None:
    caller = await analyst(auth)
    made = await auth.create_key(caller)

    async def last_used() -> int:
        return int((await list_keys(auth, caller)).keys[0].last_used_at.seconds)

    assert await last_used() == 0
    await auth.verify_key(made.secret)
    first = await last_used()
    assert first == int(auth.clock.now().timestamp())
    auth.clock.advance(59)
    await auth.verify_key(made.secret)
    assert await last_used() == first
    auth.clock.advance(1)
    await auth.verify_key(made.secret)
    assert await last_used() == first + 60


async def test_pages_hold_every_key_once(auth: Any) -> None:
    caller = await analyst(auth)
    made = [(await auth.create_key(caller, name=f"key {n}")).key.id for n in range(7)]
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = await list_keys(auth, caller, 3, token)
        seen += [key.id for key in page.keys]
        token = page.next_page_token
    assert token == ""
    assert seen == made[::-1]
    everything = await list_keys(auth, caller, 10_000)
    assert len(everything.keys) == 7


async def test_page_size_is_capped(make_auth: Any) -> None:
    auth = await make_auth(max_api_keys_per_user=300)
    caller = await analyst(auth)
    for batch in range(26):
        await asyncio.gather(*(auth.create_key(caller, name=f"{batch}-{n}") for n in range(8)))
    first = await list_keys(auth, caller, 2**31 - 1)
    assert len(first.keys) == 200
    assert len((await list_keys(auth, caller, 0)).keys) == 50
    assert len((await list_keys(auth, caller, 200, first.next_page_token)).keys) == 8


async def test_bad_page_requests_are_invalid(auth: Any) -> None:
    caller = await analyst(auth)
    for size, token in ((-1, ""), (0, "x"), (0, "é"), (0, "A" * 23), (0, "A" * 22 + "=")):
        with pytest.raises(WireroomError) as refused:
            await list_keys(auth, caller, size, token)
        assert refused.value.kind is ErrorKind.INVALID


async def test_number_of_live_keys_is_limited_under_concurrency(make_auth: Any) -> None:
    auth = await make_auth(max_api_keys_per_user=3)
    caller = await analyst(auth)
    outcomes = await asyncio.gather(*(auth.create_key(caller) for _ in range(6)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert [error.code for error in refused] == ["api_key_limit_reached"] * 3
    await revoke(auth, caller, (await list_keys(auth, caller)).keys[0].id)
    assert (await auth.create_key(caller)).secret


async def test_operator_is_refused_nothing_an_admin_may(auth: Any) -> None:
    caller = await admin(auth)
    made = await auth.create_key(caller, "llm:invoke", "config:manage")
    assert list((await auth.verify_key(made.secret)).permissions) == ["config:manage", "llm:invoke"]


class _Row:
    """A principal's ids, as `change_user` reads them."""

    def __init__(self, caller: Principal) -> None:
        self.id = caller.subject
        self.tenant_id = str(caller.tenant_id)
