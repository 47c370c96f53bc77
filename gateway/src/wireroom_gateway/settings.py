"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_common.runtime.http_limits import TrustedProxies
from wireroom_common.setting_types import TextList
from wireroom_gateway.client_address import ForwardedHeader
from wireroom_gateway.limits.policy import MAX_QUOTA, PolicyTable, default_table, policy_table
from wireroom_gateway.limits.policy_file import read_policy


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
    cors_plain_http: bool = Field(
        False, description="Let cors_origins name unencrypted origins of other machines; for development in a trusted network"
    )
    trusted_proxies: TextList = Field(
        (), description="Addresses and networks whose forwarding headers are believed, for example 10.0.0.0/8; none by default"
    )
    forwarded_header: ForwardedHeader = Field(
        ForwardedHeader.X_FORWARDED_FOR,
        description="The header that the trusted proxies write, x-forwarded-for or forwarded; the other one is ignored",
    )
    proxy_protocol: bool = Field(
        False,
        description="Every connection begins with a PROXY protocol header (version 1 or 2); needs trusted_proxies, others are refused",
    )
    max_header_bytes: int = Field(32_768, ge=4_096, le=1_048_576, description="Largest head of a request without its first line")
    max_header_fields: int = Field(100, ge=20, le=1_000, description="Most header fields of a request")
    max_target_bytes: int = Field(8_192, ge=1_024, le=65_536, description="Longest address of a request, its query included")
    head_seconds: float = Field(10.0, ge=0.1, le=120, description="Seconds for the head of a request to arrive")
    idle_seconds: float = Field(30.0, ge=1, le=600, description="Seconds that a connection is kept between two requests")
    min_bytes_per_second: int = Field(
        1_024, ge=1, le=1_000_000, description="Slowest rate of a request's body and of the reader of an answer"
    )
    slow_body_seconds: float = Field(10.0, ge=0.1, le=600, description="Seconds that a request's body may stand still")
    slow_reader_seconds: float = Field(30.0, ge=0.1, le=600, description="Seconds that the reader of an answer may stand still")
    max_connections: int = Field(10_000, ge=10, le=1_000_000, description="Most open connections of this process")
    max_connections_per_client: int = Field(
        2_000, ge=1, le=1_000_000, description="Most open connections of one IPv4 address or IPv6 /64; trusted proxies are exempt"
    )
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
    limits_file: Path | None = Field(
        None,
        description="YAML file with the limits, exceptions for tenants and keys, and the rules of blocks; followed while running",
    )
    chat_rate_limit: int | None = Field(
        None,
        ge=1,
        le=MAX_QUOTA,
        validation_alias=AliasChoices("wireroom_gateway_chat_rate_limit", "chat_rate_limit"),
        description="Chat requests per minute and address, without sign-in; also read as CHAT_RATE_LIMIT",
    )
    rate_limit_requests: int | None = Field(
        None,
        ge=1,
        le=MAX_QUOTA,
        validation_alias=AliasChoices("wireroom_gateway_rate_limit_requests", "rate_limit_requests"),
        description="API requests per window and address, without sign-in; also read as RATE_LIMIT_REQUESTS",
    )
    rate_limit_window: int | None = Field(
        None,
        ge=1,
        le=86_400,
        validation_alias=AliasChoices("wireroom_gateway_rate_limit_window", "rate_limit_window"),
        description="Seconds of that window, 60 if not set; also read as RATE_LIMIT_WINDOW",
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
    tool_timeout: float = Field(15.0, gt=0, le=120, description="Seconds for a tool that is called without a model")
    oidc_timeout: float = Field(20.0, gt=0, le=120, description="Seconds for a step of a login at an identity provider")
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

    max_websockets: int = Field(20_000, ge=1, le=1_000_000, description="Most open WebSockets of this process")
    max_websockets_per_user: int = Field(100, ge=1, le=1_000_000, description="Most open WebSockets of one user")
    max_websocket_bytes: int = Field(65_536, ge=1_024, le=16_777_216, description="Largest message of a WebSocket's client")
    websocket_ping_seconds: float = Field(
        20.0, ge=0.1, le=300, description="Seconds between two pings of a WebSocket; the answer may take as long"
    )
    websocket_ticket_seconds: float = Field(30.0, ge=1, le=300, description="How long a ticket for a WebSocket is good")
    websocket_ticket_binds_address: bool = Field(
        False, description="A ticket is good only from the address that got it; not where clients use IPv4 and IPv6 in turns"
    )

    metrics_token: SecretStr | None = Field(
        None, description="Bearer token for /metrics; without one only callers on this machine may read it"
    )

    idempotency_seconds: float = Field(
        86_400.0,
        ge=60,
        le=7 * 86_400,
        description="How long answers are kept for repeated requests with the same Idempotency-Key",
    )
    idempotency_lease_seconds: float = Field(
        15.0, ge=0.3, le=300, description="How long a request of a gateway that died counts as in progress"
    )
    threat_report_score: int = Field(40, ge=1, le=100, description="Points from which a request is reported as a threat")
    threat_block_score: int = Field(
        0, ge=0, le=100, description="Points from which a request is refused, except for prompts; 0 refuses none"
    )
    report_seconds: float = Field(5.0, ge=0.1, le=300, description="Seconds between two reports to monitoring")
    request_sample_rate: float = Field(
        0.01, ge=0, le=1, description="Share of the requests reported singly, 0 to 1; those that failed with a 5xx always are"
    )

    def limit_table(self) -> PolicyTable:
        """The limits that the single settings make up; the file, if there is one, comes on top."""
        return policy_table(
            self.limit_overrides,
            chat_per_address=self.chat_rate_limit,
            api_per_address=self.rate_limit_requests,
            api_window=self.rate_limit_window,
        )

    @model_validator(mode="after")
    def _proxies_are_usable(self) -> GatewaySettings:
        try:
            trusted = TrustedProxies(self.trusted_proxies)
        except ValueError as error:
            msg = f"trusted_proxies: {error}; write addresses and networks such as 10.0.0.0/8"
            raise ValueError(msg) from None
        if self.proxy_protocol and not trusted:
            msg = "proxy_protocol: name the proxies in trusted_proxies; from nobody else it is accepted"
            raise ValueError(msg)
        return self

    @field_validator("limit_overrides")
    @classmethod
    def _overrides_are_usable(cls, value: dict[str, int]) -> dict[str, int]:
        policy_table(value)
        return value

    @field_validator("limits_file")
    @classmethod
    def _file_is_usable(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_policy(value, default_table())
        return value
