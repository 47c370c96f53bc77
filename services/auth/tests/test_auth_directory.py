from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import bcrypt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

TENANT_LOCK = "SELECT 1 FROM auth.tenants FOR UPDATE"


def refused(outcomes: list[Any]) -> list[tuple[ErrorKind, str]]:
    return [(outcome.kind, outcome.code) for outcome in outcomes if isinstance(outcome, WireroomError)]


async def created(auth: Any, caller: Principal, email: str, *roles: str, **fields: Any) -> Any:
    return (await auth.directory("CreateUser", caller, email=email, roles=roles, **fields)).user


async def user_count(auth: Any) -> int:
    async with auth.database.system() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM users"))).scalar_one())


async def audited(auth: Any, tenant_id: UUID | None = None) -> list[str]:
    async with auth.database.system() as connection:
        rows = await connection.execute(
            text(
                "SELECT data FROM outbox WHERE type = 'audit.recorded' AND (CAST(:tenant AS uuid) IS NULL OR tenant_id = :tenant)"
                " ORDER BY id"
            ),
            {"tenant": tenant_id},
        )
        return [events_pb2.AuditRecorded.FromString(row.data).action for row in rows]


async def test_a_created_user_signs_in_with_the_roles_given(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, " Vera@Example.org ", "Viewer", "Analyst", name="Vera", password=password)
    assert (user.email, user.name, list(user.roles), user.tenant_id) == (
        "vera@example.org",
        "Vera",
        ["Analyst", "Viewer"],
        str(operator.tenant_id),
    )
    session = await auth.login("vera@example.org")
    assert set(session.user.permissions) == set(user.permissions)
    assert "feeds:manage" in user.permissions
    assert "users:manage" not in user.permissions
    found = (await auth.directory("GetUser", operator, id=user.id)).user
    assert found == user
    event = (await auth.events_of(events_pb2.AuthUserRegistered))[-1]
    assert (event.user_id, event.via) == (user.id, "created")
    assert "user.registered" in await audited(auth, operator.tenant_id)


@pytest.mark.parametrize("kind", ["bcrypt", "argon2id"])
async def test_an_imported_hash_lets_its_password_in(auth: Any, password: str, kind: str) -> None:
    operator = await auth.operator()
    if kind == "bcrypt":
        imported = bcrypt.hashpw(password.encode(), bcrypt.gensalt(8)).decode()
    else:
        imported = PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1).hash(password)
    user = await created(auth, operator, "vera@example.org", "Viewer", password_hash=imported)
    assert (await auth.login("vera@example.org")).user.id == user.id
    with pytest.raises(WireroomError, match="invalid_credentials"):
        await auth.login("vera@example.org", "another password altogether")


@pytest.mark.parametrize(
    "imported",
    [
        "four horses in the rain",
        "$2b$04$" + "a" * 53,
        "$2b$31$" + "a" * 53,
        "$2b$10$" + "a" * 52,
        "$2x$10$" + "a" * 53,
        "$argon2i$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$argon2id$v=19$m=99999999,t=3,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$argon2id$v=19$m=65536,t=999,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$argon2id$v=19$m=524288,t=1,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$argon2id$v=19$m=262144,t=5,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21l$" + "a" * 43,
        "$2b$10$" + "a" * 53 + "\n",
        "$2b$٠٩$" + "a" * 53,
    ],
)
async def test_what_is_no_bearable_hash_is_not_imported(auth: Any, imported: str) -> None:
    operator = await auth.operator()
    with pytest.raises(WireroomError) as error:
        await created(auth, operator, "vera@example.org", "Viewer", password_hash=imported)
    assert (error.value.kind, error.value.fields[0].field) == (ErrorKind.INVALID, "password_hash")
    assert imported not in error.value.detail
    assert await user_count(auth) == 1


async def test_an_account_without_a_password_lets_nobody_in(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, "vera@example.org", "Viewer")
    assert user.id
    for attempt in (password, "", "None", "null"):
        with pytest.raises(WireroomError, match="invalid_credentials"):
            await auth.login("vera@example.org", attempt)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"email": "not an address", "roles": ["Viewer"]}, "email_malformed"),
        ({"email": "vera@example.org", "roles": []}, "roles_missing"),
        ({"email": "vera@example.org", "roles": ["Root"]}, "role_unknown"),
        ({"email": "vera@example.org", "roles": ["admin"]}, "role_unknown"),
        ({"email": "vera@example.org", "roles": [f"r{n}" for n in range(21)]}, "roles_too_many"),
        ({"email": "vera@example.org", "roles": ["Viewer"], "password": "short"}, "password_too_short"),
        ({"email": "vera@example.org", "roles": ["Viewer"], "password": "x", "password_hash": "y"}, "password_ambiguous"),
        ({"email": "ADA@example.org", "roles": ["Viewer"]}, "email_taken"),
    ],
)
async def test_bad_input_creates_nobody(auth: Any, fields: dict[str, Any], code: str) -> None:
    operator = await auth.operator()
    with pytest.raises(WireroomError) as error:
        await auth.directory("CreateUser", operator, **fields)
    assert error.value.code == code
    assert await user_count(auth) == 1


