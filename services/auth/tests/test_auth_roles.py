from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_auth.domain.permissions import (
    ALL_PERMISSIONS,
    DESCRIPTIONS,
    GRANTS,
    IMPLIED,
    TENANT_PERMISSIONS,
    Role,
    grantable_to_keys,
    permissions_of,
    permissions_of_key,
    with_implied,
)
from wireroom_auth.domain.roles import custom_role, reach_of, require_covered
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

ROLE_NAMES = st.lists(st.sampled_from([*GRANTS, "Custom", "nobody knows"]), max_size=6)
PERMISSIONS = st.frozensets(st.sampled_from([*sorted(ALL_PERMISSIONS), "made:up", ""]), max_size=12)


async def test_a_custom_role_counts_wherever_permissions_do(auth: Any, password: str) -> None:
    operator = await auth.operator()
    role = (await auth.directory("PutRole", operator, name="Front desk", permissions=["monitoring:read", "feeds:manage"])).role
    assert (role.name, role.built_in) == ("Front desk", False)
    assert list(role.permissions) == ["feeds:manage", "monitoring:read", "monitoring:read:summary"]
    await auth.directory("PutRole", operator, name="Keys", permissions=["apikeys:manage:own"])
    user = (
        await auth.directory(
            "CreateUser", operator, email="vera@example.org", roles=["Front desk", "Keys", "API User"], password=password
        )
    ).user
    expected = permissions_of(["API User"]) | set(role.permissions) | {"apikeys:manage:own"}
    session = await auth.login("vera@example.org")
    caller = await auth.caller(user.id)
    me = (await auth.call("/wireroom_protos.auth.v1.AuthService/GetMe", auth_pb2.GetMeRequest(), caller)).user
    key = await auth.create_key(caller, "feeds:manage", "monitoring:read", "docs:write")
    refreshed = await auth.refresh(session.tokens.refresh_token)
    for found in (
        user.permissions,
        session.user.permissions,
        auth.claims(session.tokens)["perms"],
        auth.claims(refreshed)["perms"],
        me.permissions,
        (await auth.directory("GetUser", operator, id=user.id)).user.permissions,
    ):
        assert set(found) == expected
    assert set((await auth.verify_key(key.secret)).permissions) == {"feeds:manage", "monitoring:read", "docs:write"}

    await auth.directory("PutRole", operator, name="Front desk", permissions=["news:read"])
    assert set((await auth.verify_key(key.secret)).permissions) == {"docs:write", "feeds:manage"}
    assert set(auth.claims(await auth.refresh(refreshed.refresh_token))["perms"]) == permissions_of(["API User"]) | {
        "apikeys:manage:own"
    }


