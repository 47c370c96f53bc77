from __future__ import annotations

import random
import string
from typing import Any
from uuid import UUID

import bcrypt
import pytest
from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_auth.adapters.common_passwords import is_common
from wireroom_auth.adapters.password_hashing import Argon2Passwords
from wireroom_auth.domain.password_hashes import check_importable, work_of
from wireroom_auth.domain.passwords import check_new_password, is_personal
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.events.v1 import events_pb2

PASSWORD = "four horses in the rain"


def bcrypt_hash(password: str, prefix: str = "2b", cost: int = 8) -> str:
    made = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()
    return made.replace("$2b$", f"${prefix}$", 1)


def reason(password: str, email: str, name: str) -> str:
    """Why the password is refused; empty if it is not."""
    try:
        check_new_password(password, email=email, name=name)
    except WireroomError as error:
        return error.code
    return ""


async def stored_hash(auth: Any, user: Any) -> str:
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        found = await connection.execute(text("SELECT password_hash FROM users WHERE id = :id"), {"id": UUID(user.id)})
        return str(found.scalar_one())


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
async def test_an_imported_bcrypt_hash_is_verified_and_upgraded_at_login(auth: Any, prefix: str) -> None:
    user = await auth.register_admin()
    await auth.change_user(user, "password_hash = :hash", hash=check_importable(bcrypt_hash("imported secret", prefix)))
    with pytest.raises(WireroomError):
        await auth.login(password="imported secreT")
    assert (await stored_hash(auth, user)).startswith(f"${prefix}$")
    assert (await auth.login(password="imported secret")).tokens.access_token
    assert (await stored_hash(auth, user)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await auth.login(password="imported secret")).tokens.access_token
    # The same password: nobody is signed out, and nothing tells of a change.
    assert await auth.events_of(events_pb2.AuthPasswordChanged) == []
    assert await auth.events_of(events_pb2.AuthEpochRaised) == []


async def test_bcrypt_knows_72_bytes_and_the_upgrade_takes_what_was_typed(auth: Any) -> None:
    user = await auth.register_admin()
    long = "x1" * 36
    await auth.change_user(user, "password_hash = :hash", hash=bcrypt_hash(long + " and the tail"))
    assert (await auth.login(password=long + " and a new tail")).tokens.access_token
    with pytest.raises(WireroomError):
        await auth.login(password=long + " and the tail")
    assert (await auth.login(password=long + " and a new tail")).tokens.access_token


