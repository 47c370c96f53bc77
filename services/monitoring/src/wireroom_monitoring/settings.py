"""Settings of the monitoring service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MonitoringSettings(BaseSettings):
    """Prefix `WIREROOM_MONITORING_`."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_MONITORING_", frozen=True, extra="ignore")

    maintenance_interval_seconds: float = Field(
        3600, ge=1, le=86400, description="Seconds between two rounds of housekeeping (log partitions, retention)"
    )
    route_hours_kept_days: int = Field(
        90, ge=1, le=3650, description="Days for which request counts are kept by the hour; older ones are summed up"
    )
    security_days: int = Field(35, ge=8, le=3650, description="Days for which the security projection is kept")
    security_threshold: int = Field(70, ge=1, le=100, description="Security score below which an alarm is raised")
    security_margin: int = Field(5, ge=0, le=50, description="Points above the threshold at which the alarm is put back")
    security_interval_seconds: float = Field(60, ge=1, le=3600, description="Seconds between two looks at the security scores")
    partition_months_ahead: int = Field(2, ge=1, le=12, description="Months for which log partitions are made ahead of time")
