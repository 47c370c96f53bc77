"""The pipeline: plain ASGI classes, one concern each. `ORDER` is the one place that says how they are stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from wireroom_gateway.pipeline.access_log import AccessLog
from wireroom_gateway.pipeline.authentication import Authentication
from wireroom_gateway.pipeline.blocked_addresses import BlockedAddresses
from wireroom_gateway.pipeline.body_limit import BodyLimit
from wireroom_gateway.pipeline.compression import Compression
from wireroom_gateway.pipeline.cors import Cors
from wireroom_gateway.pipeline.errors import Errors
from wireroom_gateway.pipeline.hosts import Hosts
from wireroom_gateway.pipeline.idempotency import Idempotency
from wireroom_gateway.pipeline.measurement import Measurement
from wireroom_gateway.pipeline.permissions import Permissions
from wireroom_gateway.pipeline.rate_limits import RateLimits
from wireroom_gateway.pipeline.refusals import Refusals
from wireroom_gateway.pipeline.request_id import RequestId
from wireroom_gateway.pipeline.security_headers import SecurityHeaders
from wireroom_gateway.pipeline.threats import Threats
from wireroom_gateway.pipeline.tracing import Tracing
from wireroom_gateway.pipeline.unread_body import UnreadBody

# Outermost first. What follows `Errors` may raise; what stands before it sees every answer, refusals included.
ORDER: tuple[type[Any], ...] = (
    UnreadBody,
    RequestId,
    Tracing,
    AccessLog,
    Measurement,
    SecurityHeaders,
    Compression,
    Cors,
    Errors,
    Refusals,
    BlockedAddresses,
    Hosts,
    BodyLimit,
    Authentication,
    RateLimits,
    Threats,
    Permissions,
    Idempotency,
)


def assemble(app: ASGIApp, options: Mapping[type[Any], Mapping[str, Any]]) -> ASGIApp:
    """`app` inside the whole pipeline; `options` are the keyword arguments of each stage."""
    unknown = set(options) - set(ORDER)
    if unknown:
        raise ValueError(f"not stages of the pipeline: {unknown}")
    for stage in reversed(ORDER):
        app = stage(app, **options.get(stage, {}))
    return app
