"""What deletion and retention leave to be seen from outside."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class LifecycleMetrics:
    """Implements `OrphanCount`; labels come from closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._orphans = Gauge(
            "wireroom_rag_orphans",
            "Left-overs at the last sweep: documents whose deletion is not complete, files without a document,"
            " vectors without a chunk.",
            ["kind"],
            registry=registry,
        )
        self._ended = Counter(
            "wireroom_rag_retention_ended_total",
            "What retention removed: versions, documents, collections, articles.",
            ["kind"],
            registry=registry,
        )
        for kind in ("document", "file", "vector"):
            self._orphans.labels(kind).set(0)

    def left(self, kind: str, count: int) -> None:
        """So many of this kind are left over now."""
        self._orphans.labels(kind).set(count)

    def ended(self, kind: str, count: int) -> None:
        """Retention removed so many of this kind."""
        self._ended.labels(kind).inc(count)