async def test_lists_page_through_the_tenant_and_search_it(auth: Any) -> None:
    operator = await auth.operator()
    for number in range(5):
        await created(auth, operator, f"user{number}@example.org", "Viewer", name=f"Number_{number}")
    other = await auth.add_tenant("other")
    await auth.add_user("hidden@example.org", "Admin", tenant_id=other)
    seen: list[str] = []
    token = ""
    while True:
        page = await auth.directory("ListUsers", operator, page_size=2, page_token=token)
        assert len(page.users) <= 2
        seen += [user.email for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"user{number}@example.org" for number in (4, 3, 2, 1, 0)] + ["ada@example.org"]

    async def search(query: str) -> list[str]:
        return [user.email for user in (await auth.directory("ListUsers", operator, query=query)).users]

    assert await search("USER3") == ["user3@example.org"]
    assert await search("umber_2") == ["user2@example.org"]
    assert await search("%") == []
    assert await search("r_3") == ["user3@example.org"]
    assert await search("user_") == []
    assert await search("\\") == []
    assert await search("hidden") == []
    for fields, code in (
        ({"page_size": -1}, "page_size_out_of_range"),
        ({"page_token": "AAAA"}, "page_token_invalid"),
        ({"query": "x" * 201}, "query_malformed"),
        ({"query": "\x00"}, "query_malformed"),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory("ListUsers", operator, **fields)
        assert error.value.code == code


async def test_an_admin_of_another_tenant_finds_nobody(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, "vera@example.org", "Viewer", password=password)
    other = await auth.add_tenant("other")
    stranger = await auth.add_user("stranger@example.org", "Admin", tenant_id=other)
    invitation = (await auth.directory("CreateInvitation", operator, email="new@example.org", roles=["Viewer"])).invitation
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    for method, fields, code in (
        ("GetUser", {"id": user.id}, "user_not_found"),
        ("UpdateUser", {"id": user.id, "disabled": True}, "user_not_found"),
        ("UpdateUser", {"id": user.id, "roles": auth_pb2.RoleNames(names=["Viewer"])}, "user_not_found"),
        ("DeleteUser", {"id": user.id}, "user_not_found"),
        ("DeleteUser", {"id": operator.subject}, "user_not_found"),
        ("RevokeInvitation", {"id": invitation.id}, "invitation_not_found"),
        ("DeleteRole", {"name": "Reader"}, "role_not_found"),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, stranger, **fields)
        assert (error.value.kind, error.value.code) == (ErrorKind.NOT_FOUND, code), method
    assert [user.email for user in (await auth.directory("ListUsers", stranger)).users] == ["stranger@example.org"]
    assert list((await auth.directory("ListInvitations", stranger)).invitations) == []
    assert all(role.built_in for role in (await auth.directory("ListRoles", stranger)).roles)
    with pytest.raises(WireroomError, match="role_unknown"):
        await created(auth, stranger, "x@example.org", "Reader")
    assert (await auth.login("vera@example.org")).user.id == user.id


@pytest.mark.parametrize("role", ["Viewer", "Analyst", "API User", "platform_admin"])
async def test_only_who_may_manage_users_does(auth: Any, role: str) -> None:
    operator = await auth.operator()
    caller = await auth.add_user("caller@example.org", role)
    for method, fields in (
        ("CreateUser", {"email": "x@example.org", "roles": ["Viewer"]}),
        ("GetUser", {"id": operator.subject}),
        ("ListUsers", {}),
        ("UpdateUser", {"id": operator.subject, "disabled": True}),
        ("DeleteUser", {"id": operator.subject}),
        ("CreateInvitation", {"email": "x@example.org", "roles": ["Viewer"]}),
        ("ListInvitations", {}),
        ("RevokeInvitation", {"id": operator.subject}),
        ("PutRole", {"name": "x", "permissions": ["news:read"]}),
        ("ListRoles", {}),
        ("DeleteRole", {"name": "x"}),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, caller, **fields)
        assert (error.value.kind, error.value.code) == (ErrorKind.FORBIDDEN, "permission_missing"), method


async def test_rights_count_as_they_are_now_not_as_the_token_says(auth: Any) -> None:
    operator = await auth.operator()
    demoted = await auth.add_user("demoted@example.org", "Admin")
    disabled = await auth.add_user("disabled@example.org", "Admin")
    await auth.directory("UpdateUser", operator, id=demoted.subject, roles=auth_pb2.RoleNames(names=["Viewer"]))
    await auth.directory("UpdateUser", operator, id=disabled.subject, disabled=True)
    for caller, kind in ((demoted, ErrorKind.FORBIDDEN), (disabled, ErrorKind.UNAUTHENTICATED)):
        for method, fields in (
            ("CreateUser", {"email": "x@example.org", "roles": ["Viewer"]}),
            ("UpdateUser", {"id": operator.subject, "name": "x"}),
            ("CreateInvitation", {"email": "x@example.org", "roles": ["Viewer"]}),
            ("PutRole", {"name": "x", "permissions": ["news:read"]}),
        ):
            with pytest.raises(WireroomError) as error:
                await auth.directory(method, caller, **fields)
            assert error.value.kind is kind, method


async def test_nobody_gives_or_takes_more_than_they_hold(auth: Any) -> None:
    operator = await auth.operator()
    admin = await auth.add_user("admin@example.org", "Admin")
    viewer = await auth.add_user("viewer@example.org", "Viewer")
    await auth.directory("PutRole", operator, name="Front desk", permissions=["users:manage", "news:read"])
    desk = (await created(auth, operator, "desk@example.org", "Front desk")).id
    desk_caller = await auth.caller(desk)
    attempts = [
        (admin, "CreateUser", {"email": "x@example.org", "roles": ["platform_admin"]}),
        (admin, "UpdateUser", {"id": viewer.subject, "roles": auth_pb2.RoleNames(names=["Viewer", "platform_admin"])}),
        (admin, "UpdateUser", {"id": admin.subject, "roles": auth_pb2.RoleNames(names=["Admin", "platform_admin"])}),
        (admin, "UpdateUser", {"id": operator.subject, "roles": auth_pb2.RoleNames(names=["Viewer"])}),
        (admin, "UpdateUser", {"id": operator.subject, "disabled": True}),
        (admin, "DeleteUser", {"id": operator.subject}),
        (admin, "CreateInvitation", {"email": "x@example.org", "roles": ["Admin", "platform_admin"]}),
        (desk_caller, "CreateUser", {"email": "x@example.org", "roles": ["Admin"]}),
        (desk_caller, "CreateUser", {"email": "x@example.org", "roles": ["Viewer"]}),
        (desk_caller, "UpdateUser", {"id": viewer.subject, "disabled": True}),
        (desk_caller, "UpdateUser", {"id": desk, "roles": auth_pb2.RoleNames(names=["Admin"])}),
        (desk_caller, "CreateInvitation", {"email": "x@example.org", "roles": ["Analyst"]}),
    ]
    before = await user_count(auth)
    for caller, method, fields in attempts:
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, caller, **fields)
        assert (error.value.kind, error.value.code) == (ErrorKind.FORBIDDEN, "permission_exceeds_caller"), (method, fields)
    assert await user_count(auth) == before
    assert (await created(auth, desk_caller, "colleague@example.org", "Front desk")).id


