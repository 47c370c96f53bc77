from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

DIRECTORY_TABLES = {"custom_roles": "SELECT", "invitations": "DELETE SELECT"}


async def tenant(auth: Any, operator: Principal, name: str = "acme") -> Any:
    return (await auth.directory("CreateTenant", operator, name=name)).tenant


async def first_admin(auth: Any, operator: Principal, tenant_id: str, email: str = "boss@acme.example") -> Any:
    answer = await auth.directory("CreateInvitation", operator, email=email, roles=["Admin"], tenant_id=tenant_id)
    request = auth_pb2.RegisterRequest(email=email, password="four horses in the rain", invitation_token=answer.token)
    return (await auth.call("/wireroom_protos.auth.v1.AuthService/Register", request)).user


async def audited(auth: Any, tenant_id: str | None) -> list[str]:
    """Actions in one chain; None for the installation's."""
    async with auth.database.system() as connection:
        rows = await connection.execute(
            text(
                "SELECT data FROM outbox WHERE type = 'audit.recorded'"
                " AND tenant_id IS NOT DISTINCT FROM CAST(:tenant AS uuid) ORDER BY id"
            ),
            {"tenant": tenant_id},
        )
        return [events_pb2.AuditRecorded.FromString(row.data).action for row in rows]


async def test_an_operator_makes_a_tenant_whose_first_admin_runs_it(auth: Any) -> None:
    operator = await auth.operator()
    acme = await tenant(auth, operator, "  Acme ")
    assert acme.name == "Acme"
    (event,) = await auth.events_of(events_pb2.AuthTenantCreated)
    assert (event.tenant_id, event.name) == (acme.id, "Acme")
    boss = await first_admin(auth, operator, acme.id)
    assert (boss.tenant_id, list(boss.roles)) == (acme.id, ["Admin"])
    caller = await auth.caller(boss.id)
    member = (await auth.directory("CreateUser", caller, email="m@acme.example", roles=["Viewer"])).user
    assert [user.id for user in (await auth.directory("ListUsers", caller)).users] == [member.id, boss.id]
    # The operator runs the installation, not the tenant.
    assert [user.email for user in (await auth.directory("ListUsers", operator)).users] == ["ada@example.org"]
    with pytest.raises(WireroomError, match="user_not_found"):
        await auth.directory("GetUser", operator, id=member.id)
    assert await audited(auth, None) == ["tenant.created", "invitation.created"]
    assert (await audited(auth, acme.id))[:2] == ["tenant.created", "invitation.created"]


async def test_operators_stay_out_of_a_tenant_that_has_an_admin(auth: Any) -> None:
    operator = await auth.operator()
    acme = await tenant(auth, operator)
    early = await auth.directory("CreateInvitation", operator, email="late@acme.example", roles=["Admin"], tenant_id=acme.id)
    boss = await first_admin(auth, operator, acme.id)
    with pytest.raises(WireroomError) as error:
        await auth.directory("CreateInvitation", operator, email="spy@acme.example", roles=["Admin"], tenant_id=acme.id)
    assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "tenant_has_admin")
    request = auth_pb2.RegisterRequest(
        email="late@acme.example", password="four horses in the rain", invitation_token=early.token
    )
    with pytest.raises(WireroomError, match="invitation_invalid"):
        await auth.call("/wireroom_protos.auth.v1.AuthService/Register", request)
    shown = [entry.email for entry in (await auth.directory("ListInvitations", await auth.caller(boss.id))).invitations]
    assert shown == ["boss@acme.example", "late@acme.example"]


@pytest.mark.parametrize(
    "roles", [["Viewer"], ["platform_admin"], ["Admin", "platform_admin"], ["Admin", "Reader"], ["Analyst", "API User"]]
)
async def test_only_an_admin_is_invited_from_outside(auth: Any, roles: list[str]) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    acme = await tenant(auth, operator)
    with pytest.raises(WireroomError) as error:
        await auth.directory("CreateInvitation", operator, email="x@acme.example", roles=roles, tenant_id=acme.id)
    assert (error.value.kind, error.value.code) == (ErrorKind.INVALID, "roles_not_for_new_tenant")


async def test_tenants_are_for_operators_alone(auth: Any) -> None:
    operator = await auth.operator()
    acme = await tenant(auth, operator)
    callers = [await auth.add_user(f"{role[:3]}@example.org", role) for role in ("Admin", "Analyst", "Viewer", "API User")]
    callers.append(await auth.caller((await first_admin(auth, operator, acme.id)).id))
    for caller in callers:
        for method, fields in (
            ("CreateTenant", {"name": "x"}),
            ("ListTenants", {}),
            ("UpdateTenant", {"id": acme.id, "name": "x"}),
            ("UpdateTenant", {"id": str(operator.tenant_id), "disabled": True}),
            ("CreateInvitation", {"email": "x@x.example", "roles": ["Admin"], "tenant_id": str(new_id())}),
        ):
            with pytest.raises(WireroomError) as error:
                await auth.directory(method, caller, **fields)
            assert (error.value.kind, error.value.code) == (ErrorKind.FORBIDDEN, "permission_missing"), method


