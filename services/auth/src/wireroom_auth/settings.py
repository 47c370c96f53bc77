"""Settings of the auth service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    max_api_keys_per_user: int = Field(default=100, ge=1, le=10000, description="Live API keys that one user may hold")
    purge_interval_seconds: int = Field(default=300, ge=10, le=86400, description="Pause between removals of expired sessions")