async def test_changing_a_role_voids_the_tokens_of_its_holders_only(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    holders = {(await auth.add_user(f"u{n}@example.org", "Reader")).subject for n in range(3)}
    await auth.add_user("other@example.org", "Viewer")
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    assert await auth.events_of(events_pb2.AuthEpochRaised) == []
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read", "docs:read"])
    assert {event.user_id for event in await auth.events_of(events_pb2.AuthEpochRaised)} == holders


async def test_changing_a_role_of_very_many_voids_the_tokens_of_the_tenant(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    for number in range(51):
        await auth.add_user(f"u{number}@example.org", "Reader")
    await auth.directory("PutRole", operator, name="Reader", permissions=["docs:read"])
    (event,) = await auth.events_of(events_pb2.AuthEpochRaised)
    assert (event.tenant_id, event.user_id) == (str(operator.tenant_id), "")


async def test_roles_are_listed_with_what_they_give(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="b", permissions=["news:read"])
    await auth.directory("PutRole", operator, name="a", permissions=["docs:read"])
    roles = (await auth.directory("ListRoles", operator)).roles
    assert [role.name for role in roles] == [*GRANTS, "a", "b"]
    assert [role.built_in for role in roles] == [True] * len(GRANTS) + [False, False]
    assert all(set(role.permissions) == permissions_of([role.name]) for role in roles if role.built_in)


async def test_a_role_in_use_stays(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    user = await auth.add_user("u@example.org", "Reader")
    with pytest.raises(WireroomError) as error:
        await auth.directory("DeleteRole", operator, name="Reader")
    assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "role_in_use")
    await auth.directory("UpdateUser", operator, id=user.subject, roles=auth_pb2.RoleNames(names=["Viewer"]))
    await auth.directory("DeleteRole", operator, name="Reader")
    with pytest.raises(WireroomError, match="role_not_found"):
        await auth.directory("DeleteRole", operator, name="Reader")


async def test_a_role_cannot_vanish_under_a_user_who_is_given_it(auth: Any, race: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    user = await auth.add_user("u@example.org", "Viewer")
    outcomes = await race(
        "SELECT 1 FROM auth.tenants FOR UPDATE",
        auth.directory("DeleteRole", operator, name="Reader"),
        auth.directory("UpdateUser", operator, id=user.subject, roles=auth_pb2.RoleNames(names=["Reader"])),
    )
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert refused in (["role_in_use"], ["role_unknown"])


@pytest.mark.parametrize(
    ("name", "permissions", "code"),
    [
        ("", ["news:read"], "role_name_malformed"),
        (" x", ["news:read"], "role_name_malformed"),
        ("x" * 65, ["news:read"], "role_name_malformed"),
        ("a/b", ["news:read"], "role_name_malformed"),
        ("..", ["news:read"], "role_name_malformed"),
        ("x\x00", ["news:read"], "role_name_malformed"),
        ("Admin", ["news:read"], "role_built_in"),
        ("ADMIN", ["news:read"], "role_built_in"),
        ("platform_admin", ["news:read"], "role_built_in"),
        ("x", [], "permissions_missing"),
        ("x", ["made:up"], "permission_unknown"),
        ("x", ["tenants:manage"], "permission_beyond_tenant"),
        ("x", ["config:manage", "news:read"], "permission_beyond_tenant"),
        ("READER", ["news:read"], "role_name_taken"),
    ],
)
async def test_what_no_role_may_be(auth: Any, name: str, permissions: list[str], code: str) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    with pytest.raises(WireroomError) as error:
        await auth.directory("PutRole", operator, name=name, permissions=permissions)
    assert error.value.code == code
    assert [role.name for role in (await auth.directory("ListRoles", operator)).roles if not role.built_in] == ["Reader"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("Admin", "role_built_in"), ("viewer", "role_built_in"), ("x\x00", "role_not_found"), ("", "role_not_found")],
)
async def test_what_cannot_be_deleted(auth: Any, name: str, code: str) -> None:
    operator = await auth.operator()
    with pytest.raises(WireroomError) as error:
        await auth.directory("DeleteRole", operator, name=name)
    assert error.value.code == code


async def test_nobody_defines_a_role_beyond_themselves(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Role keeper", permissions=["roles:manage", "news:read"])
    await auth.directory("PutRole", operator, name="Strong", permissions=["users:manage", "news:read"])
    keeper = await auth.caller((await auth.add_user("keeper@example.org", "Role keeper")).subject)
    for method, fields in (
        ("PutRole", {"name": "x", "permissions": ["users:manage"]}),
        ("PutRole", {"name": "Role keeper", "permissions": ["roles:manage", "users:manage"]}),
        ("PutRole", {"name": "Strong", "permissions": ["news:read"]}),
        ("DeleteRole", {"name": "Strong"}),
    ):
        with pytest.raises(WireroomError) as error:
            await auth.directory(method, keeper, **fields)
        assert (error.value.kind, error.value.code) == (ErrorKind.FORBIDDEN, "permission_exceeds_caller"), fields
    assert (await auth.directory("PutRole", keeper, name="y", permissions=["news:read"])).role.name == "y"


async def test_a_tenant_defines_no_more_roles_than_set(make_auth: Any) -> None:
    auth = await make_auth(max_roles_per_tenant=2)
    operator = await auth.operator()
    for name in ("a", "b"):
        await auth.directory("PutRole", operator, name=name, permissions=["news:read"])
    with pytest.raises(WireroomError) as error:
        await auth.directory("PutRole", operator, name="c", permissions=["news:read"])
    assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "role_limit_reached")
    assert (await auth.directory("PutRole", operator, name="b", permissions=["docs:read"])).role.name == "b"


async def test_roles_of_one_name_in_two_tenants_are_two_roles(auth: Any) -> None:
    operator = await auth.operator()
    other = await auth.add_tenant("other")
    stranger = await auth.add_user("stranger@example.org", "Admin", tenant_id=other)
    await auth.directory("PutRole", operator, name="Reader", permissions=["users:manage", "news:read"])
    await auth.directory("PutRole", stranger, name="Reader", permissions=["docs:read"])
    theirs = await auth.add_user("theirs@example.org", "Reader", tenant_id=other)
    assert (await auth.caller(theirs.subject)).permissions == {"docs:read"}


async def test_stored_permissions_beyond_the_tenant_give_nothing(auth: Any, postgres_as_owner: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    user = await auth.add_user("u@example.org", "Reader")
    postgres_as_owner("UPDATE auth.custom_roles SET permissions = '{news:read,config:manage,tenants:manage,retired:permission}'")
    assert (await auth.caller(user.subject)).permissions == {"news:read"}


async def test_custom_roles_are_invisible_to_other_tenants_connections(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["news:read"])
    other = await auth.add_tenant("other")
    async with auth.database.tenant(other) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM custom_roles"))).scalar_one() == 0
        assert (await connection.execute(text("UPDATE custom_roles SET permissions = '{}'"))).rowcount == 0


@given(roles=ROLE_NAMES, custom=PERMISSIONS, named=PERMISSIONS)
def test_effective_permissions_never_exceed_the_grants(roles: list[str], custom: frozenset[str], named: frozenset[str]) -> None:
    always = {permission for role in roles if role in GRANTS for permission in GRANTS[role].always}
    by_key = {permission for role in roles if role in GRANTS for permission in GRANTS[role].by_key_scope}
    tenant_level = {permission for role, grant in GRANTS.items() if role != Role.PLATFORM_ADMIN for permission in grant.always}
    assert permissions_of(roles, custom) == always | (custom & (tenant_level | {"docs:write", "feeds:manage"}))
    assert permissions_of(roles, custom) <= ALL_PERMISSIONS
    assert grantable_to_keys(roles, custom) == permissions_of(roles, custom) | by_key
    key = permissions_of_key(named, roles, custom)
    assert key == (named & grantable_to_keys(roles, custom) if named else permissions_of(roles, custom))
    if Role.PLATFORM_ADMIN not in roles:
        assert permissions_of(roles, custom) <= TENANT_PERMISSIONS


@given(given_roles=ROLE_NAMES, held_roles=ROLE_NAMES, custom=PERMISSIONS)
def test_what_may_be_handed_out_is_held(given_roles: list[str], held_roles: list[str], custom: frozenset[str]) -> None:
    known = [role for role in given_roles if role != "nobody knows"]
    held = permissions_of(held_roles)
    try:
        require_covered(reach_of(known, {"Custom": custom}), held)
    except WireroomError as error:
        assert error.kind is ErrorKind.FORBIDDEN  # noqa: PT017 - both outcomes are right for some input
        assert reach_of(known, {"Custom": custom}) - held
    else:
        given_custom = custom if "Custom" in known else frozenset()
        assert permissions_of(known, given_custom) <= held
        assert grantable_to_keys(known, given_custom) <= held


@given(PERMISSIONS)
def test_a_custom_role_is_closed_and_stays_inside_the_tenant(permissions: frozenset[str]) -> None:
    try:
        role = custom_role("x", permissions)
    except WireroomError as error:
        assert error.kind is ErrorKind.INVALID  # noqa: PT017 - both outcomes are right for some input
        assert not permissions or permissions - TENANT_PERMISSIONS
    else:
        assert permissions <= role.permissions <= TENANT_PERMISSIONS
        assert with_implied(role.permissions) == role.permissions


def test_every_permission_is_described_and_every_grant_is_closed() -> None:
    assert set(DESCRIPTIONS) == ALL_PERMISSIONS
    assert all(description and not description.endswith(".") for description in DESCRIPTIONS.values())
    assert set(IMPLIED) | set().union(*IMPLIED.values()) <= ALL_PERMISSIONS
    for role, grant in GRANTS.items():
        assert with_implied(grant.always) == grant.always, role
    assert GRANTS[Role.VIEWER].always < GRANTS[Role.ANALYST].always < GRANTS[Role.ADMIN].always == TENANT_PERMISSIONS


def test_operators_read_no_content() -> None:
    content = {
        name for name in ALL_PERMISSIONS if name.split(":")[0] in ("chat", "llm", "sessions", "docs", "collections", "acl")
    }
    assert len(content) > 8
    assert not content & GRANTS[Role.PLATFORM_ADMIN].always
