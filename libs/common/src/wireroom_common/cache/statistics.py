"""What the caches did: counted as plain numbers, shown to Prometheus and to whoever asks for a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# Also the values of the label `tier`.
MEMORY, REDIS, DURABLE = "memory", "redis", "database"
TIERS = (MEMORY, REDIS, DURABLE)


@dataclass(slots=True)
class TierCounts:
    """Looks in one tier, and bytes of the values given and taken by it."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(slots=True)
class Counts:
    """Of one namespace since the process began."""

    tiers: dict[str, TierCounts] = field(default_factory=lambda: {tier: TierCounts() for tier in TIERS})
    # Look-ups of a key as its caller sees them: in whichever tier.
    hits: int = 0
    misses: int = 0
    makes: int = 0
    waits: int = 0
    evictions: int = 0
    invalidations: int = 0
    errors: int = 0
    warmed: int = 0


@dataclass(frozen=True)
class Snapshot:
    """One namespace at one moment, in one process."""

    name: str
    entries: int
    bytes: int
    max_entries: int
    max_bytes: int
    tiers: dict[str, TierCounts]
    hits: int
    misses: int
    # Of 1; 0 before anything was asked.
    hit_ratio: float
    makes: int
    waits: int
    evictions: int
    invalidations: int
    errors: int
    warmed: int
    # Redis or the broadcast of invalidations is away.
    degraded: bool


class Source(Protocol):
    """What has snapshots."""

    def snapshot(self) -> list[Snapshot]:
        """One per namespace."""


class CacheCollector(Collector):
    """`wireroom_cache_*`; labels are namespaces, which are opened while the process is built, and tiers."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        yield from self._families(self._source.snapshot())

    def _families(self, snapshots: list[Snapshot]) -> list[Metric]:
        by_tier = ["namespace", "tier"]
        hits = CounterMetricFamily("wireroom_cache_hits", "Entries found, by tier.", labels=by_tier)
        misses = CounterMetricFamily("wireroom_cache_misses", "Entries looked for in vain, by tier.", labels=by_tier)
        read = CounterMetricFamily("wireroom_cache_read_bytes", "Bytes of values found, by tier.", labels=by_tier)
        written = CounterMetricFamily("wireroom_cache_written_bytes", "Bytes of values kept, by tier.", labels=by_tier)
        held = GaugeMetricFamily("wireroom_cache_bytes", "Bytes held in memory.", labels=by_tier)
        entries = GaugeMetricFamily("wireroom_cache_entries", "Entries held in memory.", labels=by_tier)
        evictions = CounterMetricFamily("wireroom_cache_evictions", "Entries that went for want of room.", labels=by_tier)
        looks = CounterMetricFamily("wireroom_cache_lookups", "Look-ups in all tiers together.", labels=["namespace", "result"])
        makes = CounterMetricFamily("wireroom_cache_makes", "Values made because none was kept.", labels=["namespace"])
        waits = CounterMetricFamily("wireroom_cache_waits", "Callers that waited for another's value.", labels=["namespace"])
        dropped = CounterMetricFamily("wireroom_cache_invalidations", "Invalidations of tags and keys.", labels=["namespace"])
        errors = CounterMetricFamily("wireroom_cache_errors", "Calls of Redis or the database that failed.", labels=["namespace"])
        warmed = CounterMetricFamily("wireroom_cache_warmed", "Entries loaded before they were asked for.", labels=["namespace"])
        degraded = GaugeMetricFamily(
            "wireroom_cache_degraded", "1 while Redis or the broadcast of invalidations is away.", labels=["namespace"]
        )
        for one in snapshots:
            for tier, counts in one.tiers.items():
                hits.add_metric([one.name, tier], counts.hits)
                misses.add_metric([one.name, tier], counts.misses)
                read.add_metric([one.name, tier], counts.bytes_read)
                written.add_metric([one.name, tier], counts.bytes_written)
            held.add_metric([one.name, MEMORY], one.bytes)
            entries.add_metric([one.name, MEMORY], one.entries)
            evictions.add_metric([one.name, MEMORY], one.evictions)
            looks.add_metric([one.name, "hit"], one.hits)
            looks.add_metric([one.name, "miss"], one.misses)
            for family, value in (
                (makes, one.makes),
                (waits, one.waits),
                (dropped, one.invalidations),
                (errors, one.errors),
                (warmed, one.warmed),
                (degraded, float(one.degraded)),
            ):
                family.add_metric([one.name], value)
        return [
            hits,
            misses,
            read,
            written,
            held,
            entries,
            evictions,
            looks,
            makes,
            waits,
            dropped,
            errors,
            warmed,
            degraded,
        ]
