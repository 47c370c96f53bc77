"""Probes, and the health of the whole suite."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Response

from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_gateway.access import Need, access
from wireroom_gateway.readiness import Readiness
from wireroom_gateway.routes.fields import Output
from wireroom_gateway.services import Services
from wireroom_protos.common.v1 import status_pb2

_STATUS_TIMEOUT = 2.0


class LiveOutput(Output):
    """The process answers."""

    status: str


class ReadyOutput(Output):
    """`ready` or `not_ready`, and the checks."""

    status: str
    checks: dict[str, str]


class CheckOutput(Output):
    """One check of a service."""

    name: str
    ok: bool
    milliseconds: float
    detail: str


class ServiceOutput(Output):
    """One service as it describes itself, or that it does not answer."""

    service: str
    reachable: bool
    ready: bool
    version: str
    uptime_seconds: float
    milliseconds: float
    detail: str
    checks: list[CheckOutput]


class DetailedOutput(Output):
    """`ok` when everything is ready, else `degraded`."""

    status: str
    gateway: ReadyOutput
    services: list[ServiceOutput]


def add_health_routes(api: FastAPI, services: Services, readiness: Readiness, clock: Clock) -> None:
    """`/health*`, `/ready`."""

    @api.get("/health/live", tags=["health"])
    @access(Need.NOTHING, bucket=None, any_host=True)
    async def live() -> LiveOutput:
        return LiveOutput(status="live")

    @access(Need.NOTHING, bucket=None, any_host=True)
    async def ready(response: Response) -> ReadyOutput:
        result = await _own(readiness)
        if result.status != "ready":
            response.status_code = 503
        return result

    for path in ("/health/ready", "/ready", "/health"):
        api.add_api_route(path, ready, methods=["GET"], tags=["health"])

    @api.get("/health/detailed", tags=["health"])
    @access("monitoring:read")
    async def detailed() -> DetailedOutput:
        own = await _own(readiness)
        found = await asyncio.gather(*(_ask(services, name, clock) for name in services.status))
        healthy = own.status == "ready" and all(entry.ready for entry in found)
        return DetailedOutput(status="ok" if healthy else "degraded", gateway=own, services=list(found))


async def _own(readiness: Readiness) -> ReadyOutput:
    ready, checks = await readiness.report()
    return ReadyOutput(status="ready" if ready else "not_ready", checks=checks)


async def _ask(services: Services, name: str, clock: Clock) -> ServiceOutput:
    start = clock.monotonic()
    try:
        answer = await services.status[name].GetStatus(status_pb2.GetStatusRequest(), timeout=_STATUS_TIMEOUT)
    except WireroomError as error:
        answer, detail = status_pb2.GetStatusResponse(), error.detail
    else:
        detail = ""
    return ServiceOutput(
        service=name,
        reachable=not detail,
        ready=answer.ready,
        version=answer.version,
        uptime_seconds=answer.uptime_seconds,
        milliseconds=(clock.monotonic() - start) * 1000,
        detail=detail,
        checks=[CheckOutput(name=c.name, ok=c.ok, milliseconds=c.milliseconds, detail=c.detail) for c in answer.checks],
    )