async def test_an_api_key_manages_with_its_own_permissions(auth: Any) -> None:
    operator = await auth.operator()
    key = await auth.create_key(operator, "users:manage", "news:read")
    verified = await auth.verify_key(key.secret)
    caller = auth.key_caller(verified)
    with pytest.raises(WireroomError) as error:
        await created(auth, caller, "x@example.org", "Viewer")
    assert error.value.code == "permission_exceeds_caller"
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    assert (await created(auth, caller, "x@example.org", "Reader")).id


async def test_disabling_ends_everything_the_user_holds(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, "vera@example.org", "Analyst", password=password)
    session = await auth.login("vera@example.org")
    key = await auth.create_key(await auth.caller(user.id), "news:read")
    answer = (await auth.directory("UpdateUser", operator, id=user.id, disabled=True)).user
    assert answer.HasField("disabled_at")
    for attempt in (
        auth.login("vera@example.org"),
        auth.refresh(session.tokens.refresh_token),
        auth.verify_key(key.secret),
    ):
        with pytest.raises(WireroomError) as error:
            await attempt
        assert error.value.kind is ErrorKind.UNAUTHENTICATED
    (raised,) = await auth.events_of(events_pb2.AuthEpochRaised)
    assert (raised.user_id, raised.epoch, raised.reason) == (user.id, 1, "disabled")
    (ended,) = await auth.events_of(events_pb2.AuthSessionRevoked)
    assert (ended.session_id, ended.reason) == (session.tokens.session_id, "disabled")
    (event,) = await auth.events_of(events_pb2.AuthUserDisabled)
    assert (event.user_id, event.by) == (user.id, operator.subject)
    again = (await auth.directory("UpdateUser", operator, id=user.id, disabled=True)).user
    assert again.disabled_at == answer.disabled_at
    assert len(await auth.events_of(events_pb2.AuthUserDisabled)) == 1

    enabled = (await auth.directory("UpdateUser", operator, id=user.id, disabled=False)).user
    assert not enabled.HasField("disabled_at")
    assert (await auth.login("vera@example.org")).user.id == user.id
    assert (await auth.verify_key(key.secret)).key_id == key.key.id
    with pytest.raises(WireroomError, match="refresh_token_invalid"):
        await auth.refresh(session.tokens.refresh_token)
    (event,) = await auth.events_of(events_pb2.AuthUserEnabled)
    assert event.user_id == user.id
    assert [action for action in await audited(auth) if action in ("user.disabled", "user.enabled")] == [
        "user.disabled",
        "user.enabled",
    ]


