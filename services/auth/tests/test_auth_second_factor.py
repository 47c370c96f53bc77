from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_auth.domain import second_factor
from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

FACTORS = "/wireroom_protos.auth.v1.SecondFactorService/"
RFC_SECRET = b"12345678901234567890"


def code_at(secret: str, clock: ManualClock, steps: int = 0) -> str:
    """What an authenticator shows."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    return TOTP(key, 6, SHA1(), 30).generate(int(clock.now().timestamp()) + 30 * steps).decode()  # noqa: S303 - RFC 6238


def principal_of(user: Any) -> Principal:
    return Principal(PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions))


async def enrolled(auth: Any, password: str) -> tuple[Any, Principal, str, list[str]]:
    """A user with a second factor in force: the user, their principal, the secret, the recovery codes."""
    user = await auth.register_admin()
    caller = principal_of(user)
    answer = await auth.call(FACTORS + "EnrollTotp", auth_pb2.EnrollTotpRequest(password=password), caller)
    request = auth_pb2.ConfirmTotpRequest(code=code_at(answer.secret, auth.clock))
    confirmed = await auth.call(FACTORS + "ConfirmTotp", request, caller)
    return user, caller, answer.secret, list(confirmed.recovery_codes)


async def finish(auth: Any, mfa_token: str, code: str) -> Any:
    request = auth_pb2.FinishLoginRequest(mfa_token=mfa_token, code=code, client_ip="203.0.113.9", user_agent="browser/1")
    return await auth.call(FACTORS + "FinishLogin", request)


async def refused(call: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as error:
        await call
    return error.value.kind, error.value.code


@pytest.mark.parametrize(
    ("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (20000000000, "353130")]
)
def test_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    now = datetime.fromtimestamp(seconds, UTC)
    assert second_factor.accepted_step(RFC_SECRET, code, now=now, last_step=0) == seconds // 30


@given(offset=st.integers(-200, 200), start=st.integers(1_000_000_000, 4_000_000_000))
def test_codes_count_one_step_early_and_late_and_once(offset: int, start: int) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    now = datetime.fromtimestamp(start, UTC)
    shown = TOTP(RFC_SECRET, 6, SHA1(), 30).generate(start + offset).decode()  # noqa: S303 - RFC 6238
    step = second_factor.accepted_step(RFC_SECRET, shown, now=now, last_step=0)
    distance = (start + offset) // 30 - start // 30
    if abs(distance) <= 1:
        assert step is not None
        # Two steps may happen to have the same code; then each is accepted once.
        again = second_factor.accepted_step(RFC_SECRET, shown, now=now, last_step=step)
        assert again is None or again > step
    elif step is not None:
        assert TOTP(RFC_SECRET, 6, SHA1(), 30).generate(step * 30).decode() == shown  # noqa: S303 - RFC 6238


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers_of_codes(given_text: str) -> None:
    code = second_factor.normalised_code(given_text)
    now = ManualClock().now()
    step = second_factor.accepted_step(RFC_SECRET, code, now=now, last_step=10**12)
    assert step is None
    recovery = second_factor.recovery_code_of(given_text)
    assert recovery is None or len(recovery) == 16


async def test_a_login_with_a_second_factor_takes_two_steps(auth: Any, password: str) -> None:
    user, caller, secret, codes = await enrolled(auth, password)
    assert len(set(codes)) == 10
    first = await auth.login()
    assert not first.HasField("tokens")
    assert first.mfa_token.startswith("wr_ot_")
    assert first.mfa_expires_in == 300
    # The code that switched the factor on is spent.
    assert await refused(finish(auth, first.mfa_token, code_at(secret, auth.clock))) == (
        ErrorKind.UNAUTHENTICATED,
        "mfa_code_invalid",
    )
    auth.clock.advance(30)
    shown = code_at(secret, auth.clock)
    answer = await finish(auth, first.mfa_token, f"{shown[:3]} {shown[3:]}")
    assert answer.user.id == user.id
    assert answer.user.second_factor
    await auth.refresh(answer.tokens.refresh_token)
    caller = dataclasses.replace(caller, credential_id=answer.tokens.session_id)
    listed = await auth.call("/wireroom_protos.auth.v1.AuthService/ListSessions", auth_pb2.ListSessionsRequest(), caller)
    assert [list(session.methods) for session in listed.sessions] == [["password", "totp"]]
    assert await refused(finish(auth, first.mfa_token, code_at(secret, auth.clock, 1))) == (
        ErrorKind.UNAUTHENTICATED,
        "mfa_token_invalid",
    )
    failed = await auth.events_of(events_pb2.AuthUserLoginFailed)
    assert [event.reason for event in failed] == ["wrong_code"]
    changes = await auth.events_of(events_pb2.AuthSecondFactorChanged)
    assert [event.change for event in changes] == ["enabled"]
    audited = [event.action for event in await auth.events_of(events_pb2.AuditRecorded)]
    assert {"second_factor.enrolled", "second_factor.enabled", "second_factor.refused"} <= set(audited)


async def test_a_code_is_accepted_once_by_whatever_comes_at_the_same_time(auth: Any, password: str, race: Any) -> None:
    _, _, secret, codes = await enrolled(auth, password)
    auth.clock.advance(60)
    logins = [await auth.login() for _ in range(4)]
    shown = code_at(secret, auth.clock)
    lock = "SELECT 1 FROM auth.totp_factors FOR UPDATE"
    outcomes = await race(lock, *(finish(auth, login.mfa_token, shown) for login in logins[:3]))
    assert sorted(isinstance(outcome, WireroomError) for outcome in outcomes) == [False, True, True]
    more = [await auth.login() for _ in range(2)]
    outcomes = await race(lock, *(finish(auth, login.mfa_token, codes[0]) for login in [logins[3], *more]))
    assert sorted(isinstance(outcome, WireroomError) for outcome in outcomes) == [False, True, True]


async def test_one_login_token_opens_one_session(auth: Any, password: str) -> None:
    _, _, secret, codes = await enrolled(auth, password)
    auth.clock.advance(60)
    token = (await auth.login()).mfa_token
    outcomes = await asyncio.gather(
        finish(auth, token, code_at(secret, auth.clock)), finish(auth, token, codes[1]), return_exceptions=True
    )
    assert sorted(isinstance(outcome, WireroomError) for outcome in outcomes) == [False, True]


async def test_recovery_codes_stand_in_once_each_however_they_are_typed(auth: Any, password: str) -> None:
    _, caller, _, codes = await enrolled(auth, password)
    typed = codes[0].upper().replace("-", " ")
    answer = await finish(auth, (await auth.login()).mfa_token, typed)
    assert answer.tokens.access_token
    assert await refused(finish(auth, (await auth.login()).mfa_token, codes[0])) == (
        ErrorKind.UNAUTHENTICATED,
        "mfa_code_invalid",
    )
    state = await auth.call(FACTORS + "GetSecondFactor", auth_pb2.GetSecondFactorRequest(), caller)
    assert (state.totp, state.recovery_codes_left) == (True, 9)
    changes = await auth.events_of(events_pb2.AuthSecondFactorChanged)
    assert [event.change for event in changes] == ["enabled", "recovery_code_used"]


async def test_five_wrong_codes_end_the_login_and_time_does_too(make_auth: Any, password: str) -> None:
    auth = await make_auth(login_failures_account=50, login_failures_network=50)
    _, _, secret, _ = await enrolled(auth, password)
    auth.clock.advance(60)
    token = (await auth.login()).mfa_token
    for _ in range(5):
        assert (await refused(finish(auth, token, "000000")))[1] == "mfa_code_invalid"
    assert (await refused(finish(auth, token, code_at(secret, auth.clock))))[1] == "mfa_token_invalid"
    token = (await auth.login()).mfa_token
    auth.clock.advance(300)
    assert (await refused(finish(auth, token, code_at(secret, auth.clock))))[1] == "mfa_token_invalid"
    for rubbish in ("", "wr_ot_x", "wr_rt_" + "a" * 43, "\x00"):
        assert (await refused(finish(auth, rubbish, "000000")))[1] == "mfa_token_invalid"


async def test_guessing_codes_is_slowed_down_like_guessing_passwords(make_auth: Any, password: str) -> None:
    auth = await make_auth(login_failures_account=3)
    await enrolled(auth, password)
    outcomes = []
    for _ in range(8):
        try:
            token = (await auth.login(client_ip="203.0.113.9")).mfa_token
            await finish(auth, token, "000000")
        except WireroomError as error:
            outcomes.append(error.code)
    assert outcomes[0] == "mfa_code_invalid"
    assert "login_backoff" in outcomes


async def test_what_changed_since_the_first_step_counts(auth: Any, password: str) -> None:
    user, _, secret, _ = await enrolled(auth, password)
    auth.clock.advance(60)
    token = (await auth.login()).mfa_token
    await auth.change_user(user, "epoch = epoch + 1")
    assert (await refused(finish(auth, token, code_at(secret, auth.clock))))[1] == "mfa_token_invalid"
    auth.clock.advance(60)
    token = (await auth.login()).mfa_token
    await auth.change_user(user, "disabled_at = :now", now=auth.clock.now())
    assert (await refused(finish(auth, token, code_at(secret, auth.clock))))[0] is ErrorKind.UNAUTHENTICATED


async def test_switching_on_and_off_asks_for_what_a_thief_lacks(auth: Any, password: str) -> None:
    user = await auth.register_admin()
    caller = principal_of(user)
    wrong = auth_pb2.EnrollTotpRequest(password="not the password")
    assert await refused(auth.call(FACTORS + "EnrollTotp", wrong, caller)) == (ErrorKind.FORBIDDEN, "password_wrong")
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, credential_id="k")
    for name, request in (
        ("EnrollTotp", auth_pb2.EnrollTotpRequest(password=password)),
        ("ConfirmTotp", auth_pb2.ConfirmTotpRequest(code="000000")),
        ("DisableTotp", auth_pb2.DisableTotpRequest(password=password, code="000000")),
        ("GetSecondFactor", auth_pb2.GetSecondFactorRequest()),
    ):
        assert await refused(auth.call(FACTORS + name, request, key)) == (ErrorKind.FORBIDDEN, "session_required")
    confirm = auth_pb2.ConfirmTotpRequest(code="000000")
    assert (await refused(auth.call(FACTORS + "ConfirmTotp", confirm, caller)))[1] == "second_factor_not_enrolled"

    enroll = auth_pb2.EnrollTotpRequest(password=password)
    first = await auth.call(FACTORS + "EnrollTotp", enroll, caller)
    # Not in force before it is confirmed, and a second enrolment replaces the first.
    assert (await auth.login()).HasField("tokens")
    answer = await auth.call(FACTORS + "EnrollTotp", enroll, caller)
    assert answer.secret != first.secret
    uri = urlsplit(answer.uri)
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert parse_qs(uri.query)["secret"] == [answer.secret]
    stale = auth_pb2.ConfirmTotpRequest(code=code_at(first.secret, auth.clock))
    assert (await refused(auth.call(FACTORS + "ConfirmTotp", stale, caller)))[1] == "mfa_code_invalid"
    confirm = auth_pb2.ConfirmTotpRequest(code=code_at(answer.secret, auth.clock))
    await auth.call(FACTORS + "ConfirmTotp", confirm, caller)
    assert (await refused(auth.call(FACTORS + "ConfirmTotp", confirm, caller)))[1] == "second_factor_exists"
    assert (await refused(auth.call(FACTORS + "EnrollTotp", enroll, caller)))[1] == "second_factor_exists"

    auth.clock.advance(30)
    without_code = auth_pb2.DisableTotpRequest(password=password, code="000000")
    assert (await refused(auth.call(FACTORS + "DisableTotp", without_code, caller)))[1] == "mfa_code_invalid"
    wrong_password = auth_pb2.DisableTotpRequest(password="not the password", code=code_at(answer.secret, auth.clock))
    assert (await refused(auth.call(FACTORS + "DisableTotp", wrong_password, caller)))[1] == "password_wrong"
    right = auth_pb2.DisableTotpRequest(password=password, code=code_at(answer.secret, auth.clock))
    await auth.call(FACTORS + "DisableTotp", right, caller)
    assert (await auth.login()).HasField("tokens")
    assert (await refused(auth.call(FACTORS + "DisableTotp", right, caller)))[1] == "second_factor_not_enrolled"
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM recovery_codes")) == 0


async def test_what_is_stored_or_told_gives_no_code_away(auth: Any, password: str, postgres_as_owner: Any) -> None:
    user, _, secret, codes = await enrolled(auth, password)
    token = (await auth.login()).mfa_token
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        stored = (await connection.execute(text("SELECT secret_sealed FROM totp_factors"))).scalar_one()
        rows = (await connection.execute(text("SELECT to_jsonb(o) FROM one_time_tokens o"))).scalars().all()
    assert base64.b32decode(secret + "=" * (-len(secret) % 8)) not in stored
    told = json.dumps(rows) + "".join(str(event) for event in await auth.events())
    for hidden in (token, secret, *codes, *(code.replace("-", "") for code in codes)):
        assert hidden not in told