async def test_a_former_operator_is_refused_whatever_the_token_says(auth: Any) -> None:
    operator = await auth.operator()
    former = await auth.add_user("former@example.org", "platform_admin")
    acme = await tenant(auth, former)
    await auth.directory("UpdateUser", operator, id=former.subject, roles=auth_pb2.RoleNames(names=["Viewer"]))
    for method, fields in (
        ("CreateTenant", {"name": "x"}),
        ("UpdateTenant", {"id": acme.id, "disabled": True}),
        ("CreateInvitation", {"email": "x@x.example", "roles": ["Admin"], "tenant_id": acme.id}),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, former, **fields)
        assert error.value.kind in (ErrorKind.FORBIDDEN, ErrorKind.UNAUTHENTICATED)
    assert len((await auth.directory("ListTenants", operator)).tenants) == 2


async def test_an_operators_invitation_falls_with_the_operator(auth: Any) -> None:
    operator = await auth.operator()
    second = await auth.add_user("second@example.org", "platform_admin")
    acme = await tenant(auth, second)
    answer = await auth.directory("CreateInvitation", second, email="b@acme.example", roles=["Admin"], tenant_id=acme.id)
    await auth.directory("UpdateUser", operator, id=second.subject, disabled=True)
    request = auth_pb2.RegisterRequest(email="b@acme.example", password="four horses in the rain", invitation_token=answer.token)
    with pytest.raises(WireroomError, match="invitation_invalid"):
        await auth.call("/wireroom_protos.auth.v1.AuthService/Register", request)


async def test_a_disabled_tenant_is_shut_until_it_is_enabled(auth: Any) -> None:
    operator = await auth.operator()
    acme = await tenant(auth, operator)
    boss = await first_admin(auth, operator, acme.id)
    session = await auth.login("boss@acme.example")
    caller = await auth.caller(boss.id)
    key = await auth.create_key(caller, "news:read")
    guest = await auth.directory("CreateInvitation", caller, email="guest@acme.example", roles=["Viewer"])
    join = auth_pb2.RegisterRequest(email="guest@acme.example", password="four horses in the rain", invitation_token=guest.token)
    answer = (await auth.directory("UpdateTenant", operator, id=acme.id, disabled=True)).tenant
    assert answer.HasField("disabled_at")
    raised = (await auth.events_of(events_pb2.AuthEpochRaised))[-1]
    assert (raised.tenant_id, raised.user_id, raised.reason) == (acme.id, "", "tenant")
    for attempt in (
        auth.login("boss@acme.example"),
        auth.refresh(session.tokens.refresh_token),
        auth.verify_key(key.secret),
        auth.call("/wireroom_protos.auth.v1.AuthService/GetMe", auth_pb2.GetMeRequest(), caller),
        auth.directory("CreateUser", caller, email="x@acme.example", roles=["Viewer"]),
        auth.directory("PutRole", caller, name="x", permissions=["news:read"]),
    ):
        with pytest.raises(WireroomError) as error:
            await attempt
        assert error.value.kind is ErrorKind.UNAUTHENTICATED
    with pytest.raises(WireroomError, match="invitation_invalid"):
        await auth.call("/wireroom_protos.auth.v1.AuthService/Register", join)
    # Nobody else is concerned.
    assert (await auth.login()).tokens.access_token
    for chain in (acme.id, None):
        assert (await audited(auth, chain)).count("tenant.disabled") == 1

    enabled = (await auth.directory("UpdateTenant", operator, id=acme.id, disabled=False)).tenant
    assert not enabled.HasField("disabled_at")
    assert (await auth.login("boss@acme.example")).user.id == boss.id
    assert (await auth.verify_key(key.secret)).key_id == key.key.id
    assert (await auth.call("/wireroom_protos.auth.v1.AuthService/Register", join)).user.tenant_id == acme.id


