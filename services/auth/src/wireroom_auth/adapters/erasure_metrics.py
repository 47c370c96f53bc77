"""Metrics of erasures."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from wireroom_auth.ports.erasures import OpenErasures


class ErasureMetrics:
    """Implements `ErasureCounts`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge(
            "wireroom_auth_erasures_open", "Erasures of users and tenants that are not completed.", registry=registry
        )
        self._overdue = Gauge(
            "wireroom_auth_erasures_overdue", "Erasures that are not completed and past their deadline.", registry=registry
        )

    def set(self, counts: OpenErasures) -> None:
        """The newest counts."""
        self._open.set(counts.open)
        self._overdue.set(counts.overdue)
