"""Settings of the servers of others: identity providers and the mail server."""

from __future__ import annotations

import re
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from wireroom_auth.domain.identity import normalise_email
from wireroom_auth.domain.permissions import Role
from wireroom_common.errors import WireroomError

_ISSUER = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]+)?|https?://\[[0-9a-fA-F:]+\](:[0-9]+)?")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class OidcProviderSettings(BaseModel):
    """One identity provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="Short name in paths")
    title: str = Field(default="", max_length=100, description="What people read on the button; default: the name")
    issuer: str = Field(max_length=500, description="Issuer URL, exactly as the provider's discovery document has it")
    client_id: str = Field(min_length=1, max_length=500)
    client_secret: SecretStr = Field(default=SecretStr(""), description="Empty for a public client")
    scopes: tuple[str, ...] = Field(default=("openid", "email", "profile"))
    email_domains: tuple[str, ...] = Field(
        default=(), description="Only addresses in these domains may sign in; empty: any whose account is linked already"
    )
    trusted: bool = Field(
        default=False,
        description="The provider owns `email_domains`: an address there that it calls verified is linked to the account with this address",
    )
    tenant: UUID | None = Field(default=None, description="Tenant of new and of found accounts; default: the tenant `default`")
    roles: tuple[str, ...] = Field(default=(Role.VIEWER.value,), description="Roles of new accounts")
    create_users: bool = Field(
        default=False, description="Make an account for a verified address in `email_domains` that has none"
    )
    second_factor: bool = Field(
        default=False, description="The provider asks for a second factor itself: ours is not asked for after a login there"
    )

    @field_validator("issuer")
    @classmethod
    def _secure_issuer(cls, value: str) -> str:
        origin = _ISSUER.match(value)
        if origin is None or "?" in value or "#" in value:
            raise ValueError("must be a URL without query and fragment, such as https://login.example.org")
        host = origin[0].split("://")[1].rsplit(":", 1)[0] if not origin[0].endswith("]") else origin[0].split("://")[1]
        if value.startswith("http://") and host not in _LOOPBACK:
            raise ValueError("must begin with https:// (plain HTTP only to this machine)")
        return value

    @field_validator("roles")
    @classmethod
    def _no_operators(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if Role.PLATFORM_ADMIN.value in value or not value:
            raise ValueError("name at least one role, and not that of operators of the installation")
        return value

    @field_validator("scopes")
    @classmethod
    def _openid(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value or not all(re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope) for scope in value):
            raise ValueError("must contain `openid`, and scopes have no spaces")
        return value

    @field_validator("email_domains")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(domain.strip().lower().lstrip("@") for domain in value)

    @model_validator(mode="after")
    def _domains_named(self) -> OidcProviderSettings:
        if (self.trusted or self.create_users) and not self.email_domains:
            raise ValueError("`trusted` and `create_users` need `email_domains`: no provider speaks for every address")
        return self


def check_mail_settings(*, host: str, sender: str, username: str, security: str) -> None:
    """ValueError unless the settings of the mail server fit together."""
    if not host:
        return
    try:
        normalise_email(sender)
    except WireroomError:
        raise ValueError("smtp_from must be an e-mail address when smtp_host is set") from None
    if username and security == "none":
        raise ValueError("smtp_security none would send the password of smtp_username in clear: use starttls or tls")
