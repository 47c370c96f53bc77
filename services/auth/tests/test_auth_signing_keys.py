"""The life of the keys that sign access tokens."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from wireroom_auth.adapters.encryption import Sealing
from wireroom_auth.adapters.signing_keys import SigningKeys
from wireroom_auth.settings import AuthSettings
from wireroom_auth.signing_key_rotation import rotate as rotate_by_command
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
MATERIAL = "/wireroom_protos.auth.v1.KeyMaterialService/"
LATER = 7 * 60
DAYS = 86400


async def jwks(auth: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await auth.call(AUTH + "GetJwks", auth_pb2.GetJwksRequest())).jwks_json)
    return document


async def kids(auth: Any) -> list[str]:
    return [key["kid"] for key in (await jwks(auth))["keys"]]


def kid_of(token: str) -> str:
    return str(jws.extract_compact(token.encode()).headers()["kid"])


async def verifies(auth: Any, token: str) -> bool:
    keys = KeySet.import_key_set(await jwks(auth))
    try:
        with pytest.warns(match="EdDSA"):
            jws.deserialize_compact(token, keys, algorithms=["EdDSA"])
    except (JoseError, ValueError):
        return False
    return True


async def operator(auth: Any) -> Principal:
    user = await auth.register_admin()
    from uuid import UUID  # noqa: PLC0415 - only here

    return Principal(
        PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions), "session"
    )


async def rotate(auth: Any, caller: Principal) -> Any:
    return await auth.call(MATERIAL + "RotateSigningKey", auth_pb2.RotateSigningKeyRequest(), caller)


async def maintain(auth: Any) -> None:
    (job,) = [job for job in auth.service.periodic if job.name == "auth.signing_keys"]
    await job.run()


def ring(auth: Any) -> SigningKeys:
    return SigningKeys(
        auth.database,
        auth.clock,
        Sealing(lambda: auth.infra.master),
        token_life=timedelta(minutes=30),
        rotate_after=timedelta(days=90),
    )


async def token_of(auth: Any) -> str:
    return str((await auth.login()).tokens.access_token)


async def test_replicas_that_start_together_share_one_signing_key(auth: Any, race: Any, postgres_as_owner: Any) -> None:
    postgres_as_owner("DELETE FROM auth.signing_keys")
    rings = [ring(auth) for _ in range(3)]
    outcomes = await race("LOCK TABLE auth.signing_keys IN SHARE MODE", *(each.load() for each in rings))
    assert outcomes == [None] * 3
    tokens = [each.sign({"iss": "wireroom"}) for each in rings]
    assert len({kid_of(token) for token in tokens}) == 1
    assert [await verifies(auth, token) for token in tokens] == [True] * 3
    # One signs, one is known for the next rotation.
    assert len(await kids(auth)) == 2


async def test_keys_outlive_a_restart(auth: Any, make_auth: Any) -> None:
    await auth.register_admin()
    token = await token_of(auth)
    again = await make_auth()
    assert await verifies(again, token)
    assert kid_of(await token_of(again)) == kid_of(token)


async def test_published_keys_hold_no_private_part(auth: Any) -> None:
    for key in (await jwks(auth))["keys"]:
        assert {"kid", "kty", "crv", "x", "alg", "use"} == set(key)
        assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")


async def test_another_master_secret_is_refused_at_start(auth: Any, make_auth: Any) -> None:
    infra = type(auth.infra)(auth.database, master=b"x" * 32)
    with pytest.raises(RuntimeError, match="WIREROOM_MASTER_SECRET"):
        await make_auth(infra=infra)


async def test_rotation_takes_the_key_that_was_published_before(auth: Any) -> None:
    caller = await operator(auth)
    before = await kids(auth)
    old = await token_of(auth)
    auth.clock.advance(LATER)
    rotated = await rotate(auth, caller)
    assert rotated.kid in before
    new = await token_of(auth)
    assert kid_of(new) == rotated.kid != kid_of(old)
    published = await kids(auth)
    assert set(before) < set(published)
    assert len(published) == 3
    (event,) = await auth.events_of(events_pb2.AuthSigningKeyRotated)
    assert event.kid == rotated.kid
    audited = [record.action for record in await auth.events_of(events_pb2.AuditRecorded)]
    assert "signing_key.rotated" in audited


async def test_old_key_goes_after_its_last_token_and_not_before(auth: Any) -> None:
    caller = await operator(auth)
    auth.clock.advance(LATER)
    old = await token_of(auth)
    rotated = await rotate(auth, caller)
    wait = rotated.previous_until.ToDatetime().timestamp() - auth.clock.now().replace(tzinfo=None).timestamp()
    # The life of an access token, 60 s of leeway at the gateway, and time for replicas that hear of it late.
    assert wait > 1800 + 120
    auth.clock.advance(wait - 1)
    await maintain(auth)
    assert await verifies(auth, old)
    auth.clock.advance(1)
    assert not await verifies(auth, old)
    await maintain(auth)
    assert len(await kids(auth)) == 2
    async with auth.database.system() as connection:
        from sqlalchemy import text  # noqa: PLC0415 - only this test looks behind the service

        assert await connection.scalar(text("SELECT count(*) FROM signing_keys")) == 2


async def test_key_that_nobody_can_know_yet_does_not_sign(auth: Any) -> None:
    caller = await operator(auth)
    for _ in range(2):
        with pytest.raises(WireroomError) as refused:
            await rotate(auth, caller)
        assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "signing_key_too_new")
        assert refused.value.retry_after > 0
        auth.clock.advance(LATER)
        await rotate(auth, caller)


async def test_schedule_rotates_once_over_all_replicas(make_auth: Any) -> None:
    replicas = [await make_auth(signing_key_days=30)]
    replicas += [await make_auth(infra=replicas[0].infra, signing_key_days=30) for _ in range(3)]
    first = replicas[0]
    await first.register_admin()
    old = kid_of(await token_of(first))
    first.clock.advance(30 * DAYS - 1)
    await asyncio.gather(*(maintain(each) for each in replicas))
    assert kid_of(await token_of(first)) == old
    first.clock.advance(1)
    await asyncio.gather(*(maintain(each) for each in replicas))
    now = {kid_of(await token_of(each)) for each in replicas}
    assert len(now) == 1
    assert old not in now
    assert len(await first.events_of(events_pb2.AuthSigningKeyRotated)) == 1


async def test_replicas_follow_the_event_and_the_clock(make_auth: Any) -> None:
    first = await make_auth()
    by_event, by_clock = await make_auth(infra=first.infra), await make_auth(infra=first.infra)
    caller = await operator(first)
    first.clock.advance(LATER)
    rotated = await rotate(first, caller)
    assert kid_of(await token_of(by_event)) != rotated.kid
    # What a replica signs before it hears of the rotation is as good as ever.
    assert await verifies(first, await token_of(by_event))
    (subscription,) = [entry for entry in by_event.service.subscriptions if entry.consumer == "auth.signing_keys"]
    assert subscription.types == {"auth.signing_key.rotated"}
    assert subscription.broadcast is not None

    class Arrived:
        type = "auth.signing_key.rotated"

    await subscription.broadcast(Arrived())
    assert kid_of(await token_of(by_event)) == rotated.kid
    await maintain(by_clock)
    assert kid_of(await token_of(by_clock)) == rotated.kid


async def test_command_rotates_beside_a_running_replica(auth: Any) -> None:
    await operator(auth)
    auth.clock.advance(LATER)
    rotated = await rotate_by_command(auth.database, auth.clock, lambda: auth.infra.master, AuthSettings())
    await maintain(auth)
    assert kid_of(await token_of(auth)) == rotated.kid


async def test_only_operators_rotate(auth: Any) -> None:
    caller = await operator(auth)
    admin = await auth.add_user("adm@example.org", "Admin")
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, permissions=caller.permissions)
    for other in (admin, key):
        with pytest.raises(WireroomError) as refused:
            await rotate(auth, other)
        assert refused.value.kind is ErrorKind.FORBIDDEN
