from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from sqlalchemy import text

from wireroom_auth import admin_token
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.events.v1 import events_pb2


async def test_first_start_prints_one_token_and_stores_only_its_digest(auth: Any) -> None:
    assert len(auth.infra.announced) == 1
    token = auth.infra.admin_token()
    assert token.startswith("wr_admin_")
    assert len(token) == len("wr_admin_") + 43
    async with auth.database.system() as connection:
        stored = (await connection.execute(text("SELECT admin_token_hash FROM installation"))).scalar_one()
        users = (await connection.execute(text("SELECT count(*) FROM users"))).scalar_one()
    assert stored == hashlib.sha256(token.encode()).digest()
    assert users == 0


async def test_admin_token_makes_the_operator(auth: Any) -> None:
    user = await auth.register("  Ada@Example.ORG ", token=auth.infra.admin_token(), name="Ada Lovelace")
    assert user.email == "ada@example.org"
    assert list(user.roles) == ["Admin", "platform_admin"]
    assert {"llm:invoke", "docs:write", "config:manage"} <= set(user.permissions)
    (event,) = await auth.events_of(events_pb2.AuthUserRegistered)
    assert (event.user_id, event.via) == (user.id, "admin_token")
    assert event.email_sha256 == hashlib.sha256(b"ada@example.org").hexdigest()


async def test_no_token_is_printed_once_there_is_an_operator(auth: Any, make_auth: Any) -> None:
    await auth.register_admin()
    again = await make_auth()
    assert again.infra.announced == []
    with pytest.raises(WireroomError) as refused:
        await admin_token.issue(auth.database, auth.clock)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "admin_exists")


async def test_restart_leaves_the_printed_token_valid(auth: Any, make_auth: Any) -> None:
    again = await make_auth()
    assert again.infra.announced == []
    assert (await again.register(token=auth.infra.admin_token())).roles


async def test_token_made_by_command_replaces_the_one_before(auth: Any, make_auth: Any) -> None:
    token = await admin_token.issue(auth.database, auth.clock)
    with pytest.raises(WireroomError) as refused:
        await auth.register(token=auth.infra.admin_token())
    assert refused.value.code == "admin_token_invalid"
    assert (await make_auth()).infra.announced == []
    assert (await auth.register(token=token)).roles


async def test_replicas_starting_together_print_one_token_that_works(
    auth: Any, make_auth: Any, postgres_as_owner: Any, race: Any
) -> None:
    postgres_as_owner("DELETE FROM auth.installation")
    replicas = await race(
        "SELECT pg_advisory_xact_lock(hashtextextended('wireroom_auth.installation', 0))", *(make_auth() for _ in range(4))
    )
    (printed,) = [line for replica in replicas for line in replica.infra.announced]
    assert (await auth.register(token=printed.removeprefix("One-time admin token: "))).roles
    async with auth.database.system() as connection:
        tenants = (await connection.execute(text("SELECT name FROM tenants"))).scalars().all()
    assert tenants == ["default"]


async def test_registration_is_closed_without_a_token(auth: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.register()
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "registration_closed")


@pytest.mark.parametrize("token", ["x", "wr_admin_", "wr_admin_" + "A" * 43])
async def test_wrong_token_is_refused(auth: Any, token: str) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.register(token=token)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "admin_token_invalid")


async def test_concurrent_uses_of_the_token_make_one_operator(auth: Any, race: Any) -> None:
    token = auth.infra.admin_token()
    outcomes = await race(
        "SELECT 1 FROM auth.installation FOR UPDATE",
        *(auth.register(f"user{n}@example.org", token=token) for n in range(4)),
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert [(error.kind, error.code) for error in refused] == [(ErrorKind.FORBIDDEN, "admin_token_invalid")] * 3
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar_one() == 1


async def test_refused_registration_leaves_the_token_unspent(auth: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.register(token=auth.infra.admin_token(), password="short")
    assert refused.value.code == "password_too_short"
    assert refused.value.fields[0].field == "password"
    with pytest.raises(WireroomError) as malformed:
        await auth.register("not an address", token=auth.infra.admin_token())
    assert malformed.value.code == "email_malformed"
    assert (await auth.register_admin()).email == "ada@example.org"


async def test_open_registration_makes_viewers(make_auth: Any) -> None:
    auth = await make_auth(open_registration=True)
    user = await auth.register("vera@example.org")
    assert list(user.roles) == ["Viewer"]
    (event,) = await auth.events_of(events_pb2.AuthUserRegistered)
    assert event.via == "open"
    # The operator is still to come: the token that was printed waits for them, and can be replaced.
    assert (await make_auth()).infra.announced == []
    assert (await auth.register_admin()).roles


async def test_duplicate_address_conflicts_in_any_case(make_auth: Any) -> None:
    auth = await make_auth(open_registration=True)
    await auth.register("vera@example.org")
    with pytest.raises(WireroomError) as refused:
        await auth.register("VERA@example.org")
    assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "email_taken")


async def test_concurrent_registrations_of_one_address_make_one_user(make_auth: Any) -> None:
    auth = await make_auth(open_registration=True)
    outcomes = await asyncio.gather(*(auth.register("vera@example.org") for _ in range(4)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert [error.code for error in refused] == ["email_taken"] * 3


async def test_taken_address_is_not_told_to_strangers(auth: Any) -> None:
    await auth.register_admin()
    with pytest.raises(WireroomError) as refused:
        await auth.register()
    assert refused.value.code == "registration_closed"
