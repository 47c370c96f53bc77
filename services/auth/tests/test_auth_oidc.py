from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from uuid import UUID

import aiohttp
import pytest
from pydantic import ValidationError
from sqlalchemy import text

# Test modules are imported by path; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent))

import identity_provider
from identity_provider import REDIRECT_URI, IdentityProvider

from wireroom_auth.adapters.id_token import IdTokenError, signing_keys, validated
from wireroom_auth.provider_settings import OidcProviderSettings
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

OIDC = "/wireroom_protos.auth.v1.OidcService/"
SECRET = identity_provider.CLIENTS[0]["client_secret"]


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider.running() as started:
        yield started


@pytest.fixture
def entry(provider: IdentityProvider) -> dict[str, Any]:
    """The provider's entry in the settings."""
    return {
        "name": "corp",
        "title": "Corp",
        "issuer": provider.issuer,
        "client_id": "wireroom",
        "client_secret": SECRET,
        "email_domains": ["example.org"],
        "trusted": True,
        "create_users": True,
    }


@pytest.fixture
def make_oidc(make_auth: Any, migrated_database: Any) -> Any:
    """`await make_oidc(entry)`: a started service with the machine's clock, which the provider's tokens are made by, and a first user."""

    async def make(*entries: dict[str, Any]) -> Any:
        auth = await make_auth()
        auth.infra.clock = SystemClock()
        fresh = type(auth.infra)(auth.database, clock=SystemClock(), announced=auth.infra.announced)
        return await make_auth(infra=fresh, oidc_providers=entries)

    return make


async def start(auth: Any, name: str = "corp", return_to: str = "") -> Any:
    return await auth.call(OIDC + "StartOidc", auth_pb2.StartOidcRequest(provider=name, return_to=return_to))


async def finish(auth: Any, started: Any, returned: dict[str, str], name: str = "corp", **changes: str) -> Any:
    values = {
        "provider": name,
        "state": returned.get("state", ""),
        "code": returned.get("code", ""),
        "issuer": returned.get("iss", ""),
        "error": returned.get("error", ""),
        "browser_binding": started.browser_binding,
        "client_ip": "203.0.113.9",
        "user_agent": "browser/1",
        **changes,
    }
    return await auth.call(OIDC + "FinishOidc", auth_pb2.FinishOidcRequest(**values))


async def login(auth: Any, provider: IdentityProvider, name: str = "corp") -> Any:
    started = await start(auth, name)
    return await finish(auth, started, await provider.visit(started.authorization_url), name)


