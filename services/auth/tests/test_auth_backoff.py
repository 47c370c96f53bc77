from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_auth.adapters.one_time_tokens import issue
from wireroom_auth.domain.login_backoff import AttemptKeys, BackoffTerms, Failures, network_of
from wireroom_auth.domain.one_time_tokens import TokenPurpose
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
HOME = "203.0.113.9"
WRONG = "not the password"
START = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = BackoffTerms(free=5)


@pytest.fixture(autouse=True)
def first_delay_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays go by the database's clock, which no test can stop: a second would be over too soon on a busy machine."""
    monkeypatch.setattr("wireroom_auth.app.BackoffTerms", partial(BackoffTerms, first=timedelta(minutes=1)))


async def refused(auth: Any, email: str = "ada@example.org", password: str = WRONG, **client: str) -> WireroomError:
    with pytest.raises(WireroomError) as caught:
        await auth.login(email, password, **client)
    return caught.value


async def fail(auth: Any, times: int, email: str = "ada@example.org", **client: str) -> list[str]:
    return [(await refused(auth, email, **client)).code for _ in range(times)]


async def test_after_five_failures_even_the_right_password_waits(auth: Any) -> None:
    await auth.register_admin()
    assert await fail(auth, 5, client_ip="198.51.100.1") == ["invalid_credentials"] * 5
    error = await refused(auth, password="four horses in the rain", client_ip="198.51.100.2")
    assert (error.kind, error.code) == (ErrorKind.RATE_LIMITED, "login_backoff")
    assert 0 < error.retry_after <= 60
    await auth.pass_time(61)
    assert (await auth.login(client_ip="198.51.100.2")).tokens.access_token
    # Success starts afresh.
    assert await fail(auth, 5, client_ip="198.51.100.3") == ["invalid_credentials"] * 5


async def test_delays_double_up_to_a_quarter_of_an_hour(auth: Any) -> None:
    await auth.register_admin()
    await fail(auth, 5)
    waits = []
    for _ in range(7):
        error = await refused(auth)
        assert error.code == "login_backoff"
        waits.append(error.retry_after)
        await auth.pass_time(error.retry_after + 0.05)
        assert (await refused(auth)).code == "invalid_credentials"
    for wait, longest in zip(waits, [60, 120, 240, 480, 900, 900, 900], strict=True):
        assert longest - 30 < wait <= longest


async def test_an_address_without_an_account_is_treated_alike(auth: Any) -> None:
    await auth.register_admin()
    outcomes = []
    for email, network in (
        ("ada@example.org", "198.51.100.1"),
        ("nobody@example.org", "198.51.100.2"),
        ("no address", "198.51.100.3"),
    ):
        seen = []
        for _ in range(7):
            error = await refused(auth, email, client_ip=network)
            seen.append((error.kind, error.code))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1] == outcomes[2]


async def test_spelling_of_the_address_does_not_matter(auth: Any) -> None:
    await auth.register_admin()
    for spelling in ("ada@example.org", " ADA@example.org", "Ada@Example.org", "ada@example.ORG ", "aDa@example.org"):
        assert (await refused(auth, spelling)).code == "invalid_credentials"
    assert (await refused(auth)).code == "login_backoff"


async def test_replicas_count_together_and_a_restart_forgets_nothing(auth: Any, make_auth: Any) -> None:
    await auth.register_admin()
    replica = await make_auth()
    await fail(auth, 3)
    await fail(replica, 2)
    assert (await refused(auth)).code == "login_backoff"
    assert (await refused(await make_auth())).code == "login_backoff"


async def test_a_replica_with_a_wrong_clock_keeps_the_delay(auth: Any, make_auth: Any) -> None:
    await auth.register_admin()
    await fail(auth, 5)
    ahead = await make_auth(infra=type(auth.infra)(auth.database))
    ahead.clock.advance(600)
    assert (await refused(ahead)).code == "login_backoff"


async def test_guessing_from_elsewhere_does_not_keep_the_owner_out_at_home(auth: Any) -> None:
    await auth.register_admin()
    await auth.login(client_ip=HOME)
    for n in range(5):
        await refused(auth, client_ip=f"198.51.100.{n}")
    assert (await refused(auth, client_ip="198.51.100.77")).code == "login_backoff"
    assert (await auth.login(client_ip=HOME)).tokens.access_token
    # At home, too, guessing is delayed.
    assert await fail(auth, 6, client_ip=HOME) == ["invalid_credentials"] * 5 + ["login_backoff"]


async def test_one_network_cannot_try_many_addresses(make_auth: Any) -> None:
    auth = await make_auth(login_failures_network=8)
    await auth.register_admin()
    codes = [(await refused(auth, f"user{n}@example.org", client_ip="198.51.100.1")).code for n in range(10)]
    assert codes == ["invalid_credentials"] * 8 + ["login_backoff"] * 2
    assert (await refused(auth, "user1@example.org", client_ip="198.51.100.2")).code == "invalid_credentials"


async def test_a_success_does_not_pay_for_the_networks_failures(make_auth: Any) -> None:
    auth = await make_auth(login_failures_network=6)
    await auth.register_admin()
    for n in range(5):
        await refused(auth, f"user{n}@example.org", client_ip=HOME)
    await auth.login(client_ip=HOME)
    assert (await refused(auth, "user9@example.org", client_ip=HOME)).code == "invalid_credentials"
    assert (await refused(auth, "user9@example.org", client_ip=HOME)).code == "login_backoff"


async def test_of_many_guesses_at_once_only_the_free_ones_are_answered(auth: Any, make_auth: Any) -> None:
    await auth.register_admin()
    replica = await make_auth()
    guesses = ((auth, replica)[n % 2].login(password=f"not the password {n}", client_ip=f"198.51.100.{n}") for n in range(24))
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert len(codes) == 24
    assert codes.count("invalid_credentials") == 5
    assert set(codes) <= {"invalid_credentials", "login_backoff", "password_checks_busy"}


