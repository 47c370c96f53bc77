"""Settings of a process, as opposed to those of a service: where the servers are and how the process behaves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _check_scheme(url: str, *schemes: str) -> None:
    """ValueError unless `url` begins with one of the schemes; without the URL, which may hold a password."""
    if not url.startswith(schemes):
        msg = f"must begin with {' or '.join(schemes)}"
        raise ValueError(msg)


class Environment(StrEnum):
    """What the installation is for. `production` refuses generated or weak secrets."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class LogFormat(StrEnum):
    """`auto` is pretty on a terminal and JSON otherwise."""

    AUTO = "auto"
    JSON = "json"
    PRETTY = "pretty"


class RuntimeSettings(BaseSettings):
    """Prefix `WIREROOM_`. URL schemes choose the kind of each server; nothing else in the code asks."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_", frozen=True, extra="ignore")

    environment: Environment = Field(Environment.DEVELOPMENT, description="development, staging or production")
    data_dir: Path = Field(Path(".data"), description="Folder for everything the process keeps: databases, files, generated keys")
    public_url: str = Field(
        "http://127.0.0.1:8000",
        description="The address under which clients reach the gateway; links in answers are built from it",
    )
    database_url: str = Field(
        "embedded:", description="`embedded:` or postgresql://host:port/name; services connect with roles of their own"
    )
    database_admin_url: SecretStr | None = Field(
        None, description="URL of an administrator, used by `wireroom migrate` to make roles and schemas"
    )
    database_password: SecretStr | None = Field(None, description="Password of this process's database roles")
    database_pool_size: int = Field(
        5, ge=1, le=20, description="Connections that each service keeps as its tenants' role; half as many as its own"
    )
    database_max_overflow: int = Field(5, ge=0, le=30, description="Further connections of each of the two roles under load")
    redis_url: SecretStr = Field(SecretStr("embedded:"), description="`embedded:`, redis://, rediss:// or unix://")
    bus_url: SecretStr = Field(SecretStr("local:"), description="`local:` (same process) or amqp://user:password@host:port/vhost")
    dead_letters_kept_days: int = Field(
        90,
        ge=1,
        le=3650,
        description="Days after which a dead delivery of the `local:` bus, or a parked event of an outbox, is deleted. RabbitMQ keeps dead"
        " letters up to the limit of its queues",
    )
    rpc_listen: str = Field("local:", description="`local:`, grpc://0.0.0.0:50051 or grpc:unix:/path")
    rpc_auth_url: str = Field("local:", description="Where the auth service is: `local:` or grpc://host:port")
    rpc_chat_url: str = Field("local:", description="Where the chat service is")
    rpc_news_url: str = Field("local:", description="Where the news service is")
    rpc_rag_url: str = Field("local:", description="Where the rag service is")
    rpc_monitoring_url: str = Field("local:", description="Where the monitoring service is")
    rpc_multiplexed: bool = Field(
        True,
        description="Calls to other processes share one stream per address where the peer knows how; false: each is a gRPC call of its"
        " own, as a proxy needs that balances calls",
    )
    principal_keys_dir: Path | None = Field(
        None, description="Folder with <role>.key and trusted.json (`wireroom keys`); default: made in the data directory"
    )
    master_secret: SecretStr | None = Field(
        None, description="At least 32 bytes; encrypts keys at rest. Default: made in the data directory"
    )
    master_secret_file: Path | None = Field(None, description="A file that holds the master secret")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto, json or pretty")
    otlp_endpoint: str = Field(
        "", description="OTLP/HTTP endpoint for traces, for example http://collector:4318/v1/traces; empty: not exported"
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port for /metrics of a process without HTTP of its own; 0: none")
    drain_delay: float = Field(0.0, ge=0, le=120, description="Seconds between 'not ready' and 'no new connections' at SIGTERM")
    drain_timeout: float = Field(
        20.0, ge=0, le=600, description="Seconds that running requests and streams get to finish at SIGTERM"
    )
    migrate_on_start: bool | None = Field(None, description="Migrate before serving; default: only with `embedded:`")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            msg = "must be DEBUG, INFO, WARNING or ERROR"
            raise ValueError(msg)
        return level

    @field_validator("bus_url")
    @classmethod
    def _known_bus(cls, value: SecretStr) -> SecretStr:
        _check_scheme(value.get_secret_value(), "local:", "amqp://", "amqps://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, value: SecretStr) -> SecretStr:
        _check_scheme(value.get_secret_value(), "embedded:", "redis://", "rediss://", "unix://")
        return value

    @field_validator(
        "database_url", "rpc_listen", "rpc_auth_url", "rpc_chat_url", "rpc_news_url", "rpc_rag_url", "rpc_monitoring_url"
    )
    @classmethod
    def _known_scheme(cls, value: str, info: ValidationInfo) -> str:
        schemes = (
            ("embedded:", "postgresql://")
            if info.field_name == "database_url"
            else ("local:", "grpc://", "grpc:ipv4:", "grpc:unix:/")
        )
        _check_scheme(value, *schemes)
        return value

    @property
    def migrates_on_start(self) -> bool:
        """Whether this process brings the schemas up to date before it serves."""
        return self.migrate_on_start if self.migrate_on_start is not None else self.database_url == "embedded:"

    def rpc_url(self, service: str) -> str:
        """Where `service` is reached."""
        url: str = getattr(self, f"rpc_{service}_url")
        return url