async def refused(call: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as error:
        await call
    return error.value.kind, error.value.code


def changed(url: str, **values: str) -> str:
    parts = urlsplit(url)
    query = {name: found[0] for name, found in parse_qs(parts.query).items()} | values
    return urlunsplit(parts._replace(query=urlencode(query)))


async def test_a_first_login_makes_an_account_and_the_next_finds_it(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    auth = await make_oidc(entry)
    listed = await auth.call(OIDC + "ListProviders", auth_pb2.ListProvidersRequest())
    assert [(found.name, found.title) for found in listed.providers] == [("corp", "Corp")]
    provider.sign_in_as("grace", email="Grace@Example.org", email_verified=True, name="Grace H")
    started = await start(auth, return_to="/console?tab=1")
    query = parse_qs(urlsplit(started.authorization_url).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [REDIRECT_URI]
    assert started.expires_in == 600
    returned = await provider.visit(started.authorization_url)
    answer = await finish(auth, started, returned)
    assert (answer.user.email, answer.user.name, list(answer.user.roles)) == ("grace@example.org", "Grace H", ["Viewer"])
    assert answer.user.HasField("email_verified_at")
    assert answer.return_to == "/console?tab=1"
    await auth.refresh(answer.tokens.refresh_token)
    # Known by issuer and subject from now on, whatever the name.
    provider.sign_in_as("grace", email="grace.hopper@example.org", email_verified=True, name="Other")
    again = await login(auth, provider)
    assert again.user.id == answer.user.id
    assert again.user.email == "grace@example.org"
    (registered,) = await auth.events_of(events_pb2.AuthUserRegistered)
    assert registered.via == "oidc"
    assert [event.provider for event in await auth.events_of(events_pb2.AuthIdentityLinked)] == ["corp"]
    assert len(await auth.events_of(events_pb2.AuthUserLoginSucceeded)) == 2
    assert "identity.linked" in [event.action for event in await auth.events_of(events_pb2.AuditRecorded)]
    # A session of such a user knows how it began.
    async with auth.database.tenant(UUID(answer.user.tenant_id)) as connection:
        methods = (await connection.execute(text("SELECT DISTINCT methods FROM sessions"))).scalars().all()
    assert methods == [["oidc:corp"]]
    # No password was set, so none fits.
    assert (await refused(auth.login("grace@example.org", "")))[1] == "invalid_credentials"


async def test_a_login_ends_once_and_only_in_the_browser_that_began_it(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    auth = await make_oidc(entry)
    provider.sign_in_as("once", email="once@example.org", email_verified=True)
    started, other = await start(auth), await start(auth)
    returned = await provider.visit(started.authorization_url)
    spoiled = (ErrorKind.INVALID, "oidc_state_invalid")
    assert await refused(finish(auth, started, returned, state="x" * 43)) == spoiled
    assert await refused(finish(auth, started, returned, state="")) == spoiled
    # Somebody else's browser, with a login of its own that is still open.
    assert await refused(finish(auth, other, returned)) == spoiled
    assert await refused(finish(auth, started, returned, browser_binding="")) == spoiled
    await finish(auth, started, returned)
    assert await refused(finish(auth, started, returned)) == spoiled
    # The code of one login in another: bound to the verifier of the first, and spent.
    mixed = {**returned, "state": parse_qs(urlsplit(other.authorization_url).query)["state"][0]}
    assert await refused(finish(auth, other, mixed)) == (ErrorKind.UNAUTHENTICATED, "oidc_login_refused")
    failed = await auth.events_of(events_pb2.AuthUserLoginFailed)
    assert [event.reason for event in failed] == ["oidc_login_refused"]


async def test_a_login_expires(make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]) -> None:
    auth = await make_oidc(entry)
    provider.sign_in_as("late", email="late@example.org", email_verified=True)
    started = await start(auth)
    async with auth.database.system() as connection:
        await connection.execute(text("UPDATE oidc_logins SET expires_at = now() - interval '1 second'"))
    assert (await refused(finish(auth, started, await provider.visit(started.authorization_url))))[1] == "oidc_state_invalid"


async def test_answers_that_do_not_fit_the_question_prove_nothing(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    auth = await make_oidc(entry)
    provider.sign_in_as("mallory", email="mallory@example.org", email_verified=True)
    doubtful = (ErrorKind.UNAUTHENTICATED, "oidc_login_refused")

    async def attempt(started: Any, url: str, **values: str) -> tuple[ErrorKind, str]:
        return await refused(finish(auth, started, await provider.visit(url), **values))

    started = await start(auth)
    assert await attempt(started, changed(started.authorization_url, nonce="another")) == doubtful
    started = await start(auth)
    assert await attempt(started, changed(started.authorization_url, client_id="another")) == doubtful
    started = await start(auth)
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert await attempt(started, changed(started.authorization_url, code_challenge=challenge)) == doubtful
    # RFC 9207: another issuer, or none although this provider names itself.
    for issuer in ("https://evil.example", ""):
        started = await start(auth)
        assert await attempt(started, started.authorization_url, issuer=issuer) == doubtful
    started = await start(auth)
    assert await attempt(started, started.authorization_url, code="") == doubtful
    started = await start(auth)
    assert await attempt(started, started.authorization_url, code="made up") == doubtful
    assert await auth.events_of(events_pb2.AuthUserRegistered) == []


async def test_a_token_for_another_client_is_refused(provider: IdentityProvider) -> None:
    """A real token of the same provider, with our nonce, and signed by its keys."""
    provider.sign_in_as("mallory", email="mallory@example.org", email_verified=True)
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    query = {
        "response_type": "code",
        "client_id": "another",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid",
        "state": "s",
        "nonce": "ours",
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        "code_challenge_method": "S256",
    }
    returned = await provider.visit(f"{provider.issuer}/auth?{urlencode(query)}")
    form = {
        "grant_type": "authorization_code",
        "code": returned["code"],
        "redirect_uri": REDIRECT_URI,
        "code_verifier": verifier,
    }
    async with aiohttp.ClientSession() as session:
        authorised = {"authorization": f"Basic {base64.b64encode(b'another:another-secret').decode()}"}
        async with session.post(f"{provider.issuer}/token", data=form, headers=authorised) as answer:
            token = (await answer.json())["id_token"]
        async with session.get(f"{provider.issuer}/jwks") as answer:
            keys = signing_keys(await answer.json())
    expected: dict[str, Any] = {
        "issuer": provider.issuer,
        "client_id": "another",
        "nonce": "ours",
        "algorithms": {"RS256"},
        "now": SystemClock().now(),
    }
    assert validated(token, keys, **expected)["sub"] == "mallory"
    head, payload, signature = token.split(".")
    for reason, values in (
        ("aud", {"client_id": "wireroom"}),
        ("nonce", {"nonce": "other"}),
        ("iss", {"issuer": provider.issuer + "/"}),
        ("signature", {"algorithms": {"ES256"}}),
        ("signature", {"algorithms": set()}),
    ):
        with pytest.raises(IdTokenError, match=reason):
            validated(token, keys, **{**expected, **values})
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for spoiled in (f"{head}.{payload}.{flipped}", f"{head}.{payload}.", f"{head}..{signature}", "", "a.b.c", "…", token + "\n"):
        with pytest.raises(IdTokenError):
            validated(spoiled, keys, **expected)


async def test_new_keys_of_the_provider_are_found(make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]) -> None:
    auth = await make_oidc(entry)
    provider.sign_in_as("ada", email="ada@example.org", email_verified=True)
    first = await login(auth, provider)
    clock = auth.infra.clock
    provider.rotate()
    ahead = clock.monotonic() + 60
    clock.monotonic = lambda: ahead
    again = await login(auth, provider)
    assert again.user.id == first.user.id


async def test_public_clients_and_other_algorithms(make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]) -> None:
    auth = await make_oidc({**entry, "client_id": "public", "client_secret": ""})
    provider.sign_in_as("pub", email="pub@example.org", email_verified=True)
    assert (await login(auth, provider)).user.email == "pub@example.org"


async def test_a_wrong_client_secret_is_the_operators_matter(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    auth = await make_oidc({**entry, "client_secret": "wrong"})
    provider.sign_in_as("ada", email="ada@example.org", email_verified=True)
    assert await refused(login(auth, provider)) == (ErrorKind.UNAVAILABLE, "oidc_provider_unavailable")


async def test_a_provider_that_is_away_or_another_is_unavailable(make_oidc: Any, entry: dict[str, Any]) -> None:
    away = {**entry, "issuer": "http://127.0.0.1:1"}
    # Answers, but says it is somebody else.
    other = {**entry, "name": "other", "issuer": entry["issuer"].replace("127.0.0.1", "localhost")}
    auth = await make_oidc(away, other)
    for name in ("corp", "other"):
        assert await refused(start(auth, name)) == (ErrorKind.UNAVAILABLE, "oidc_provider_unavailable")
    assert await refused(start(auth, "unknown")) == (ErrorKind.NOT_FOUND, "identity_provider_not_found")
    listed = await auth.call(OIDC + "ListProviders", auth_pb2.ListProvidersRequest())
    assert len(listed.providers) == 2


async def test_a_person_who_says_no_is_not_signed_in(make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]) -> None:
    auth = await make_oidc(entry)
    provider.sign_in_as("")
    started = await start(auth)
    returned = await provider.visit(started.authorization_url)
    assert returned["error"] == "access_denied"
    assert await refused(finish(auth, started, returned)) == (ErrorKind.UNAUTHENTICATED, "oidc_denied")


async def test_accounts_are_given_to_the_owners_of_their_addresses_only(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    untrusted = {**entry, "name": "lax", "trusted": False}
    closed = {**entry, "name": "closed", "create_users": False, "trusted": False}
    auth = await make_oidc(entry, untrusted, closed)
    for added in (untrusted, closed):
        assert added["name"] != "corp"
    user = await auth.register_admin("ada@example.org")

    provider.sign_in_as("attacker", email="ada@example.org", email_verified=False)
    assert await refused(login(auth, provider)) == (ErrorKind.FORBIDDEN, "oidc_email_unverified")
    provider.sign_in_as("attacker")
    assert await refused(login(auth, provider)) == (ErrorKind.FORBIDDEN, "oidc_email_unverified")
    provider.sign_in_as("attacker", email="ada@evil.example", email_verified=True)
    assert await refused(login(auth, provider)) == (ErrorKind.FORBIDDEN, "oidc_email_refused")
    # Registered in advance with a password of somebody's choice, and never verified.
    provider.sign_in_as("ada", email="ada@example.org", email_verified=True)
    assert await refused(login(auth, provider)) == (ErrorKind.CONFLICT, "oidc_account_unverified")
    await auth.change_user(user, "email_verified_at = :now", now=auth.clock.now())
    answer = await login(auth, provider)
    assert answer.user.id == user.id
    assert sorted(answer.user.roles) == ["Admin", "platform_admin"]
    # Another person at the provider with the same address does not get the same account a second time without the same subject.
    await auth.change_user(user, "disabled_at = :now", now=auth.clock.now())
    assert await refused(login(auth, provider)) == (ErrorKind.UNAUTHENTICATED, "account_unavailable")
    assert [event.reason for event in await auth.events_of(events_pb2.AuthUserLoginFailed)][-1] == "disabled"


async def test_a_provider_that_is_not_trusted_opens_no_account_that_exists(
    make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]
) -> None:
    auth = await make_oidc({**entry, "trusted": False, "create_users": False})
    user = await auth.register_admin("ada@example.org")
    await auth.change_user(user, "email_verified_at = :now", now=auth.clock.now())
    provider.sign_in_as("ada", email="ada@example.org", email_verified=True)
    assert await refused(login(auth, provider)) == (ErrorKind.CONFLICT, "oidc_account_not_linked")
    provider.sign_in_as("new", email="new@example.org", email_verified=True)
    assert await refused(login(auth, provider)) == (ErrorKind.FORBIDDEN, "oidc_no_account")
    # Nor one of another tenant, trusted or not.
    elsewhere = await auth.add_tenant("elsewhere")
    foreign = await make_oidc({**entry, "tenant": str(elsewhere)})
    provider.sign_in_as("ada", email="ada@example.org", email_verified=True)
    assert await refused(login(foreign, provider)) == (ErrorKind.CONFLICT, "oidc_account_not_linked")
    provider.sign_in_as("new", email="new@example.org", email_verified=True)
    assert (await login(foreign, provider)).user.tenant_id == str(elsewhere)


async def test_claims_may_stand_in_the_token_itself(make_oidc: Any, entry: dict[str, Any]) -> None:
    with identity_provider.running(userinfo=False) as direct:
        auth = await make_oidc({**entry, "issuer": direct.issuer})
        direct.sign_in_as("direct", email="direct@example.org", email_verified=True)
        assert (await login(auth, direct)).user.email == "direct@example.org"


async def test_pages_to_return_to_are_of_this_installation(make_oidc: Any, entry: dict[str, Any]) -> None:
    auth = await make_oidc(entry)
    for path in (
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a\\b",
        "/a b",
        "/a\nb",
        "/a#b",
        "x",
        "/" + "a" * 500,
    ):
        assert await refused(start(auth, return_to=path)) == (ErrorKind.INVALID, "return_to_invalid")


async def test_nothing_of_a_login_is_stored_in_clear(make_oidc: Any, provider: IdentityProvider, entry: dict[str, Any]) -> None:
    auth = await make_oidc(entry)
    started = await start(auth)
    query = parse_qs(urlsplit(started.authorization_url).query)
    async with auth.database.system() as connection:
        row = (await connection.execute(text("SELECT to_jsonb(o)::text FROM oidc_logins o"))).scalar_one()
    for hidden in (started.browser_binding, query["state"][0], query["nonce"][0]):
        assert hidden not in row
        assert hidden.encode().hex() not in row


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://login.example.org"},
        {"issuer": "https://login.example.org?x=1"},
        {"issuer": "login.example.org"},
        {"name": "../x"},
        {"scopes": ["email"]},
        {"roles": ["platform_admin"]},
        {"roles": []},
        {"email_domains": []},
        {"unknown": 1},
    ],
)
def test_settings_that_would_be_unsafe_are_refused(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "name": "corp",
        "issuer": "https://login.example.org/realms/a",
        "client_id": "c",
        "email_domains": ["@Example.org"],
        "trusted": True,
    }
    assert OidcProviderSettings(**good).email_domains == ("example.org",)
    with pytest.raises(ValidationError):
        OidcProviderSettings(**{**good, **changes})
