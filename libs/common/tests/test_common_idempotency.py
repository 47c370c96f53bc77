"""One effect per idempotency key: claims in the effect's transaction, and the key's way from the gateway to the servicer."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_common.db import Database
from wireroom_common.db.schema import idempotency_table, messaging_tables, tenant_table
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.idempotency import purge_effects
from wireroom_common.outbox import emit
from wireroom_common.rpc.context import (
    current_effect_key,
    idempotency_key_to_send,
    receive_idempotency_key,
    set_idempotency_key,
)
from wireroom_common.testing.plugin import MakeDatabase
from wireroom_protos.events.v1 import events_pb2

DDL = [
    "CREATE TABLE demo.things (tenant_id uuid NOT NULL, id uuid NOT NULL, PRIMARY KEY (tenant_id, id))",
    *tenant_table("demo", "things"),
    *messaging_tables("demo"),
    *idempotency_table("demo"),
]
TENANT, OTHER = uuid4(), uuid4()
KEY = "ab" * 32
T = TypeVar("T")


def event() -> Message:
    return events_pb2.NewsFeedAdded(feed_id="x")


async def make_thing(database: Database, tenant: UUID, *, emits: int = 1, fails: bool = False) -> UUID:
    thing = uuid4()
    async with database.tenant(tenant) as connection:
        await connection.execute(text("INSERT INTO things VALUES (:tenant, :id)"), {"tenant": tenant, "id": thing})
        for _ in range(emits):
            await emit(connection, event(), tenant_id=tenant, subject=str(thing))
        if fails:
            raise RuntimeError("the effect did not happen")
    return thing


async def as_call(work: Callable[[], Awaitable[T]], *, key: str = KEY, method: str = "/demo.Things/Make") -> T:
    """As the RPC server serves a call: in a context of its own."""

    async def served() -> T:
        receive_idempotency_key(key, method)
        return await work()

    return await asyncio.create_task(served(), context=contextvars.Context())


async def count(database: Database, tenant: UUID, table: str = "things") -> int:
    async with database.tenant(tenant) as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())  # noqa: S608 - a test's table


async def test_second_call_with_the_key_changes_nothing_and_learns_what_the_first_changed(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    first = await as_call(lambda: make_thing(database, TENANT))
    with pytest.raises(WireroomError) as refused:
        await as_call(lambda: make_thing(database, TENANT))
    assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "idempotency_effect_exists")
    assert str(first) in refused.value.detail
    assert await count(database, TENANT) == 1


async def test_fifty_calls_at_once_have_one_effect(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    outcomes = await asyncio.gather(*(as_call(lambda: make_thing(database, TENANT)) for _ in range(50)), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, UUID)]
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)}
    assert len(made) == 1
    assert codes == {"idempotency_effect_exists"}
    assert await count(database, TENANT) == 1


async def test_one_call_may_change_several_things_in_several_transactions(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)

    async def twice() -> None:
        await make_thing(database, TENANT, emits=3)
        await make_thing(database, TENANT)

    await as_call(twice)
    assert await count(database, TENANT) == 2


async def test_an_effect_that_was_rolled_back_leaves_the_key_free(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)

    async def fails_then_works() -> UUID:
        with pytest.raises(RuntimeError):
            await make_thing(database, TENANT, fails=True)
        return await make_thing(database, TENANT)

    with pytest.raises(RuntimeError):
        await as_call(lambda: make_thing(database, TENANT, fails=True))
    await as_call(fails_then_works)
    assert await count(database, TENANT) == 1


@pytest.mark.parametrize("installation_first", [True, False])
async def test_a_tenants_change_may_also_tell_the_installation(make_database: MakeDatabase, *, installation_first: bool) -> None:
    # As `auth` allows it for its audit.
    allowed = "CREATE POLICY app_installation ON demo.outbox FOR INSERT TO demo_app WITH CHECK (tenant_id IS NULL)"
    database = await make_database("demo", [*DDL, allowed])

    async def both() -> UUID:
        thing = uuid4()
        async with database.tenant(TENANT) as connection:
            await connection.execute(text("INSERT INTO things VALUES (:tenant, :id)"), {"tenant": TENANT, "id": thing})
            for tenant in (None, TENANT) if installation_first else (TENANT, None):
                await emit(connection, event(), tenant_id=tenant, subject=str(thing))
        return thing

    first = await as_call(both)
    with pytest.raises(WireroomError) as refused:
        await as_call(both)
    assert refused.value.code == "idempotency_effect_exists"
    assert str(first) in refused.value.detail
    assert await count(database, TENANT) == 1


async def test_an_event_about_a_failure_leaves_the_key_free(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)

    async def failure() -> None:
        async with database.tenant(TENANT) as connection:
            await emit(connection, event(), tenant_id=TENANT, subject="s", effect=False)

    await as_call(failure)
    await as_call(lambda: make_thing(database, TENANT))
    assert await count(database, TENANT) == 1


async def test_keys_of_other_tenants_methods_and_calls_without_a_key_are_independent(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    await as_call(lambda: make_thing(database, TENANT))
    await as_call(lambda: make_thing(database, OTHER))
    await as_call(lambda: make_thing(database, TENANT), method="/demo.Things/MakeOther")
    await as_call(lambda: make_thing(database, TENANT), key="cd" * 32)
    for _ in range(2):
        await as_call(lambda: make_thing(database, TENANT), key="")
    assert (await count(database, TENANT), await count(database, OTHER)) == (5, 1)
    assert (await count(database, TENANT, "idempotency"), await count(database, OTHER, "idempotency")) == (3, 1)


async def test_a_change_without_a_tenant_is_claimed_by_the_system_role(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)

    async def change() -> None:
        async with database.system() as connection:
            await emit(connection, event(), tenant_id=None, subject="installation")

    await as_call(change)
    with pytest.raises(WireroomError, match="idempotency_effect_exists"):
        await as_call(change)


async def test_claims_cannot_be_changed_by_tenants_and_go_after_their_time(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    await as_call(lambda: make_thing(database, TENANT))
    for statement in ("DELETE FROM idempotency", "UPDATE idempotency SET subject = 'x'"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.tenant(TENANT) as connection:
                await connection.execute(text(statement))
    assert await purge_effects(database, timedelta(days=1)) == 0
    assert await purge_effects(database, timedelta(0)) == 1
    await as_call(lambda: make_thing(database, TENANT))
    assert await count(database, TENANT) == 2


async def test_a_key_ends_at_the_service_that_is_called() -> None:
    async def serve() -> tuple[str, str]:
        set_idempotency_key(KEY)
        receive_idempotency_key(KEY, "/a/B")
        key = current_effect_key()
        assert key is not None
        return idempotency_key_to_send(), key.value

    sent, value = await asyncio.create_task(serve())
    assert sent == ""
    assert value != KEY


@pytest.mark.parametrize("given", ["", "x", "AB" * 32, "ab" * 33, "zz" * 32])
async def test_what_is_not_a_key_counts_as_none(given: str) -> None:
    receive_idempotency_key(KEY, "/a/B")
    receive_idempotency_key(given, "/a/B")
    assert current_effect_key() is None
    if given:
        with pytest.raises(ValueError, match="64"):
            set_idempotency_key(given)
