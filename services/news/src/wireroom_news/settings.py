"""Settings of the news service."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_common.setting_types import TextList
from wireroom_news.domain.addresses import AddressPolicy


class NewsSettings(BaseSettings):
    """Read from `WIREROOM_NEWS_*`. Lists are written with commas or as JSON."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_NEWS_", frozen=True, extra="ignore")

    allowed_private_hosts: TextList = Field(
        default=(),
        description="Hosts (`name`, `name:port`) or networks (CIDR) that feeds may be fetched from although they are not public.",
    )
    denied_networks: TextList = Field(
        default=(), description="Networks (CIDR) refused besides the built-in list, for example the cluster's pods and services."
    )
    default_interval_seconds: int = Field(default=300, ge=1, le=604_800, description="Seconds between two fetches of a feed.")
    min_interval_seconds: int = Field(default=10, ge=1, le=86_400, description="The shortest interval a caller may ask for.")
    max_feeds_per_tenant: int = Field(default=1000, ge=1, le=100_000, description="Feeds a tenant may have.")
    fetch_concurrency: int = Field(default=8, ge=1, le=256, description="Scheduled fetches at the same time, per process.")
    host_gap_seconds: float = Field(default=1.0, ge=0, le=60, description="Least time between two requests to one public host.")
    fetch_timeout_seconds: float = Field(
        default=30.0, gt=0, le=120, description="Longest time for one fetch, redirects included."
    )
    connect_timeout_seconds: float = Field(default=10.0, gt=0, le=60, description="Longest time to open a connection.")
    max_feed_bytes: int = Field(default=5_000_000, ge=1_000, le=100_000_000, description="Largest feed, after decompression.")
    max_redirects: int = Field(default=5, ge=0, le=10, description="Redirects followed in one fetch.")
    parse_timeout_seconds: float = Field(default=10.0, gt=0, le=120, description="Longest time to read one document.")
    parse_memory_bytes: int = Field(
        default=1_000_000_000, ge=200_000_000, le=8_000_000_000, description="Address space of the parser process."
    )
    parse_idle_seconds: float = Field(default=60.0, gt=0, le=3600, description="Idle time after which the parser process ends.")
    lease_seconds: float = Field(
        default=120.0, ge=1, le=3600, description="How long a due feed belongs to the process that took it."
    )
    fetches_kept: int = Field(default=50, ge=1, le=1000, description="Fetch records kept per feed.")
    versions_kept: int = Field(default=50, ge=2, le=1000, description="Versions kept per article.")
    list_cache_seconds: float = Field(
        default=1800.0,
        ge=0,
        le=86_400,
        description="How long lists and searches of articles are kept, unless articles change before; 0 keeps none. Needs Redis.",
    )
    user_agent: str = Field(
        default="Wireroom/0.1 (feed reader)", min_length=1, max_length=200, description="Name given to the feeds' servers."
    )

    @field_validator("allowed_private_hosts")
    @classmethod
    def _readable_exceptions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressPolicy(value)
        return value

    @field_validator("denied_networks")
    @classmethod
    def _readable_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressPolicy((), value)
        return value
