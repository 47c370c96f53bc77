"""Login at external identity providers: what is believed of whom, and when an account is linked."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from uuid import UUID

from wireroom_auth.domain.identity import Account
from wireroom_common.errors import ErrorKind, WireroomError, invalid

LOGIN_LIFE = timedelta(minutes=10)
_RETURN_TO = re.compile(r"/([^/\\\x00-\x20\x7f#][^\\\x00-\x20\x7f#]*)?")
_MAX_RETURN_TO = 500


@dataclass(frozen=True)
class Provider:
    """A configured identity provider. `email_domains` in lower case; see the settings for what each member means."""

    name: str
    title: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...]
    email_domains: frozenset[str]
    trusted: bool
    tenant: UUID | None
    roles: tuple[str, ...]
    create_users: bool
    second_factor: bool


@dataclass(frozen=True)
class Identity:
    """Whom a provider says it is. `email` is normalised, empty without one."""

    issuer: str
    subject: str
    email: str
    email_verified: bool
    name: str


@dataclass(frozen=True)
class LoginSecrets:
    """What a login that was started is finished with."""

    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)

    @classmethod
    def new(cls) -> LoginSecrets:
        """256 random bits each."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))

    def code_challenge(self) -> str:
        """S256 of RFC 7636."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.code_verifier.encode()).digest()).decode().rstrip("=")


class Linking(Enum):
    """What a first login of an identity leads to."""

    LINK = auto()
    CREATE = auto()


def check_return_to(path: str) -> str:
    """The path, or empty; INVALID for anything that could lead to another origin."""
    if path and (len(path) > _MAX_RETURN_TO or not _RETURN_TO.fullmatch(path)):
        raise invalid(
            "return_to_invalid", "The page to return to is a path of this installation, such as /console.", field="return_to"
        )
    return path


def require_domain(provider: Provider, identity: Identity) -> None:
    """FORBIDDEN unless the address is in a domain that may sign in through this provider."""
    if not provider.email_domains:
        return
    if not identity.email_verified or identity.email.rpartition("@")[2] not in provider.email_domains:
        raise WireroomError(
            ErrorKind.FORBIDDEN,
            "oidc_email_refused",
            f"Only verified e-mail addresses of certain domains may sign in with {provider.title}; yours is not one of them.",
        )


def decide_linking(provider: Provider, identity: Identity, account: Account | None, tenant_id: UUID) -> Linking:
    """What the first login of an identity may do. FORBIDDEN or CONFLICT with a reason when it may do nothing.

    An account is only given to whoever owns its address in the eyes of a provider that the operator trusts with this domain, and only
    if nobody else can have chosen its password: an address that was never verified may have been registered by a stranger in advance.
    """
    if not identity.email or not identity.email_verified:
        raise WireroomError(
            ErrorKind.FORBIDDEN, "oidc_email_unverified", f"{provider.title} does not say that your e-mail address is verified."
        )
    require_domain(provider, identity)
    if account is None:
        if not provider.create_users or not provider.email_domains:
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "oidc_no_account",
                "There is no account for you here; ask an administrator for an invitation.",
            )
        return Linking.CREATE
    if not provider.trusted or not provider.email_domains or account.user.tenant_id != tenant_id:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "oidc_account_not_linked",
            "There is an account with your e-mail address that cannot be entered this way; sign in with its password.",
        )
    if account.user.email_verified_at is None and account.password_hash is not None:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "oidc_account_unverified",
            "There is an account with your e-mail address, but the address was never verified there; sign in with its password and"
            " verify it first.",
        )
    return Linking.LINK


def state_invalid() -> WireroomError:
    """Unknown, spent or expired, or begun in another browser."""
    return WireroomError(
        ErrorKind.INVALID,
        "oidc_state_invalid",
        "This login has expired, was finished already, or was begun in another browser; begin again.",
    )


def login_refused(reason: str) -> WireroomError:
    """What the provider answered does not prove who it is. `reason` is a sentence for people."""
    return WireroomError(ErrorKind.UNAUTHENTICATED, "oidc_login_refused", f"{reason} Begin again.")


def provider_unavailable(provider: Provider) -> WireroomError:
    """The provider cannot be reached or does not answer as it must."""
    return WireroomError(
        ErrorKind.UNAVAILABLE,
        "oidc_provider_unavailable",
        f"{provider.title} cannot be reached at the moment; try again later, or sign in another way.",
        retry_after=10,
    )
