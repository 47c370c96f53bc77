"""Login at an external identity provider."""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.oidc import LOGIN_LIFE, LoginSecrets, Provider, check_return_to, login_refused, state_invalid
from wireroom_auth.domain.sessions import IssuedTokens
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.oidc import Identities, OidcLogins, ProviderClient
from wireroom_auth.ports.second_factors import Challenge, SecondFactors
from wireroom_auth.ports.sessions import Client, Sessions
from wireroom_auth.usecases.session_opening import SessionOpening
from wireroom_common.errors import ErrorKind, WireroomError, not_found

_LONGEST_CREDENTIAL = 4_096


@dataclass(frozen=True)
class ConfiguredProvider:
    """A provider and the client that talks to it."""

    provider: Provider
    client: ProviderClient


@dataclass(frozen=True)
class StartedLogin:
    """Where the browser goes; `binding` is for this browser alone. `expires_in` in seconds."""

    authorization_url: str = field(repr=False)
    binding: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True)
class ReturnedLogin:
    """What the browser brought back."""

    provider: str
    state: str = field(repr=False)
    code: str = field(repr=False)
    issuer: str
    binding: str = field(repr=False)
    error: str
    client: Client


class Providers:
    """The configured providers by name, and where they send browsers back to."""

    def __init__(self, configured: Mapping[str, ConfiguredProvider], public_url: Callable[[], str]) -> None:
        self._configured = dict(configured)
        self._public_url = public_url

    def all(self) -> list[Provider]:
        """In the order of the settings."""
        return [entry.provider for entry in self._configured.values()]

    def get(self, name: str) -> ConfiguredProvider:
        """NOT_FOUND `identity_provider_not_found`."""
        found = self._configured.get(name)
        if found is None:
            raise not_found("identity provider")
        return found

    def redirect_uri(self, provider: Provider) -> str:
        """To be registered at the provider. Built from the installation's public address, never from what a request names."""
        return f"{self._public_url()}/auth/oidc/{provider.name}/callback"


class StartOidc:
    """Nothing is proven yet: a state, a nonce and a PKCE verifier are kept, and a secret that only this browser gets."""

    def __init__(self, providers: Providers, logins: OidcLogins) -> None:
        self._providers = providers
        self._logins = logins

    async def run(self, name: str, return_to: str) -> StartedLogin:
        """Where to send the browser; NOT_FOUND for an unknown provider, UNAVAILABLE if it does not answer."""
        configured = self._providers.get(name)
        return_to = check_return_to(return_to)
        state, binding, secrets = random.token_urlsafe(32), random.token_urlsafe(32), LoginSecrets.new()
        url = await configured.client.authorization_url(
            state=state, secrets=secrets, redirect_uri=self._providers.redirect_uri(configured.provider)
        )
        await self._logins.add(configured.provider, state=state, binding=binding, secrets=secrets, return_to=return_to)
        return StartedLogin(url, binding, int(LOGIN_LIFE.total_seconds()))


class FinishOidc:
    """The state is spent first, whatever comes of the rest."""

    def __init__(
        self,
        *,
        providers: Providers,
        logins: OidcLogins,
        identities: Identities,
        sessions: Sessions,
        second_factors: SecondFactors,
        opening: SessionOpening,
    ) -> None:
        self._providers = providers
        self._logins = logins
        self._identities = identities
        self._sessions = sessions
        self._second_factors = second_factors
        self._opening = opening

    async def run(self, returned: ReturnedLogin) -> tuple[IssuedTokens | Challenge, User, str]:
        """Tokens of a new session or what is needed for the second step; the user; the page to return to.

        INVALID `oidc_state_invalid`, UNAUTHENTICATED `oidc_denied` or `oidc_login_refused`, and what `decide_linking` says.
        """
        configured = self._providers.get(returned.provider)
        provider = configured.provider
        login = await self._logins.take(provider, state=returned.state, binding=returned.binding)
        if login is None:
            raise state_invalid()
        secrets, return_to = login
        try:
            user = await self._proven(configured, returned, secrets)
        except WireroomError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                await self._sessions.record_failed_login(None, returned.client, error.code)
            raise
        if user.disabled_at is not None:
            await self._sessions.record_failed_login(Account(user, None), returned.client, "disabled")
            raise account_unavailable()
        method = f"oidc:{provider.name}"
        if not provider.second_factor:
            challenge = await self._second_factors.challenge(user, (method,))
            if challenge is not None:
                return challenge, user, return_to
        opened = await self._opening.open(user, returned.client, (method,))
        if opened is None:
            await self._sessions.record_failed_login(Account(user, None), returned.client, "changed_meanwhile")
            raise account_unavailable()
        return *opened, return_to

    async def _proven(self, configured: ConfiguredProvider, returned: ReturnedLogin, secrets: LoginSecrets) -> User:
        """Whom the provider's answer proves; the user may be disabled."""
        provider = configured.provider
        await configured.client.check_issuer(returned.issuer)
        if returned.error:
            raise WireroomError(
                ErrorKind.UNAUTHENTICATED,
                "oidc_denied",
                f"{provider.title} did not sign you in; begin again or choose another way.",
            )
        if not returned.code or len(returned.code) > _LONGEST_CREDENTIAL:
            raise login_refused(f"{provider.title} sent no code.")
        identity = await configured.client.redeem(
            code=returned.code, secrets=secrets, redirect_uri=self._providers.redirect_uri(provider)
        )
        return await self._identities.resolve(provider, identity)
