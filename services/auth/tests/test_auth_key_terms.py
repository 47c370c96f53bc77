"""Rotation, limits, budgets and signing secrets of API keys."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from cryptography.exceptions import InvalidTag

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

KEYS = "/wireroom_protos.auth.v1.ApiKeyService/"
DAY = 86400
GATEWAY = Principal(PrincipalKind.SERVICE, "gateway")


async def analyst(auth: Any) -> Principal:
    await auth.register_admin()
    principal: Principal = await auth.add_user("ann@example.org", "Analyst")
    return principal


async def create(auth: Any, caller: Principal, **fields: Any) -> Any:
    return await auth.call(KEYS + "CreateKey", auth_pb2.CreateKeyRequest(**{"name": "ci", **fields}), caller)


async def update(auth: Any, caller: Principal, key_id: str, **fields: Any) -> Any:
    return (await auth.call(KEYS + "UpdateKey", auth_pb2.UpdateKeyRequest(id=key_id, **fields), caller)).key


async def rotate(auth: Any, caller: Principal, key_id: str, **fields: Any) -> Any:
    return await auth.call(KEYS + "RotateKey", auth_pb2.RotateKeyRequest(id=key_id, **fields), caller)


async def get(auth: Any, caller: Principal, key_id: str) -> Any:
    return (await auth.call(KEYS + "GetKey", auth_pb2.GetKeyRequest(id=key_id), caller)).key


async def by_id(auth: Any, key_id: str, caller: Principal = GATEWAY) -> Any:
    return await auth.call(KEYS + "VerifyKey", auth_pb2.VerifyKeyRequest(key_id=key_id), caller)


async def works(auth: Any, secret: str) -> bool:
    try:
        await auth.verify_key(secret)
    except WireroomError as error:
        if error.code != "api_key_invalid":
            raise
        return False
    return True


async def refusal(coroutine: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as refused:
        await coroutine
    return refused.value.kind, refused.value.code


async def test_terms_are_stored_and_told_to_the_gateway(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, limits={"chat": 5, "api": 50}, budget_day_micros=7, budget_month_micros=70)
    key = await get(auth, caller, made.key.id)
    assert (dict(key.limits), key.budget_day_micros, key.budget_month_micros) == ({"chat": 5, "api": 50}, 7, 70)
    assert not key.signature_required
    assert dict((await auth.verify_key(made.secret)).limits) == {"chat": 5, "api": 50}
    [created] = await auth.events_of(events_pb2.AuthApiKeyCreated)
    assert (created.version, created.budget_day_micros, created.budget_month_micros) == (1, 7, 70)
    await rotate(auth, caller, made.key.id)
    [rotated] = await auth.events_of(events_pb2.AuthApiKeyChanged)
    assert (rotated.version, rotated.budget_day_micros, rotated.budget_month_micros) == (2, 7, 70)


async def test_update_changes_what_it_names_and_is_told(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, permissions=["docs:read", "docs:write"], limits={"chat": 5})
    changed = await update(auth, caller, made.key.id, permissions=auth_pb2.PermissionNames(names=["docs:read"]))
    assert (list(changed.permissions), dict(changed.limits), changed.name) == (["docs:read"], {"chat": 5}, "ci")
    assert list((await auth.verify_key(made.secret)).permissions) == ["docs:read"]
    changed = await update(
        auth, caller, made.key.id, name="new", limits=auth_pb2.KeyLimits(), budget_day_micros=9, budget_month_micros=0
    )
    assert (changed.name, dict(changed.limits), changed.budget_day_micros) == ("new", {}, 9)
    events = await auth.events_of(events_pb2.AuthApiKeyChanged)
    assert [(event.key_id, event.change) for event in events] == [(made.key.id, "updated")] * 2
    assert [(event.version, event.budget_day_micros, event.budget_month_micros) for event in events] == [(2, 0, 0), (3, 9, 0)]
    await update(auth, caller, made.key.id, name="new")
    assert len(await auth.events_of(events_pb2.AuthApiKeyChanged)) == 2


async def test_every_action_is_audited_without_secrets(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, signature_required=True)
    await update(auth, caller, made.key.id, name="other")
    again = await rotate(auth, caller, made.key.id)
    await auth.call(KEYS + "RevokeKey", auth_pb2.RevokeKeyRequest(id=made.key.id), caller)
    records = [event for event in await auth.events_of(events_pb2.AuditRecorded) if event.action.startswith("api_key.")]
    assert [event.action for event in records] == ["api_key.created", "api_key.updated", "api_key.rotated", "api_key.revoked"]
    everything = str(await auth.events())
    assert made.signing_secret not in everything
    assert again.signing_secret not in everything


async def test_updates_of_different_fields_do_not_undo_each_other(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller)
    await asyncio.gather(
        update(auth, caller, made.key.id, name="renamed"),
        update(auth, caller, made.key.id, budget_day_micros=5),
        update(auth, caller, made.key.id, limits=auth_pb2.KeyLimits(limits={"api": 3})),
    )
    key = await get(auth, caller, made.key.id)
    assert (key.name, key.budget_day_micros, dict(key.limits)) == ("renamed", 5, {"api": 3})


async def test_key_cannot_be_raised_above_its_owner(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, permissions=["docs:read"])
    names = auth_pb2.PermissionNames(names=["users:manage"])
    assert await refusal(update(auth, caller, made.key.id, permissions=names)) == (
        ErrorKind.FORBIDDEN,
        "permission_exceeds_owner",
    )
    assert list((await get(auth, caller, made.key.id)).permissions) == ["docs:read"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"limits": {"other": 1}}, "limit_unknown"),
        ({"limits": {"chat": 0}}, "limit_out_of_range"),
        ({"limits": {"chat": 61}}, "limit_out_of_range"),
        ({"limits": {"chat": -1}}, "limit_out_of_range"),
        ({"budget_day_micros": -1}, "budget_out_of_range"),
        ({"budget_month_micros": 2**62}, "budget_out_of_range"),
    ],
)
async def test_bad_terms_are_invalid(auth: Any, fields: dict[str, Any], code: str) -> None:
    caller = await analyst(auth)
    assert await refusal(create(auth, caller, **fields)) == (ErrorKind.INVALID, code)
    assert (await auth.call(KEYS + "ListKeys", auth_pb2.ListKeysRequest(), caller)).keys == []


async def test_admin_may_give_more_than_the_ceiling(auth: Any) -> None:
    await auth.register_admin()
    admin = await auth.add_user("adm@example.org", "Admin")
    made = await create(auth, admin, limits={"chat": 100_000})
    assert dict(made.key.limits) == {"chat": 100_000}
    assert await refusal(create(auth, admin, limits={"chat": 1_000_001})) == (ErrorKind.INVALID, "limit_out_of_range")


async def test_rotation_overlaps_for_a_day_by_default(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller)
    again = await rotate(auth, caller, made.key.id)
    assert again.key.id == made.key.id
    assert again.secret != made.secret
    assert again.key.prefix == again.secret[:11]
    assert again.key.previous_secret_until.seconds == int(auth.clock.now().timestamp()) + DAY
    assert await works(auth, made.secret)
    assert await works(auth, again.secret)
    # What the gateway believes of the old secret ends with it.
    assert (await auth.verify_key(made.secret)).expires_at == again.key.previous_secret_until
    assert not (await auth.verify_key(again.secret)).HasField("expires_at")
    auth.clock.advance(DAY)
    assert not await works(auth, made.secret)
    assert await works(auth, again.secret)
    assert not (await get(auth, caller, made.key.id)).HasField("previous_secret_until")
    (event,) = await auth.events_of(events_pb2.AuthApiKeyChanged)
    assert (event.key_id, event.change) == (made.key.id, "rotated")


async def test_rotation_without_overlap_ends_the_old_secret_now(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller)
    again = await rotate(auth, caller, made.key.id, overlap_seconds=0)
    assert not await works(auth, made.secret)
    assert await works(auth, again.secret)
    assert not again.key.HasField("previous_secret_until")


async def test_rotation_inside_an_overlap_ends_the_oldest(auth: Any) -> None:
    caller = await analyst(auth)
    first = await create(auth, caller)
    second = await rotate(auth, caller, first.key.id)
    third = await rotate(auth, caller, first.key.id, overlap_seconds=60)
    assert [await works(auth, made.secret) for made in (first, second, third)] == [False, True, True]


async def test_parallel_rotations_leave_two_secrets(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller)
    rotated = await asyncio.gather(*(rotate(auth, caller, made.key.id) for _ in range(6)))
    alive = [await works(auth, one.secret) for one in (made, *rotated)]
    assert alive.count(True) == 2
    assert not alive[0]


async def test_rotation_is_refused_out_of_range_and_for_expired_keys(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, ttl_seconds=60)
    for seconds in (-1, 31 * DAY):
        assert (await refusal(rotate(auth, caller, made.key.id, overlap_seconds=seconds)))[1] == "overlap_out_of_range"
    auth.clock.advance(60)
    assert await refusal(rotate(auth, caller, made.key.id)) == (ErrorKind.CONFLICT, "api_key_expired")


async def test_keys_change_no_keys(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller)
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, permissions=caller.permissions)
    for attempt in (rotate(auth, key, made.key.id), update(auth, key, made.key.id, name="x")):
        assert await refusal(attempt) == (ErrorKind.FORBIDDEN, "session_required")


async def test_keys_of_others_look_as_if_not_there(auth: Any) -> None:
    owner = await analyst(auth)
    made = await create(auth, owner)
    colleague = await auth.add_user("bob@example.org", "Admin")
    stranger = await auth.add_user("eve@example.org", "Admin", tenant_id=await auth.add_tenant("other"))
    for caller, key_id in ((colleague, made.key.id), (stranger, made.key.id), (owner, str(uuid4()))):
        for attempt in (
            get(auth, caller, key_id),
            rotate(auth, caller, key_id),
            update(auth, caller, key_id, name="mine"),
        ):
            assert await refusal(attempt) == (ErrorKind.NOT_FOUND, "api_key_not_found")
    assert await works(auth, made.secret)


async def test_signing_key_has_no_secret_that_travels(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, signature_required=True)
    assert made.secret == ""
    assert made.signing_secret.startswith("wr_sig_")
    assert made.key.signature_required
    found = await by_id(auth, made.key.id)
    assert (found.signing_secret, found.signature_required) == (made.signing_secret.encode(), True)
    again = await rotate(auth, caller, made.key.id, overlap_seconds=60)
    found = await by_id(auth, made.key.id)
    assert found.signing_secret == again.signing_secret.encode()
    assert found.previous_signing_secret == made.signing_secret.encode()
    auth.clock.advance(60)
    assert (await by_id(auth, made.key.id)).previous_signing_secret == b""
    assert not await works(auth, made.signing_secret)


async def test_signing_secret_is_sealed_at_rest(auth: Any, postgres_as_owner: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, signature_required=True)
    from sqlalchemy import text  # noqa: PLC0415 - only this test looks behind the service

    async with auth.database.system() as connection:
        row = (await connection.execute(text("SELECT to_jsonb(k) AS stored, k.signing_secret_sealed FROM api_keys k"))).one()
    assert made.signing_secret.encode() not in bytes(row.signing_secret_sealed)
    assert made.signing_secret not in str(row.stored)
    # Bound to its row: another key's sealed secret is of no use here.
    await create(auth, caller, signature_required=True)
    postgres_as_owner(
        "UPDATE auth.api_keys k SET signing_secret_sealed = o.signing_secret_sealed FROM auth.api_keys o WHERE k.id <> o.id"
    )
    with pytest.raises(InvalidTag):
        await by_id(auth, made.key.id)


async def test_only_the_gateway_looks_up_by_id(auth: Any) -> None:
    caller = await analyst(auth)
    made = await create(auth, caller, signature_required=True)
    from wireroom_common.principal import ANONYMOUS  # noqa: PLC0415 - only this test is somebody else

    for other in (ANONYMOUS, caller, Principal(PrincipalKind.SERVICE, "news")):
        assert await refusal(by_id(auth, made.key.id, other)) == (ErrorKind.FORBIDDEN, "service_required")
    for wrong in (str(uuid4()), "x", "' OR 1=1 --"):
        assert await refusal(by_id(auth, wrong)) == (ErrorKind.UNAUTHENTICATED, "api_key_invalid")
