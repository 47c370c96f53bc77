from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wireroom_auth.domain.credentials import (
    digest,
    looks_like_api_key,
    looks_like_refresh_token,
    new_admin_token,
    new_api_key,
    new_refresh_token,
    page_token_after,
    read_page_token,
)
from wireroom_auth.domain.identity import normalise_email, normalise_name
from wireroom_auth.domain.passwords import check_new_password
from wireroom_auth.domain.permissions import ALL_PERMISSIONS, GRANTS, Role, grantable_to_keys, permissions_of, permissions_of_key
from wireroom_auth.domain.sessions import PresentedToken, Rotation, Session, decide_rotation
from wireroom_common.errors import ErrorKind, WireroomError

ROLE_SETS = st.sets(st.sampled_from([role.value for role in Role]))
START = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=10)

# One row per line of the table of roles: who holds it.
V, A, U, M, P = Role.VIEWER, Role.ANALYST, Role.API_USER, Role.ADMIN, Role.PLATFORM_ADMIN
HOLDERS: dict[str, set[Role]] = {
    "chat:use": {V, A, U, M},
    "llm:invoke": {A, U, M},
    "sessions:read:own": {V, A, U, M},
    "sessions:write:own": {V, A, U, M},
    "sessions:read:tenant": {M},
    "docs:read": {V, A, U, M},
    "docs:write": {A, M},
    "collections:manage": {M},
    "collections:manage:own": {A, M},
    "acl:manage": {M},
    "acl:manage:own": {A, M},
    "news:read": {V, A, U, M, P},
    "feeds:manage": {A, M},
    "watches:manage": {M},
    "watches:manage:own": {V, A, M},
    "webhooks:manage": {M},
    "usage:read:own": {V, A, U, M, P},
    "usage:read:tenant": {A, M, P},
    "usage:read:all": {P},
    "budgets:manage": {M, P},
    "assistants:manage": {M},
    "users:manage": {M},
    "roles:manage": {M},
    "tenants:manage": {P},
    "apikeys:manage:own": {A, M},
    "apikeys:manage:tenant": {M},
    "monitoring:read": {M, P},
    "monitoring:read:summary": {A, M, P},
    "alerts:manage": {P},
    "alerts:manage:tenant": {M, P},
    "tasks:manage": {P},
    "tasks:manage:tenant": {M, P},
    "events:replay": {P},
    "events:replay:tenant": {M, P},
    "security:read": {M, P},
    "audit:read": {M, P},
    "audit:read:all": {P},
    "providers:manage": {P},
    "providers:manage:own": {M, P},
    "config:manage": {P},
    "maintenance:run": {P},
    "ip:manage": {P},
    "privacy:erase:self": {V, A, M},
    "privacy:erase:tenant": {M},
}


@pytest.mark.parametrize("permission", sorted(HOLDERS))
def test_permission_is_held_by_exactly_these_roles(permission: str) -> None:
    assert {role for role in Role if permission in permissions_of([role])} == HOLDERS[permission]


def test_there_are_no_other_permissions_or_roles() -> None:
    assert set(HOLDERS) == ALL_PERMISSIONS
    assert set(GRANTS) == {role.value for role in Role}


def test_api_user_gets_writing_only_through_a_key_that_names_it() -> None:
    named = {"docs:write", "feeds:manage"}
    assert not named & permissions_of([U])
    assert not named & permissions_of_key([], [U])
    assert permissions_of_key(named, [U]) == named
    assert all(not (grantable_to_keys([role]) - permissions_of([role])) for role in Role if role is not U)


@given(ROLE_SETS, ROLE_SETS)
def test_permissions_of_several_roles_are_their_union(left: set[str], right: set[str]) -> None:
    assert permissions_of(left | right) == permissions_of(left) | permissions_of(right)
    assert permissions_of(["", "admin", "ADMIN", "nobody"]) == frozenset()


@given(st.sets(st.sampled_from(sorted(ALL_PERMISSIONS))), ROLE_SETS)
def test_key_never_exceeds_what_its_owner_may_grant(named: set[str], roles: set[str]) -> None:
    held = permissions_of_key(named, roles)
    assert held <= grantable_to_keys(roles)
    if named:
        assert held <= named


def code_of(password: str, email: str = "grace.hopper@example.org", name: str = "Grace Hopper") -> str:
    with pytest.raises(WireroomError) as refused:
        check_new_password(password, email=email, name=name)
    assert refused.value.kind is ErrorKind.INVALID
    assert refused.value.fields[0].field == "password"
    if len(password) > 2:
        assert password not in refused.value.detail
    return refused.value.code


