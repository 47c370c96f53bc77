"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_common.setting_types import TextList


class GatewaySettings(BaseSettings):
    """Prefix `WIREROOM_GATEWAY_`. Lists are written with commas or as JSON."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_GATEWAY_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    tls_port: int = Field(8443, ge=0, le=65535, description="HTTPS port; 0 switches HTTPS off")
    tls_cert: str = Field("", description="PEM file with the certificate chain; empty: a self-signed one is made at first start")
    tls_key: str = Field("", description="PEM file with the certificate's key")
    allowed_hosts: TextList = Field(
        ("localhost", "127.0.0.1", "[::1]"),
        description="Host names that requests may be addressed to; `*.example.com` for all below a name, `*` for any",
    )
    cors_origins: TextList = Field((), description="Exact origins that browsers may call from; none by default")
    legacy_xss_protection: bool = Field(False, description="Send `X-XSS-Protection: 1; mode=block` instead of `0`")

    max_json_bytes: int = Field(1_000_000, ge=1_000, le=100_000_000, description="Largest JSON body")
    max_chat_bytes: int = Field(20_000_000, ge=1_000, le=100_000_000, description="Largest body of a chat completion request")
    max_upload_bytes: int = Field(25_000_000, ge=1_000, le=1_000_000_000, description="Largest uploaded file")

    token_issuer: str = Field("wireroom", description="Expected `iss` of access tokens")
    token_audience: str = Field("wireroom", description="Expected `aud` of access tokens")
    token_leeway: float = Field(60.0, ge=0, le=120, description="Seconds of clock skew tolerated in `exp` and `nbf`")
    access_token_lifetime: float = Field(
        1800.0, ge=60, le=86_400, description="Longest life of an access token in seconds; revocations are remembered that long"
    )
    token_cache_size: int = Field(10_000, ge=0, le=1_000_000, description="Verified access tokens kept in memory")
    revocation_map_size: int = Field(100_000, ge=1_000, le=10_000_000, description="Revoked sessions and keys kept in memory")
    key_cache_size: int = Field(10_000, ge=0, le=1_000_000, description="Verified API keys kept in memory")
    key_cache_seconds: float = Field(
        30.0, ge=0, le=30, description="How long a verified API key is believed without asking again"
    )
    key_cache_negative_seconds: float = Field(5.0, ge=0, le=30, description="How long a refused API key stays refused")

    limits_enabled: bool = Field(True, description="Rate limits on or off")
    limit_overrides: dict[str, int] = Field(
        default_factory=dict,
        description='Requests per minute by `bucket.scope`, for example {"chat.ip": 20}; 0 removes the limit',
    )
    known_replicas: int = Field(
        1, ge=1, le=1_000, description="Gateway replicas; limits are divided by it while the shared counter store is away"
    )
    limit_store_timeout: float = Field(
        1.0,
        gt=0,
        le=5,
        description="Seconds to wait for the shared counter store; too few, and a burst of requests looks like an outage",
    )

    rpc_timeout: float = Field(10.0, gt=0, le=120, description="Seconds for a call to a service")
    upload_timeout: float = Field(120.0, gt=0, le=3_600, description="Seconds for an upload as a whole")
    feed_timeout: float = Field(
        40.0, gt=0, le=300, description="Seconds for adding or refreshing a feed (it is fetched meanwhile)"
    )
    chat_timeout: float = Field(600.0, gt=0, le=3_600, description="Seconds for a chat completion as a whole")
    keepalive_seconds: float = Field(
        15.0, gt=0, le=60, description="Seconds of silence in an event stream before a comment is sent"
    )
    stream_headers_seconds: float = Field(
        10.0, gt=0, le=60, description="Longest wait for an answer to begin before a stream's headers are sent"
    )

    metrics_token: SecretStr | None = Field(
        None, description="Bearer token for /metrics; without one only callers on this machine may read it"
    )
