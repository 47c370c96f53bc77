from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import grpc.aio
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from wireroom_common.bus import Catalogue, Envelope, event_type
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_common.runtime.service import Infra, Service
from wireroom_monitoring.app import build
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2

ALPHA = UUID("0190a000-0000-7000-8000-00000000000a")


@dataclass
class DatabaseOnly:
    """The part of `Infra` that the service uses."""

    held: Database
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    clock: SystemClock = field(default_factory=SystemClock)

    def database(self, service: str) -> Database:
        assert service == "monitoring"
        return self.held


class Methods:
    """Collects what `add_<Service>Servicer_to_server` registers; a call passes through the method's wire format."""

    def __init__(self, service: Service) -> None:
        self._methods: dict[str, Any] = {}
        for register in service.rpc:
            register(cast("grpc.aio.Server", self))

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        del handlers

    def add_registered_method_handlers(self, service_name: str, handlers: dict[str, Any]) -> None:
        self._methods.update({f"{service_name.rpartition('.')[2]}/{name}": handler for name, handler in handlers.items()})

    async def call(self, method: str, request: Message) -> Any:
        handler = self._methods[method]
        return await handler.unary_unary(handler.request_deserializer(request.SerializeToString()), None)


@dataclass
class Monitoring:
    """The built service over a real database."""

    service: Service
    database: Database
    owner_url: str
    deliverer: Deliverer
    methods: Methods

    async def deliver(self, envelope: Envelope, *, consumer: str = "monitoring.log") -> None:
        subscription = next(entry for entry in self.service.subscriptions if entry.consumer == consumer)
        await self.deliverer.work(subscription, envelope)

    async def stats(self, tenant: UUID | None, *roles: str) -> monitoring_pb2.GetStatsResponse:
        with self.acting(tenant, *roles):
            return await self.methods.call("MetricsService/GetStats", monitoring_pb2.GetStatsRequest())

    async def read(
        self, tenant: UUID | None, *roles: str, after: int = 0, size: int = 0, kind: str = ""
    ) -> monitoring_pb2.ReadEventsResponse:
        request = monitoring_pb2.ReadEventsRequest(after_offset=after, page_size=size, type=kind)
        with self.acting(tenant, *roles):
            return await self.methods.call("EventLogService/ReadEvents", request)

    async def run_periodic(self, name: str) -> None:
        (run,) = [periodic.run for periodic in self.service.periodic if periodic.name == name]
        await run()

    @staticmethod
    def event(payload: Message, tenant: UUID | None = ALPHA, **changes: Any) -> Envelope:
        envelope = Envelope(
            id=new_id(),
            source="wireroom/test",
            type=event_type(payload),
            time=datetime.now(UTC),
            subject="subject",
            data=payload.SerializeToString(),
            tenant_id=tenant,
        )
        return replace(envelope, **changes)

    @staticmethod
    @contextmanager
    def acting(tenant: UUID | None, *roles: str, permissions: tuple[str, ...] = ("monitoring:read",)) -> Iterator[None]:
        set_current_principal(
            Principal(PrincipalKind.USER, str(new_id()), tenant, roles=frozenset(roles), permissions=frozenset(permissions))
        )
        try:
            yield
        finally:
            set_current_principal(None)

    def as_owner(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.owner_url, autocommit=True, options="-c timezone=UTC")


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_files(events_pb2.DESCRIPTOR)


@pytest_asyncio.fixture
async def monitoring(
    migrated_database: Callable[[str], Awaitable[Database]], fresh_database_url: str, catalogue: Catalogue
) -> AsyncIterator[Monitoring]:
    database = await migrated_database("monitoring")
    service = build(MonitoringSettings(), cast("Infra", DatabaseOnly(database)))
    deliverer = Deliverer(catalogue, BusMetrics(CollectorRegistry()), SystemClock(), tracer_provider=TracerProvider())
    owner = DatabaseUrl.parse(fresh_database_url).as_role("monitoring_owner").set(drivername="postgresql")
    await database.refuse_dangerous_role()
    yield Monitoring(
        service,
        database,
        owner.render_as_string(hide_password=False),
        deliverer,
        Methods(service),
    )
