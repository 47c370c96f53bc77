"""Metrics of providers. Labels are bounded: names of configured providers, and closed lists."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from wireroom_chat.domain.routing import Circuit, Verdict


class ProviderMetrics:
    """Calls, circuits and configuration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "wireroom_chat_provider_observations_total",
            "What calls said about their provider: ok, failed, limited or refused.",
            ["provider", "verdict"],
            registry=registry,
        )
        self._turns = Counter(
            "wireroom_chat_provider_circuit_turns_total",
            "Circuits that opened or closed.",
            ["provider", "circuit"],
            registry=registry,
        )
        self._circuits = Gauge(
            "wireroom_chat_provider_circuits",
            "Candidates (model and key) by the state of their circuit.",
            ["provider", "circuit"],
            registry=registry,
        )
        self.shared = Gauge(
            "wireroom_chat_provider_health_shared",
            "1 while the replicas share what they know, 0 while each is alone.",
            registry=registry,
        )
        self.config_bad = Gauge(
            "wireroom_chat_provider_config_bad",
            "1 while the providers' configuration cannot be used as it is now.",
            registry=registry,
        )
        self.config_loads = Counter(
            "wireroom_chat_provider_config_loads_total",
            "Changes of the configuration: loaded or refused.",
            ["result"],
            registry=registry,
        )
        self._known: set[tuple[str, Circuit]] = set()

    def observed(self, provider: str, verdict: Verdict) -> None:
        """Count a call."""
        self._calls.labels(provider, verdict.value).inc()

    def turned(self, provider: str, circuit: Circuit) -> None:
        """Count a circuit that turned."""
        self._turns.labels(provider, circuit.value).inc()

    def circuits_are(self, counts: Mapping[tuple[str, Circuit], int]) -> None:
        """Set all counts; providers that are gone leave no series."""
        for provider, circuit in self._known - set(counts):
            self._circuits.remove(provider, circuit.value)
        for (provider, circuit), count in counts.items():
            self._circuits.labels(provider, circuit.value).set(count)
        self._known = set(counts)
