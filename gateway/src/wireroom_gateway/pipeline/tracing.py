"""One server span per request, child of the caller's if it sent a `traceparent`."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_gateway.request_state import method_label, request_state

_propagator = TraceContextTextMapPropagator()
_SERVER_ERROR = 500


class Tracing:
    """Spans are named by route template, never by path: paths hold ids."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer = trace.get_tracer("wireroom_gateway")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        parents = [value for name, value in scope["headers"] if name == b"traceparent"]
        carrier = {"traceparent": parents[-1].decode("latin-1")} if parents else None
        method = method_label(scope)
        with self._tracer.start_as_current_span(
            f"{method} {state.template}",
            context=_propagator.extract(carrier) if carrier else None,
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": state.template, "wireroom.request_id": state.request_id},
        ) as span:
            await self._app(scope, receive, send)
            span.set_attribute("http.response.status_code", state.status)
            if state.status >= _SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR, state.error_code))
