"""Composition root of the monitoring service."""

from __future__ import annotations

from wireroom_common.bus import Catalogue, Subscription
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_monitoring.event_log import Appender
from wireroom_monitoring.maintenance import Maintenance
from wireroom_monitoring.rpc import EventLogServicer, MetricsServicer
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2_grpc

CONSUMER = "monitoring.log"


def build(settings: MonitoringSettings, infra: Infra) -> Service:
    """The monitoring service."""
    database = infra.database("monitoring")
    catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
    appender = Appender(catalogue, infra.registry)
    maintenance = Maintenance(database, settings)
    metrics = MetricsServicer(database)
    event_log = EventLogServicer(database, catalogue)
    return Service(
        name="monitoring",
        rpc=(
            lambda server: monitoring_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, server),
            lambda server: monitoring_pb2_grpc.add_EventLogServiceServicer_to_server(event_log, server),
        ),
        # As the system role: the log and the installation's counts belong to no single tenant.
        subscriptions=(Subscription(CONSUMER, work=appender.append, database=database, as_system=True),),
        periodic=(Periodic("monitoring.partitions", settings.maintenance_interval_seconds, maintenance.make_partitions),),
        checks={"database": database.ping},
        # It has no events of its own to relay; with the database named, the runtime waits for it and its schema before it serves.
        database=database,
    )
