"""Metrics of the chat service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from wireroom_chat.ports import Settlement


class ChatMetrics:
    """Labels are bounded: provider names come from settings, statuses and modes are closed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._completions = Counter(
            "wireroom_chat_completions_total", "Completions that ended.", ["provider", "status", "mode"], registry=registry
        )
        self._tokens = Counter(
            "wireroom_chat_tokens_total", "Tokens of completions.", ["provider", "direction"], registry=registry
        )
        self._first_token = Histogram(
            "wireroom_chat_first_token_seconds",
            "From the call to the first piece of the answer.",
            ["provider"],
            registry=registry,
        )

    def settled(self, settlement: Settlement) -> None:
        """Count a completion that ended."""
        provider = settlement.provider
        self._completions.labels(provider, settlement.status, settlement.answer_mode).inc()
        self._tokens.labels(provider, "in").inc(settlement.tokens_in)
        self._tokens.labels(provider, "out").inc(settlement.tokens_out)
        if settlement.status == "completed":
            self._first_token.labels(provider).observe(settlement.first_token_milliseconds / 1000)
