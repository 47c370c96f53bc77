"""OpenTelemetry traces: one provider per process, exported over OTLP when an endpoint is set."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio

_EXPORT_TIMEOUT_MS = 5_000


def configure(
    *, service: str, version: str, endpoint: str, sample: float = 1.0, processor: SpanProcessor | None = None
) -> TracerProvider:
    """Make the process's tracer provider and install it.

    Without `endpoint` and `processor` nothing is recorded, but ids are still made, so that logs of one request share a trace id.
    """
    exports = bool(endpoint) or processor is not None
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"wireroom-{service}", "service.version": version}),
        sampler=ParentBasedTraceIdRatio(sample) if exports else ALWAYS_OFF,
    )
    if processor is not None:
        provider.add_span_processor(processor)
    if endpoint:
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_MS / 1000)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=4096, export_timeout_millis=_EXPORT_TIMEOUT_MS))
    trace.set_tracer_provider(provider)
    return provider