async def test_new_roles_void_old_tokens_but_not_the_session(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, "vera@example.org", "Viewer", password=password)
    session = await auth.login("vera@example.org")
    changed = (await auth.directory("UpdateUser", operator, id=user.id, roles=auth_pb2.RoleNames(names=["Analyst"]))).user
    assert list(changed.roles) == ["Analyst"]
    (raised,) = await auth.events_of(events_pb2.AuthEpochRaised)
    assert (raised.user_id, raised.reason) == (user.id, "roles")
    (event,) = await auth.events_of(events_pb2.AuthRoleChanged)
    assert (event.user_id, list(event.before), list(event.after)) == (user.id, ["Viewer"], ["Analyst"])
    claims = auth.claims(await auth.refresh(session.tokens.refresh_token))
    assert (claims["roles"], claims["epoch"]) == (["Analyst"], auth.claims(session.tokens)["epoch"] + 1)
    assert "feeds:manage" in claims["perms"]
    await auth.directory("UpdateUser", operator, id=user.id, roles=auth_pb2.RoleNames(names=["Analyst"]), name="Vera V.")
    assert len(await auth.events_of(events_pb2.AuthRoleChanged)) == 1


async def test_deleting_leaves_nothing_but_the_audit(auth: Any, password: str) -> None:
    operator = await auth.operator()
    user = await created(auth, operator, "vera@example.org", "Analyst", password=password)
    session = await auth.login("vera@example.org")
    key = await auth.create_key(await auth.caller(user.id), "news:read")
    await auth.directory("DeleteUser", operator, id=user.id)
    for attempt in (
        auth.login("vera@example.org"),
        auth.refresh(session.tokens.refresh_token),
        auth.verify_key(key.secret),
    ):
        with pytest.raises(WireroomError) as error:
            await attempt
        assert error.value.kind is ErrorKind.UNAUTHENTICATED
    with pytest.raises(WireroomError, match="user_not_found"):
        await auth.directory("DeleteUser", operator, id=user.id)
    async with auth.database.tenant(operator.tenant_id) as connection:
        for table, column in (("users", "id"), ("sessions", "user_id"), ("api_keys", "owner_id")):
            rows = await connection.execute(
                text(f"SELECT count(*) FROM {table} WHERE {column} = :id"),  # noqa: S608  literals
                {"id": UUID(user.id)},
            )
            assert rows.scalar_one() == 0, table
    (event,) = await auth.events_of(events_pb2.AuthUserDeleted)
    assert (event.user_id, event.by) == (user.id, operator.subject)
    (revoked,) = await auth.events_of(events_pb2.AuthApiKeyRevoked)
    assert revoked.key_id == key.key.id
    assert [(raised.user_id, raised.reason) for raised in await auth.events_of(events_pb2.AuthEpochRaised)] == [
        (user.id, "deleted")
    ]
    assert (await audited(auth)).count("user.deleted") == 1
    # The address is free again, and the new account is another one.
    assert (await created(auth, operator, "vera@example.org", "Viewer")).id != user.id


async def test_nobody_locks_themselves_out(auth: Any) -> None:
    operator = await auth.operator()
    await auth.add_user("admin@example.org", "Admin", "platform_admin")
    for method, fields in (("UpdateUser", {"disabled": True}), ("DeleteUser", {})):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, operator, id=operator.subject, **fields)
        assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "own_account")
    renamed = (await auth.directory("UpdateUser", operator, id=operator.subject, name="Ada L.", disabled=False)).user
    assert renamed.name == "Ada L."


