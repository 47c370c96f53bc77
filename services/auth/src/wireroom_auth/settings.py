"""Settings of the auth service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_auth.provider_settings import OidcProviderSettings, check_mail_settings


class AuthSettings(BaseSettings):
    """Prefix `WIREROOM_AUTH_`. Lifetimes are in seconds."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_AUTH_", frozen=True, extra="ignore")

    open_registration: bool = Field(
        default=False, description="Let anyone register without a token, as Viewer of the tenant 'default'"
    )
    access_token_seconds: int = Field(default=1800, ge=60, le=1800, description="Lifetime of an access token")
    refresh_token_seconds: int = Field(
        default=30 * 86400, ge=3600, le=90 * 86400, description="Lifetime of a session: refreshing does not extend it"
    )
    refresh_grace_seconds: int = Field(
        default=10, ge=0, le=30, description="How long a spent refresh token is still answered with the same successor"
    )
    password_workers: int = Field(default=2, ge=1, le=16, description="Threads that hash and check passwords")
    password_queue: int = Field(
        default=64, ge=1, le=1024, description="Password checks that may wait for a thread; more are refused as unavailable"
    )
    argon2_memory_kib: int = Field(default=65536, ge=19456, le=1048576, description="Memory of one password hash, KiB")
    argon2_time_cost: int = Field(default=3, ge=2, le=16, description="Passes over the memory of one password hash")
    argon2_parallelism: int = Field(default=1, ge=1, le=8, description="Lanes of one password hash")
    login_failures_account: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Failed logins of one address before each further one costs a delay, from 1 s to 15 min",
    )
    login_failures_network: int = Field(
        default=20,
        ge=1,
        le=10_000,
        description="Failed logins from one IP address (IPv6: /64) before each further one costs a delay",
    )
    max_api_keys_per_user: int = Field(default=100, ge=1, le=10000, description="Live API keys that one user may hold")
    key_limit_ceiling: dict[str, int] = Field(
        default_factory=lambda: {"chat": 60, "api": 600, "news": 1200, "upload": 60, "auth": 60},
        description="Most requests per minute, by bucket, that users may give their own API keys; Admins may give more",
    )
    client_token_seconds: int = Field(
        default=900, ge=60, le=1800, description="Lifetime of an access token that an API key was exchanged for"
    )
    signing_key_days: int = Field(
        default=90, ge=1, le=3650, description="Age at which the key that signs access tokens is replaced"
    )
    max_roles_per_tenant: int = Field(default=100, ge=1, le=1000, description="Custom roles that one tenant may define")
    max_pending_invitations: int = Field(
        default=1000, ge=1, le=100_000, description="Invitations of one tenant that may wait to be accepted"
    )
    audit_verify_seconds: int = Field(
        default=86400, ge=60, le=30 * 86400, description="Pause between two unasked verifications of one audit chain"
    )
    erasure_deadline_hours: int = Field(
        default=72, ge=1, le=30 * 24, description="By when every service must have answered an erasure; later ones are overdue"
    )
    erasure_reminder_seconds: int = Field(
        default=600, ge=5, le=86400, description="How often a service that has not answered an erasure is asked again"
    )
    purge_interval_seconds: int = Field(default=300, ge=10, le=86400, description="Pause between removals of expired sessions")

    smtp_host: str = Field(
        default="", description="Mail server; empty: no mail is sent, and what needs mail answers `mail_not_configured`"
    )
    smtp_port: int = Field(default=587, ge=1, le=65535, description="Port of the mail server")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="`starttls` (a server without it gets nothing), `tls` (from the first byte, often port 465) or `none`",
    )
    smtp_username: str = Field(default="", description="User at the mail server; empty: no login")
    smtp_password: SecretStr = Field(default=SecretStr(""), description="Password at the mail server")
    smtp_from: str = Field(default="", description="Sender address of mails")
    smtp_ca_file: str = Field(
        default="", description="PEM file of authorities that the mail server's certificate may come from; default: the system's"
    )
    smtp_timeout_seconds: float = Field(default=20.0, ge=1, le=60, description="Longest wait for one answer of the mail server")
    mail_interval_seconds: float = Field(default=5.0, ge=0.05, le=300, description="Pause between looks for mails to send")
    mail_attempts: int = Field(default=12, ge=1, le=50, description="Tries before a mail is given up")
    oidc_providers: tuple[OidcProviderSettings, ...] = Field(
        default=(), description="Identity providers as a JSON array of objects; see the service's README for their members"
    )
    oidc_timeout_seconds: float = Field(
        default=5.0, ge=0.5, le=30, description="Longest wait for one answer of an identity provider"
    )

    @model_validator(mode="after")
    def _mail_is_whole(self) -> AuthSettings:
        check_mail_settings(host=self.smtp_host, sender=self.smtp_from, username=self.smtp_username, security=self.smtp_security)
        names = [provider.name for provider in self.oidc_providers]
        if len(set(names)) != len(names):
            raise ValueError("oidc_providers: two providers have the same name")
        return self
