"""The security score."""

from __future__ import annotations

from datetime import datetime

from fastapi import FastAPI

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.monitoring.v1 import monitoring_pb2


class ScorePartOutput(Output):
    """Points that one rule took away, and how often what it counts was seen in the last 24 hours."""

    name: str
    points: int
    count: int


class HourLoginsOutput(Output):
    """Logins of one hour."""

    hour: datetime | None
    failed: int
    succeeded: int


class LoginsOutput(Output):
    """Logins of the last 24 hours; more failures than `failures_expected` cost points."""

    failed: int
    succeeded: int
    failures_expected: int
    failed_accounts: int
    failed_addresses: int
    failed_by_reason: dict[str, int]
    by_hour: list[HourLoginsOutput]


class SecurityOutput(Output):
    """100 less the points of all parts; `low` below the threshold."""

    score: int
    threshold: int
    low: bool
    parts: list[ScorePartOutput]
    addresses_blocked: int
    threats: int
    logins: LoginsOutput


def add_security_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/monitoring/security/monitoring`."""

    @api.get("/api/v1/monitoring/security/monitoring", tags=["monitoring"], responses=problem_responses())
    @access("security:read")
    async def get_security() -> SecurityOutput:
        answer = await services.metrics.GetSecurity(monitoring_pb2.GetSecurityRequest(), timeout=timeout)
        return SecurityOutput(
            score=answer.score,
            threshold=answer.threshold,
            low=answer.score < answer.threshold,
            parts=[ScorePartOutput(name=part.name, points=part.points, count=part.count) for part in answer.parts],
            addresses_blocked=answer.addresses_blocked,
            threats=answer.threats,
            logins=LoginsOutput(
                failed=answer.logins_failed,
                succeeded=answer.logins_succeeded,
                failures_expected=answer.failures_expected,
                failed_accounts=answer.failed_accounts,
                failed_addresses=answer.failed_addresses,
                failed_by_reason={entry.reason: entry.count for entry in answer.failed_by_reason},
                by_hour=[
                    HourLoginsOutput(hour=moment(entry, "hour"), failed=entry.failed, succeeded=entry.succeeded)
                    for entry in answer.by_hour
                ],
            ),
        )
