"""External identity providers, logins that were begun there, and the identities that accounts are linked to."""

from __future__ import annotations

from typing import Protocol

from wireroom_auth.domain.identity import User
from wireroom_auth.domain.oidc import Identity, LoginSecrets, Provider


class ProviderClient(Protocol):
    """Talks to one provider. Everything here is UNAVAILABLE `oidc_provider_unavailable` when it does not answer as it must."""

    async def authorization_url(self, *, state: str, secrets: LoginSecrets, redirect_uri: str) -> str:
        """Where the browser goes to sign in."""

    async def check_issuer(self, issuer: str) -> None:
        """UNAUTHENTICATED if the answer came from another provider (RFC 9207). `issuer`: empty if the answer did not name one."""

    async def redeem(self, *, code: str, secrets: LoginSecrets, redirect_uri: str) -> Identity:
        """Exchange the code and check what comes back; UNAUTHENTICATED `oidc_login_refused`."""


class OidcLogins(Protocol):
    """Logins that were begun. Each is taken once."""

    async def add(self, provider: Provider, *, state: str, binding: str, secrets: LoginSecrets, return_to: str) -> None:
        """Remember a login for ten minutes."""

    async def take(self, provider: Provider, *, state: str, binding: str) -> tuple[LoginSecrets, str] | None:
        """Secrets and page to return to; None unless this browser began it with this provider, lately, and did not finish it."""


class Identities(Protocol):
    """Who may sign in through a provider."""

    async def resolve(self, provider: Provider, identity: Identity) -> User:
        """The user of an identity, linked or created at its first login; told in events and the audit trail.

        FORBIDDEN or CONFLICT `oidc_…` as `decide_linking` says.
        """