async def test_an_argon2_hash_of_other_parameters_is_renewed(auth: Any, make_auth: Any) -> None:
    user = await auth.register_admin()
    stronger = await make_auth(argon2_time_cost=3)
    assert (await stronger.login()).tokens.access_token
    assert (await stored_hash(auth, user)).startswith("$argon2id$v=19$m=19456,t=3,p=1$")
    foreign = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=2).hash("from another system")
    await auth.change_user(user, "password_hash = :hash", hash=check_importable(foreign))
    assert (await auth.login(password="from another system")).tokens.access_token
    assert (await stored_hash(auth, user)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_a_stored_hash_of_no_known_form_fits_nothing(auth: Any) -> None:
    user = await auth.register_admin()
    for rubbish in ("", "!", "$2b$08$short", "$argon2id$v=19$m=1,t=1,p=1$x$y", "$6$salt$abcdef"):
        await auth.change_user(user, "password_hash = :hash", hash=rubbish)
        with pytest.raises(WireroomError) as refused:
            await auth.login(password="")
        assert refused.value.code == "invalid_credentials"
        await auth.pass_time(1000)


async def test_failed_checks_do_the_same_work_whatever_hash_is_stored(auth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    user = await auth.register_admin()
    await auth.add_user("imported@example.org", "Viewer")
    await auth.add_user("disabled@example.org", "Viewer")
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        for email, made in (
            ("imported@example.org", bcrypt_hash("imported secret")),
            ("disabled@example.org", bcrypt_hash(PASSWORD)),
        ):
            await connection.execute(
                text("UPDATE users SET password_hash = :hash WHERE email = :email"), {"hash": made, "email": email}
            )
        await connection.execute(text("UPDATE users SET disabled_at = now() WHERE email = 'disabled@example.org'"))
    (kinds,) = (periodic for periodic in auth.service.periodic if periodic.name == "auth.password_kinds")
    await kinds.run()
    work: list[str] = []
    original = Argon2Passwords._fits  # noqa: SLF001  counted, not replaced

    def counting(self: Argon2Passwords, password: str, against: str) -> bool:
        work.append(work_of(against))
        return original(self, password, against)

    monkeypatch.setattr(Argon2Passwords, "_fits", counting)
    done = []
    for email, password in (
        ("ada@example.org", "wrong password"),
        ("imported@example.org", "wrong password"),
        ("nobody@example.org", "wrong password"),
        ("disabled@example.org", PASSWORD),
        ("disabled@example.org", "wrong password"),
        ("imported@example.org", "p" * 5000),
    ):
        with pytest.raises(WireroomError):
            await auth.login(email, password)
        done.append(sorted(work))
        work.clear()
    assert done == [["argon2id:19456:2:1", "bcrypt:8"]] * 6


@pytest.mark.parametrize(
    "password",
    [
        "password1234",
        "passwordpassword",
        "qwertyuiop12",
        "aaaaaaaaaaaa",
        "123456789012",
        "P@ssw0rd!2024",
        "abcdefghijkl",
        "iloveyou12345",
        "drowssapdrowssap",
        "111122223333",
        "letmeinletmein",
        "x" * 200,
    ],
)
async def test_common_passwords_are_refused_with_a_reason(auth: Any, password: str) -> None:
    with pytest.raises(WireroomError) as refused:
        await auth.register("grace@example.org", token=auth.infra.admin_token(), password=password)
    error = refused.value
    assert (error.kind, error.code, error.fields[0].field) == (ErrorKind.INVALID, "password_common", "password")
    assert password not in error.detail
    # The admin token is still there for a better one.
    assert (await auth.register("grace@example.org", token=auth.infra.admin_token())).id


@pytest.mark.parametrize(
    "password", ["blue house tree", "correct horse battery", "x7!kd92ksl2m", "äpfel und birnen", "雨の日の四頭の馬と猫"]
)
async def test_passwords_of_any_composition_are_taken(auth: Any, password: str) -> None:
    await auth.register("grace@example.org", token=auth.infra.admin_token(), password=password.ljust(12, "~"))
    assert (await auth.login("grace@example.org", password.ljust(12, "~"))).tokens.access_token


@pytest.mark.parametrize(
    "password",
    [
        "gr4ce h0pper",
        "Gr@ceHopp3r1906",
        "reppohecarg!",
        "graçe-höpper",
        "gracehoppperr",
        "ecarg.reppoh",
        "navycorps rules!",
        "n4vyc0rps!!!",
    ],
)
def test_what_only_resembles_the_person_is_refused(password: str) -> None:
    with pytest.raises(WireroomError) as refused:
        check_new_password(password, email="grace.hopper@navycorps.example", name="Grace Hopper")
    assert refused.value.code == "password_personal"


@pytest.mark.parametrize("password", [PASSWORD, "a copper kettle", "graceful degradation", "hops and barley 19"])
def test_what_merely_shares_letters_with_the_person_is_taken(password: str) -> None:
    assert not is_personal(password, email="g.hooper@example.org", name="Graciela Hooper")


@settings(max_examples=200)
@given(st.text(min_size=12, max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_any_text_gets_an_answer(password: str, email: str, name: str) -> None:
    assert reason(password, email, name) in {"", "password_personal", "password_too_long", "password_too_short"}
    assert is_common(password, [email, name]) in (True, False)


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_random_passwords_are_never_common(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  repeatable
    assert not is_common("".join(rng.choices(string.ascii_lowercase, k=16)), ["grace", "hopper"])


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "plain",
        "$1$salt$hash",
        pytest.param(bcrypt_hash("x", cost=4), id="bcrypt of cost 4"),
        "$2b$15$" + "a" * 53,
        "$2x$10$" + "a" * 53,
        "$2b$10$" + "a" * 52,
        "$argon2i$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43,
        "$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43,
        "$argon2id$v=19$m=65536,t=99,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43,
        "$argon2id$v=16$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43,
        "$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43 + "\n",
    ],
)
def test_hashes_that_are_weak_ruinous_or_unknown_are_not_imported(foreign: str) -> None:
    with pytest.raises(WireroomError) as refused:
        check_importable(foreign)
    assert refused.value.code == "password_hash_unusable"
    assert work_of(foreign) == "" or foreign.startswith(
        ("$2b$04", "$2b$15", "$argon2id$v=19$m=4194304", "$argon2id$v=19$m=65536,t=99")
    )
