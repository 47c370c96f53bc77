"""Composition root of the monitoring service."""

from __future__ import annotations

from wireroom_common.bus import Catalogue, Subscription
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_monitoring.erasure import BlankEvents, erasure
from wireroom_monitoring.event_log import Appender
from wireroom_monitoring.gateway_reports import GatewayReports
from wireroom_monitoring.maintenance import Maintenance
from wireroom_monitoring.rpc import EventLogServicer, MetricsServicer
from wireroom_monitoring.security import SecurityAlarm
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2_grpc

CONSUMER = "monitoring.log"
_LOOK_FOR_ERASURES_SECONDS = 2.0


def build(settings: MonitoringSettings, infra: Infra) -> Service:
    """The monitoring service."""
    database = infra.database("monitoring")
    catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
    appender = Appender(catalogue, infra.registry)
    reports = GatewayReports(database, infra.clock)
    maintenance = Maintenance(database, infra.clock, reports, settings)
    alarm = SecurityAlarm(database, infra.clock, settings)
    metrics = MetricsServicer(database, infra.clock, reports, security_threshold=settings.security_threshold)
    event_log = EventLogServicer(database, catalogue)
    return Service(
        name="monitoring",
        rpc=(
            lambda server: monitoring_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, server),
            lambda server: monitoring_pb2_grpc.add_EventLogServiceServicer_to_server(event_log, server),
        ),
        # As the system role: the log and the installation's counts belong to no single tenant.
        subscriptions=(Subscription(CONSUMER, work=appender.append, database=database, as_system=True), erasure(database)),
        periodic=(
            Periodic("monitoring.partitions", settings.maintenance_interval_seconds, maintenance.make_partitions),
            Periodic("monitoring.retention", settings.maintenance_interval_seconds, maintenance.retain),
            Periodic("monitoring.erasures", _LOOK_FOR_ERASURES_SECONDS, BlankEvents(database).run),
            Periodic("monitoring.security", settings.security_interval_seconds, alarm.run),
        ),
        checks={"database": database.ping},
        database=database,
    )
