"""OpenTelemetry traces: one provider per process, exported over OTLP when an endpoint is set."""

from __future__ import annotations

import random
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_EXPORT_TIMEOUT_MS = 5_000


class Tracing(Protocol):
    """What the process has to end."""

    def shutdown(self) -> None:
        """Send what waits, and stop."""


def configure(
    *, service: str, version: str, endpoint: str, sample: float = 1.0, processor: SpanProcessor | None = None
) -> Tracing:
    """Make the process's tracer provider and install it.

    Without `endpoint` and `processor` nothing is recorded, but ids are still made, so that logs of one request share a trace id.
    """
    if not endpoint and processor is None:
        silent = SilentTracerProvider()
        trace.set_tracer_provider(silent)
        return silent
    # Loading the SDK and the exporter costs memory that most installations have no use for.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415 - see above

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"wireroom-{service}", "service.version": version}),
        sampler=ParentBasedTraceIdRatio(sample),
    )
    if processor is not None:
        provider.add_span_processor(processor)
    if endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_MS / 1000)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=4096, export_timeout_millis=_EXPORT_TIMEOUT_MS))
    trace.set_tracer_provider(provider)
    return provider


class SilentTracerProvider(trace.TracerProvider):
    """Spans that are ids and nothing else, as the SDK makes them with a sampler that drops everything, at a tenth of the cost."""

    def get_tracer(self, *_args: Any, **_kwargs: Any) -> trace.Tracer:
        return SilentTracer()

    def shutdown(self) -> None:
        """Nothing waits."""


class SilentTracer(trace.Tracer):
    """The trace id is the parent's or a new one; the span id is new; not sampled."""

    def start_span(self, name: str, context: otel_context.Context | None = None, *_args: Any, **_kwargs: Any) -> Span:
        del name
        parent = trace.get_current_span(context).get_span_context()
        span_id = random.getrandbits(64) or 1
        if parent.is_valid:
            return NonRecordingSpan(SpanContext(parent.trace_id, span_id, is_remote=False, trace_state=parent.trace_state))
        return NonRecordingSpan(SpanContext(random.getrandbits(128) or 1, span_id, is_remote=False))

    def start_as_current_span(  # type: ignore[override]  # a plain context manager and decorator instead of the library's own
        self, name: str, context: otel_context.Context | None = None, *_args: Any, **_kwargs: Any
    ) -> _Current:
        return _Current(self, name, context)


class _Current(ContextDecorator):
    def __init__(self, tracer: SilentTracer, name: str, context: otel_context.Context | None) -> None:
        self._tracer = tracer
        self._name = name
        self._context = context
        self._token: Any = None

    def _recreate_cm(self) -> _Current:
        return _Current(self._tracer, self._name, self._context)

    def __enter__(self) -> Span:
        span = self._tracer.start_span(self._name, self._context)
        self._token = otel_context.attach(trace.set_span_in_context(span))
        return span

    def __exit__(self, *_exc: object) -> None:
        otel_context.detach(self._token)