def test_passwords_have_a_least_and_a_greatest_length() -> None:
    assert code_of("elevenchars") == "password_too_short"
    check_new_password("twelve chars", email="a@b", name="")
    check_new_password("x" * 1024, email="a@b", name="")
    assert code_of("x" * 1025) == "password_too_long"
    # Characters make it long enough, bytes make it too long.
    check_new_password("\u00e9" * 512, email="a@b", name="")
    assert code_of("\u00e9" * 513) == "password_too_long"
    assert code_of("\u00e9" * 11) == "password_too_short"
    # Twelve code points typed, six characters after composition.
    assert code_of("e\u0301" * 6) == "password_too_short"


@pytest.mark.parametrize("password", ["my GRACE.hopper pass", "hopper-is-my-name", "xx Grace Hopper xx", "1234GRACE5678"])
def test_password_with_personal_parts_is_refused(password: str) -> None:
    assert code_of(password) == "password_personal"


def test_parts_of_one_or_two_letters_refuse_nothing() -> None:
    check_new_password("all the best, al", email="al@example.org", name="A L")


@given(st.text(min_size=12, max_size=200))
def test_there_are_no_composition_rules(password: str) -> None:
    import unicodedata  # noqa: PLC0415  only here

    assume(len(unicodedata.normalize("NFC", password)) >= 12)
    check_new_password(password, email="@", name="")


@given(st.text(max_size=300))
def test_normalised_address_is_stable_or_refused(text: str) -> None:
    try:
        email = normalise_email(text)
    except WireroomError as error:
        assert error.code == "email_malformed"  # noqa: PT017  either outcome is right, no third
        return
    assert normalise_email(email) == email
    assert email.count("@") == 1
    assert len(email) <= 254
    assert not any(character.isspace() or ord(character) < 32 for character in email)


@pytest.mark.parametrize("text", ["", "@", "a@", "@b", "a@b@c", "a b@c", "a\x00@b", "a" * 65 + "@b", "a@" + "b" * 254])
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(WireroomError, match="email_malformed"):
        normalise_email(text)


@pytest.mark.parametrize("text", ["n" * 101, "a\nb", "a\x7fb"])
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(WireroomError, match="name_malformed"):
        normalise_name(text)


def test_each_credential_has_the_form_of_its_kind_only() -> None:
    for _ in range(200):
        key, token, admin = new_api_key().secret, new_refresh_token(), new_admin_token()
        assert [looks_like_api_key(each) for each in (key, token, admin)] == [True, False, False]
        assert [looks_like_refresh_token(each) for each in (key, token, admin)] == [False, True, False]
        assert len(digest(key)) == 32
    assert "secret" not in repr(new_api_key())


@given(st.uuids())
def test_page_token_leads_back_to_its_row(row: UUID) -> None:
    assert read_page_token(page_token_after(row)) == row


@given(st.text(min_size=1, max_size=40))
def test_made_up_page_token_is_invalid_or_canonical(token: str) -> None:
    try:
        row = read_page_token(token)
    except WireroomError as error:
        assert error.kind is ErrorKind.INVALID  # noqa: PT017  either outcome is right, no third
        return
    assert row is not None
    assert page_token_after(row) == token


SESSION = Session(UUID(int=1), UUID(int=2), UUID(int=3), START, START + timedelta(days=30))


@given(
    counter=st.integers(0, 50),
    later=st.integers(0, 50),
    used_ago=st.none() | st.floats(-120, 10_000),
    ended=st.booleans(),
    disabled=st.booleans(),
    age=st.floats(0, 40 * 86400),
)
def test_rotation_decides_by_use_counter_and_grace(
    *, counter: int, later: int, used_ago: float | None, ended: bool, disabled: bool, age: float
) -> None:
    now = START + timedelta(seconds=age)
    session = Session(SESSION.id, SESSION.tenant_id, SESSION.user_id, START, SESSION.expires_at, START if ended else None)
    used_at = None if used_ago is None else now - timedelta(seconds=used_ago)
    outcome = decide_rotation(
        session, PresentedToken(counter, counter + later, used_at), user_disabled=disabled, now=now, grace=GRACE
    )
    if ended or disabled or now >= session.expires_at:
        assert outcome is Rotation.ENDED
    elif used_at is None:
        assert outcome is Rotation.SUCCESSOR
    elif now - used_at > GRACE:
        assert outcome is Rotation.REUSED
    else:
        assert outcome is (Rotation.SAME_SUCCESSOR if later == 1 else Rotation.SUPERSEDED)