async def test_the_last_admin_and_the_last_operator_stay(auth: Any) -> None:
    operator = await auth.operator()
    for roles, code in ((["platform_admin"], "last_admin"), (["Admin"], "last_operator"), (["Viewer"], "last_admin")):
        with pytest.raises(WireroomError) as error:
            await auth.directory("UpdateUser", operator, id=operator.subject, roles=auth_pb2.RoleNames(names=roles))
        assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, code)
    assert await auth.events_of(events_pb2.AuthRoleChanged) == []
    # A disabled colleague is none.
    colleague = await auth.add_user("colleague@example.org", "Admin", "platform_admin")
    await auth.directory("UpdateUser", operator, id=colleague.subject, disabled=True)
    with pytest.raises(WireroomError, match="last_admin"):
        await auth.directory("UpdateUser", operator, id=operator.subject, roles=auth_pb2.RoleNames(names=["Viewer"]))
    await auth.directory("UpdateUser", operator, id=colleague.subject, disabled=False)
    await auth.directory("UpdateUser", operator, id=operator.subject, roles=auth_pb2.RoleNames(names=["Viewer"]))


@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
async def test_two_admins_cannot_remove_each_other_at_once(auth: Any, race: Any, how: str) -> None:
    await auth.operator()
    tenant = await auth.add_tenant("other")
    one = await auth.add_user("one@example.org", "Admin", tenant_id=tenant)
    two = await auth.add_user("two@example.org", "Admin", tenant_id=tenant)

    def remove(caller: Principal, target: Principal) -> Any:
        if how == "delete":
            return auth.directory("DeleteUser", caller, id=target.subject)
        change: dict[str, Any] = {"disabled": True} if how == "disable" else {"roles": auth_pb2.RoleNames(names=["Viewer"])}
        return auth.directory("UpdateUser", caller, id=target.subject, **change)

    outcomes = await race(TENANT_LOCK, remove(one, two), remove(two, one))
    assert len(refused(outcomes)) == 1
    async with auth.database.tenant(tenant) as connection:
        admins = await connection.execute(text("SELECT count(*) FROM users WHERE roles @> '{Admin}' AND disabled_at IS NULL"))
        assert admins.scalar_one() == 1


async def test_two_admins_cannot_both_step_down_at_once(auth: Any, race: Any) -> None:
    await auth.operator()
    tenant = await auth.add_tenant("other")
    admins = [await auth.add_user(f"{name}@example.org", "Admin", tenant_id=tenant) for name in ("one", "two", "three")]
    viewer = auth_pb2.RoleNames(names=["Viewer"])
    steps = [auth.directory("UpdateUser", admin, id=admin.subject, roles=viewer) for admin in admins]
    assert refused(await race(TENANT_LOCK, *steps)) == [(ErrorKind.CONFLICT, "last_admin")]


async def test_operators_of_two_tenants_cannot_both_step_down_at_once(auth: Any, race: Any) -> None:
    first = await auth.operator()
    other = await auth.add_tenant("other")
    second = await auth.add_user("second@example.org", "Admin", "platform_admin", tenant_id=other)
    admin = auth_pb2.RoleNames(names=["Admin"])
    outcomes = await race(
        "SELECT pg_advisory_xact_lock(hashtextextended('wireroom_auth.operators', 0))",
        *(auth.directory("UpdateUser", operator, id=operator.subject, roles=admin) for operator in (first, second)),
    )
    assert refused(outcomes) == [(ErrorKind.CONFLICT, "last_operator")]


async def test_two_creations_of_one_address_make_one_user(auth: Any) -> None:
    operator = await auth.operator()
    outcomes = await asyncio.gather(
        *(created(auth, operator, "vera@example.org", "Viewer") for _ in range(4)), return_exceptions=True
    )
    assert refused(outcomes) == [(ErrorKind.CONFLICT, "email_taken")] * 3
    assert await user_count(auth) == 2


@pytest.mark.parametrize("bad", ["", "x", "0198a000-0000-7000-8000-0000000000zz", "' OR 1=1 --"])
async def test_what_is_no_id_is_refused_as_such(auth: Any, bad: str) -> None:
    operator = await auth.operator()
    for method in ("GetUser", "UpdateUser", "DeleteUser", "RevokeInvitation", "UpdateTenant"):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, operator, id=bad)
        assert (error.value.kind, error.value.code) == (ErrorKind.INVALID, "id_malformed")