async def test_names_of_tenants_are_unique_and_the_default_keeps_its_own(auth: Any) -> None:
    operator = await auth.operator()
    acme = await tenant(auth, operator)
    assert (await auth.directory("UpdateTenant", operator, id=acme.id, name="Acme Ltd")).tenant.name == "Acme Ltd"
    outcomes = await asyncio.gather(*(tenant(auth, operator, "beta") for _ in range(3)), return_exceptions=True)
    assert [outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)] == ["tenant_name_taken"] * 2
    for fields, code in (
        ({"id": acme.id, "name": "beta"}, "tenant_name_taken"),
        ({"id": acme.id, "name": "default"}, "tenant_name_taken"),
        ({"id": str(operator.tenant_id), "name": "other"}, "default_tenant"),
        ({"id": str(operator.tenant_id), "disabled": True}, "own_tenant"),
        ({"id": acme.id, "name": " "}, "name_missing"),
        ({"id": acme.id, "name": "a\nb"}, "name_malformed"),
        ({"id": str(new_id()), "name": "x"}, "tenant_not_found"),
        ({"id": str(new_id()), "disabled": True}, "tenant_not_found"),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory("UpdateTenant", operator, **fields)
        assert error.value.code == code
    with pytest.raises(WireroomError, match="tenant_not_found"):
        await auth.directory("CreateInvitation", operator, email="x@x.example", roles=["Admin"], tenant_id=str(new_id()))
    listed = (await auth.directory("ListTenants", operator)).tenants
    assert sorted(entry.name for entry in listed) == ["Acme Ltd", "beta", "default"]


async def test_lists_of_tenants_page(auth: Any) -> None:
    operator = await auth.operator()
    for number in range(4):
        await tenant(auth, operator, f"t{number}")
    names: list[str] = []
    token = ""
    while True:
        page = await auth.directory("ListTenants", operator, page_size=2, page_token=token)
        names += [entry.name for entry in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert names == ["t3", "t2", "t1", "t0", "default"]


async def test_operators_cannot_shut_each_other_out_at_once(auth: Any, race: Any) -> None:
    first = await auth.operator()
    acme = await tenant(auth, first)
    second = await auth.add_user(
        "second@acme.example",
        "Admin",
        "platform_admin",
        tenant_id=(await auth.caller((await first_admin(auth, first, acme.id)).id)).tenant_id,
    )
    outcomes = await race(
        "SELECT pg_advisory_xact_lock(hashtextextended('wireroom_auth.operators', 0))",
        auth.directory("UpdateTenant", first, id=acme.id, disabled=True),
        auth.directory("UpdateTenant", second, id=str(first.tenant_id), disabled=True),
    )
    assert [outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)] == ["last_operator"]
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM tenants WHERE disabled_at IS NULL"))).scalar_one() == 1


async def test_the_directorys_tables_give_no_role_more_than_it_needs(auth: Any) -> None:
    async def held(connection: Any, table: str) -> str:
        rights = []
        for right in ("DELETE", "INSERT", "SELECT", "UPDATE", "TRUNCATE", "TRIGGER", "REFERENCES"):
            found = await connection.execute(text("SELECT has_table_privilege(:table, :right)"), {"table": table, "right": right})
            if found.scalar_one():
                rights.append(right)
        return " ".join(rights)

    async with auth.database.system() as connection:
        assert {table: await held(connection, table) for table in DIRECTORY_TABLES} == DIRECTORY_TABLES
        assert not (await connection.execute(text("SELECT has_function_privilege('operator_exists()', 'EXECUTE')"))).scalar_one()
        for column in ("name", "disabled_at"):
            allowed = await connection.execute(
                text("SELECT has_column_privilege('tenants', :column, 'UPDATE')"), {"column": column}
            )
            assert not allowed.scalar_one()
    async with auth.database.tenant(new_id()) as connection:
        for table in DIRECTORY_TABLES:
            assert await held(connection, table) == "DELETE INSERT SELECT UPDATE"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO custom_roles VALUES (:theirs, 'x', '{news:read}', now(), now())",
        "INSERT INTO invitations VALUES (:theirs, gen_random_uuid(), 'x', '{Admin}', 'x', gen_random_uuid(), false, now(), now())",
        "INSERT INTO tenants (tenant_id, name, created_at) VALUES (gen_random_uuid(), 'x', now())",
        (
            "INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)"
            " VALUES (gen_random_uuid(), NULL, 'auth.user.deleted', '', '', '', '', '', '')"
        ),
        (
            "INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)"
            " VALUES (gen_random_uuid(), :theirs, 'audit.recorded', '', '', '', '', '', '')"
        ),
    ],
)
async def test_a_tenants_connection_writes_into_no_other_tenant(auth: Any, statement: str) -> None:
    theirs = await auth.add_tenant("theirs")
    ours = await auth.add_tenant("ours")
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with auth.database.tenant(ours) as connection:
            await connection.execute(text(statement), {"theirs": theirs} if ":theirs" in statement else {})
