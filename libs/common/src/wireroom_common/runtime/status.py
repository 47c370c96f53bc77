"""The StatusService that every process serves: its checks with their details."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import grpc.aio

from wireroom_common.runtime.health import Health
from wireroom_protos.common.v1 import status_pb2, status_pb2_grpc


class _Status(status_pb2_grpc.StatusServiceServicer):
    def __init__(self, health: Health) -> None:
        self._health = health

    async def GetStatus(  # noqa: N802 - the name is the rpc's
        self, _request: status_pb2.GetStatusRequest, _context: object
    ) -> status_pb2.GetStatusResponse:
        results = await self._health.results()
        return status_pb2.GetStatusResponse(
            service=self._health.service,
            version=package_version(),
            ready=await self._health.ready(),
            uptime_seconds=self._health.uptime(),
            checks=[
                status_pb2.CheckResult(name=item.name, ok=item.ok, milliseconds=item.milliseconds, detail=item.detail)
                for item in results
            ],
        )


def register_status(server: grpc.aio.Server, health: Health) -> None:
    """Serve the checks of `health`."""
    status_pb2_grpc.add_StatusServiceServicer_to_server(_Status(health), server)


def package_version() -> str:
    """The version of this code."""
    try:
        return version("wireroom-common")
    except PackageNotFoundError:
        return "unknown"