async def test_logins_of_the_same_user_at_once_do_not_hinder_each_other(auth: Any) -> None:
    await auth.register_admin()
    answers = await asyncio.gather(*(auth.login(client_ip=HOME) for _ in range(12)))
    assert len({answer.tokens.session_id for answer in answers}) == 12


async def test_failures_and_successes_are_audited_without_secrets(auth: Any) -> None:
    user = await auth.register_admin()
    await refused(auth, password="a wrong secret phrase", client_ip=HOME)
    await refused(auth, "nobody@example.org", client_ip=HOME)
    await auth.login(client_ip=HOME)
    facts = [event for event in await auth.events_of(events_pb2.AuditRecorded) if event.action.startswith("login.")]
    assert [(fact.action, fact.outcome) for fact in facts] == [
        ("login.failed", "failure"),
        ("login.failed", "failure"),
        ("login.succeeded", "success"),
    ]
    written = b"".join(event.SerializeToString() for event in await auth.events())
    assert b"wrong secret" not in written
    assert b"nobody@" not in written
    assert user.id.encode() in written


async def test_a_password_reset_by_mail_ends_the_delay(make_auth: Any) -> None:
    auth = await make_auth(smtp_host="127.0.0.1", smtp_from="wireroom@example.org", smtp_security="none")
    user = await auth.register_admin()
    await fail(auth, 5, client_ip="198.51.100.1")
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        token = await issue(
            connection,
            tenant_id=UUID(user.tenant_id),
            user_id=UUID(user.id),
            purpose=TokenPurpose.RESET_PASSWORD,
            email="ada@example.org",
            now=auth.clock.now(),
            life=timedelta(hours=1),
        )
    fresh = "seven cats on the roof"
    await auth.call(AUTH + "FinishReset", auth_pb2.FinishResetRequest(token=token, new_password=fresh))
    assert (await auth.login(password=fresh, client_ip="198.51.100.2")).tokens.access_token


async def test_attempts_are_stored_without_addresses_and_purged(auth: Any) -> None:
    await auth.register_admin()
    await auth.login(client_ip=HOME)
    await refused(auth, "nobody@example.org", client_ip="198.51.100.1")
    (purge,) = (periodic for periodic in auth.service.periodic if periodic.name == "auth.purge")

    async def rows() -> int:
        async with auth.database.system() as connection:
            stored = await connection.execute(text("SELECT login_attempts::text FROM login_attempts"))
            found = [row[0] for row in stored]
        assert not any("example" in row or "198.51" in row for row in found)
        return len(found)

    await purge.run()
    assert await rows() == 3
    await auth.pass_time(timedelta(days=3).total_seconds())
    await purge.run()
    # Only the network that the owner is known at.
    assert await rows() == 1
    await auth.pass_time(timedelta(days=90).total_seconds())
    await purge.run()
    assert await rows() == 0


async def test_a_refused_login_leaves_running_sessions_alone(auth: Any) -> None:
    await auth.register_admin()
    tokens = (await auth.login(client_ip=HOME)).tokens
    await fail(auth, 6, client_ip="198.51.100.1")
    request = auth_pb2.RefreshRequest(refresh_token=tokens.refresh_token)
    assert (await auth.call(AUTH + "Refresh", request)).tokens.access_token


@given(st.lists(st.floats(0, 7200), max_size=60))
def test_failures_at_any_times_never_pass_more_than_the_terms_allow(gaps: list[float]) -> None:
    # Whoever tries as soon as allowed, or later: the count of answered guesses in a day stays below what the delays add up to.
    now, failures, answered = START, Failures(), 0
    for gap in gaps:
        now += timedelta(seconds=gap)
        wait = failures.wait(now)
        assert timedelta(0) <= wait <= TERMS.longest
        if wait:
            assert failures.count >= TERMS.free
            continue
        before = failures
        failures = failures.after_failure(TERMS, now)
        answered += 1
        assert failures.count == before.count + 1 or (before.failed_at is not None and now - before.failed_at > TERMS.memory)
        expected = TERMS.delay(failures.count)
        assert failures.wait(now) == expected
        assert (failures.blocked_until is None) == (failures.count < TERMS.free)
    assert answered <= TERMS.free + sum(1 for gap in gaps if gap > 0) + 1


@given(st.integers(0, 10**9))
def test_delays_only_grow_and_never_exceed_the_longest(failures: int) -> None:
    assert timedelta(0) <= TERMS.delay(failures) <= TERMS.delay(failures + 1) <= TERMS.longest


def test_delays_double_from_a_second() -> None:
    seconds = [TERMS.delay(failures).total_seconds() for failures in range(17)]
    assert seconds == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


def test_failures_are_forgotten_after_a_day() -> None:
    failures = Failures()
    for _ in range(9):
        failures = failures.after_failure(TERMS, START)
    assert failures.after_failure(TERMS, START + timedelta(hours=24)).count == 10
    assert failures.after_failure(TERMS, START + timedelta(hours=24, seconds=1)).count == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.9", "203.0.113.9", True),
        ("203.0.113.9", "203.0.113.10", False),
    ],
)
def test_networks(one: str, other: str, same: bool) -> None:  # noqa: FBT001  a parameter of the test
    assert (AttemptKeys.of("a@b", one) == AttemptKeys.of("a@b", other)) is same


@given(st.text(max_size=40))
def test_any_text_may_stand_where_an_address_should(text_: str) -> None:
    keys = AttemptKeys.of(text_, text_)
    assert (keys.network is None) == (network_of(text_) == "")
    assert len(set(keys.all())) == len(keys.all())
