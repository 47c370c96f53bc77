"""The composition root of the gateway."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp

from wireroom_common.bus import Subscription
from wireroom_common.runtime.service import HttpApp, Infra, Periodic, Service
from wireroom_gateway.access import Body, RouteTable
from wireroom_gateway.documentation import Documentation
from wireroom_gateway.identity.api_keys import ApiKeyVerifier
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.identity.resync import TICK_SECONDS, Resynchroniser
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import TokenVerifier
from wireroom_gateway.limits.limiter import Limiter
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.policy import policy_table
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.pipeline import assemble
from wireroom_gateway.pipeline.access_log import AccessLog
from wireroom_gateway.pipeline.authentication import Authentication
from wireroom_gateway.pipeline.body_limit import MULTIPART_OVERHEAD, BodyLimit
from wireroom_gateway.pipeline.cors import Cors
from wireroom_gateway.pipeline.hosts import Hosts
from wireroom_gateway.pipeline.measurement import Measurement
from wireroom_gateway.pipeline.rate_limits import RateLimits
from wireroom_gateway.pipeline.request_id import RequestId
from wireroom_gateway.pipeline.security_headers import SecurityHeaders
from wireroom_gateway.readiness import Readiness
from wireroom_gateway.routes.application import new_application
from wireroom_gateway.routes.auth import add_auth_routes
from wireroom_gateway.routes.documents import add_document_routes
from wireroom_gateway.routes.health import add_health_routes
from wireroom_gateway.routes.meta import add_meta_routes
from wireroom_gateway.routes.monitoring import add_monitoring_routes
from wireroom_gateway.routes.news import add_news_routes
from wireroom_gateway.routes.openai import completions
from wireroom_gateway.routes.openai.models import add_model_routes
from wireroom_gateway.services import Services, connect
from wireroom_gateway.settings import GatewaySettings

_BROADCASTS = frozenset({"auth.session.revoked", "auth.apikey.revoked"})


def build(settings: GatewaySettings, infra: Infra) -> Service:
    """The gateway: HTTP in front, stubs behind."""
    services = connect(infra.channel)
    metrics = GatewayMetrics(infra.registry)
    keys = JwksCache(services, infra.clock)
    revocations = Revocations(
        services,
        infra.clock,
        remember_seconds=settings.access_token_lifetime + 2 * settings.token_leeway,
        max_entries=settings.revocation_map_size,
    )
    resynchroniser = Resynchroniser(keys, revocations, infra.clock)
    limiter = _limiter(settings, infra, metrics) if settings.limits_enabled else None
    checks = {"auth": resynchroniser.check}
    readiness = Readiness(
        checks,
        degraded=lambda: ["shared_limits"] if limiter is not None and limiter.degraded else [],
        draining=infra.draining,
    )
    api = application(settings, infra, services, keys, readiness)
    table = RouteTable(api.router.routes)
    app: ASGIApp = assemble(
        api,
        {
            RequestId: {"table": table},
            AccessLog: {"clock": infra.clock},
            Measurement: {"metrics": metrics, "clock": infra.clock},
            SecurityHeaders: {"legacy_xss_protection": settings.legacy_xss_protection},
            Cors: {"origins": settings.cors_origins},
            Hosts: {"allowed": settings.allowed_hosts},
            BodyLimit: {
                "limits": {
                    Body.JSON: settings.max_json_bytes,
                    Body.CHAT: settings.max_chat_bytes,
                    Body.UPLOAD: settings.max_upload_bytes + MULTIPART_OVERHEAD,
                }
            },
            Authentication: {**_verifiers(settings, infra, services, keys, revocations), "metrics": metrics},
            RateLimits: {"limiter": limiter, "metrics": metrics},
        },
    )
    return Service(
        name="gateway",
        http=HttpApp(app, settings.host, settings.port, settings.tls_port, settings.tls_cert, settings.tls_key),
        subscriptions=[Subscription("gateway.revocations", broadcast=revocations.on_event, types=_BROADCASTS)],
        # The first run must not hold up the start: `auth` may come later.
        periodic=[Periodic("gateway.resync", TICK_SECONDS, resynchroniser.run)],
        checks=checks,
    )


def _limiter(settings: GatewaySettings, infra: Infra, metrics: GatewayMetrics) -> Limiter:
    return Limiter(
        policy_table(settings.limit_overrides),
        RedisCounterStore(infra.redis()),
        MemoryCounterStore(infra.clock, share=settings.known_replicas),
        infra.clock,
        metrics,
        timeout=settings.limit_store_timeout,
    )


def _verifiers(
    settings: GatewaySettings, infra: Infra, services: Services, keys: JwksCache, revocations: Revocations
) -> dict[str, Any]:
    return {
        "tokens": TokenVerifier(
            keys,
            revocations,
            infra.clock,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            leeway=settings.token_leeway,
            cache_size=settings.token_cache_size,
        ),
        "keys": ApiKeyVerifier(
            services,
            revocations,
            infra.clock,
            cache_size=settings.key_cache_size,
            good_seconds=settings.key_cache_seconds,
            bad_seconds=settings.key_cache_negative_seconds,
            timeout=settings.rpc_timeout,
        ),
    }


def application(settings: GatewaySettings, infra: Infra, services: Services, keys: JwksCache, readiness: Readiness) -> FastAPI:
    """The routes, each with its access declaration; without the pipeline around them."""
    release = version("wireroom-gateway")
    api = new_application(release)
    chat = completions.ChatCompletions(
        services.inference,
        timeout=settings.chat_timeout,
        keepalive=settings.keepalive_seconds,
        stream_headers=settings.stream_headers_seconds,
    )
    # First, because routes are tried in order.
    api.router.routes.append(Route(completions.PATH, chat, methods=["POST"]))
    add_model_routes(api, services, timeout=settings.rpc_timeout)
    add_document_routes(
        api,
        services,
        timeout=settings.rpc_timeout,
        upload_timeout=settings.upload_timeout,
        max_upload_bytes=settings.max_upload_bytes,
    )
    add_news_routes(api, services, timeout=settings.rpc_timeout, feed_timeout=settings.feed_timeout)
    add_auth_routes(api, services, timeout=settings.rpc_timeout)
    add_monitoring_routes(api, services, timeout=settings.rpc_timeout)
    add_health_routes(api, services, readiness, infra.clock)
    add_meta_routes(
        api,
        Documentation(api, completions.OPENAPI),
        keys,
        infra.registry,
        version=release,
        metrics_token=settings.metrics_token,
    )
    return api
