"""Settings of the monitoring service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MonitoringSettings(BaseSettings):
    """Prefix `WIREROOM_MONITORING_`."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_MONITORING_", frozen=True, extra="ignore")

    maintenance_interval_seconds: float = Field(
        3600, ge=1, le=86400, description="Seconds between two rounds of housekeeping (log partitions)"
    )
    partition_months_ahead: int = Field(2, ge=1, le=12, description="Months for which log partitions are made ahead of time")
