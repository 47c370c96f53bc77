"""Metrics of the chat service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wireroom_chat.ports.generations import Settlement


class ChatMetrics:
    """Labels are bounded: provider names come from settings, statuses and modes are closed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._completions = Counter(
            "wireroom_chat_completions_total", "Completions that ended.", ["provider", "status", "mode"], registry=registry
        )
        self._retrievals = Counter(
            "wireroom_chat_incomplete_retrievals_total",
            "Answers for which not all sources could be searched.",
            ["result"],
            registry=registry,
        )
        self._lookups = Counter("wireroom_chat_answer_cache_total", "Looks for kept answers.", ["result"], registry=registry)
        self._tokens = Counter(
            "wireroom_chat_tokens_total", "Tokens of completions.", ["provider", "direction"], registry=registry
        )
        self._first_token = Histogram(
            "wireroom_chat_first_token_seconds",
            "From the call to the first piece of the answer.",
            ["provider"],
            registry=registry,
        )

    def looked_up(self, result: str) -> None:
        """Count a look for a kept answer: "hit", "semantic" or "miss"."""
        self._lookups.labels(result).inc()

    def settled(self, settlement: Settlement) -> None:
        """Count a completion that ended."""
        provider = settlement.provider
        self._completions.labels(provider, settlement.status, settlement.answer_mode).inc()
        self._tokens.labels(provider, "in").inc(settlement.tokens_in)
        self._tokens.labels(provider, "out").inc(settlement.tokens_out)
        if settlement.retrieval:
            self._retrievals.labels(settlement.retrieval).inc()
        if settlement.status == "completed":
            self._first_token.labels(provider).observe(settlement.first_token_milliseconds / 1000)


class StreamMetrics:
    """What happens to streamed generations."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._live = Gauge("wireroom_chat_streams_live", "Streamed generations in this process.", registry=registry)
        self._unbuffered = Counter(
            "wireroom_chat_streams_unbuffered_total", "Streams that could not be kept for those who come back.", registry=registry
        )
        self._failures = Counter(
            "wireroom_chat_stream_buffer_failures_total", "Calls of the buffer of streams that failed.", registry=registry
        )
        self._taken_up = Counter(
            "wireroom_chat_streams_taken_up_total", "Streams taken over from a replica that was gone.", registry=registry
        )
        self._moved = Counter(
            "wireroom_chat_streams_moved_total", "Streams lost to another replica that took this one for gone.", registry=registry
        )

    def running(self, count: int) -> None:
        """How many there are now."""
        self._live.set(count)

    def unbuffered(self) -> None:
        """A stream cannot be resumed elsewhere."""
        self._unbuffered.inc()

    def buffer_failed(self) -> None:
        """A call failed."""
        self._failures.inc()

    def taken_up(self) -> None:
        """A stream was taken over."""
        self._taken_up.inc()

    def moved(self) -> None:
        """A stream was lost."""
        self._moved.inc()


class FeedbackMetrics:
    """What people think of answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._feedback = Counter("wireroom_chat_feedback_total", "Feedback on answers.", ["score"], registry=registry)

    def given(self, score: int) -> None:
        """-1 or 1."""
        self._feedback.labels("good" if score > 0 else "bad").inc()
