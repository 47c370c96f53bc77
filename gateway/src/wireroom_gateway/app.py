"""The composition root of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from wireroom_common.bus import Subscription
from wireroom_common.runtime.http_limits import TrustedProxies
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_gateway.access import Body, RouteTable
from wireroom_gateway.client_address import ClientAddresses
from wireroom_gateway.dispatch import Dispatch
from wireroom_gateway.documentation import Documentation
from wireroom_gateway.idempotency.store import SOURCE_EVENTS, AnswerStore
from wireroom_gateway.identity.api_keys import ApiKeyVerifier
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.identity.request_signatures import RequestSignatures
from wireroom_gateway.identity.resync import TICK_SECONDS, Resynchroniser
from wireroom_gateway.identity.revocations import EVENTS as REVOCATION_EVENTS
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import TokenVerifier
from wireroom_gateway.limits.blocks import BLOCK_EVENTS, AddressBlocks
from wireroom_gateway.limits.limiter import Limiter
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.policy import Policy
from wireroom_gateway.limits.policy_file import POLL_SECONDS, PolicyFile
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.listener import http_app
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.pipeline import assemble
from wireroom_gateway.pipeline.access_log import AccessLog
from wireroom_gateway.pipeline.authentication import Authentication
from wireroom_gateway.pipeline.blocked_addresses import BlockedAddresses, BlockGate
from wireroom_gateway.pipeline.body_limit import MULTIPART_OVERHEAD, BodyLimit
from wireroom_gateway.pipeline.cors import Cors
from wireroom_gateway.pipeline.hosts import Hosts
from wireroom_gateway.pipeline.idempotency import Idempotency
from wireroom_gateway.pipeline.measurement import Measurement
from wireroom_gateway.pipeline.rate_limits import RateLimits, Toll
from wireroom_gateway.pipeline.refusals import Refusals
from wireroom_gateway.pipeline.request_id import RequestId
from wireroom_gateway.pipeline.security_headers import SecurityHeaders
from wireroom_gateway.pipeline.threats import ThreatNotes, Threats
from wireroom_gateway.readiness import Readiness
from wireroom_gateway.reports import Reporter
from wireroom_gateway.routes.admin import add_admin_routes
from wireroom_gateway.routes.admin.budgets import add_budget_routes
from wireroom_gateway.routes.answering import Waiting
from wireroom_gateway.routes.application import new_application
from wireroom_gateway.routes.audit import add_audit_routes
from wireroom_gateway.routes.auth import add_auth_routes
from wireroom_gateway.routes.auth.oidc import add_oidc_routes
from wireroom_gateway.routes.chat.assistants import add_assistant_routes
from wireroom_gateway.routes.chat.sessions import add_session_routes
from wireroom_gateway.routes.chat.streaming import add_streaming_routes
from wireroom_gateway.routes.chat.tools import add_tool_routes
from wireroom_gateway.routes.chat.turns import add_turn_routes
from wireroom_gateway.routes.collections import add_collection_routes
from wireroom_gateway.routes.document_access import add_document_access_routes
from wireroom_gateway.routes.documents import add_document_routes
from wireroom_gateway.routes.health import add_health_routes
from wireroom_gateway.routes.index import add_index_routes
from wireroom_gateway.routes.ip_blocks import add_ip_block_routes
from wireroom_gateway.routes.meta import add_meta_routes
from wireroom_gateway.routes.monitoring import add_monitoring_routes
from wireroom_gateway.routes.news import add_news_routes
from wireroom_gateway.routes.openai.file_batches import add_file_batch_routes
from wireroom_gateway.routes.openai.files import add_file_routes
from wireroom_gateway.routes.openai.routes import OPENAPI, add_openai_routes
from wireroom_gateway.routes.openai.vector_stores import add_vector_store_routes
from wireroom_gateway.routes.privacy import add_privacy_routes
from wireroom_gateway.routes.processing import add_processing_routes
from wireroom_gateway.routes.providers import add_offered_model_routes, add_provider_routes
from wireroom_gateway.routes.retrieval import add_retrieval_routes
from wireroom_gateway.routes.security import add_security_routes
from wireroom_gateway.routes.signing_keys import add_signing_key_routes
from wireroom_gateway.routes.usage import add_usage_routes
from wireroom_gateway.routes.websocket import Sockets, add_websocket_routes
from wireroom_gateway.services import Services, connect
from wireroom_gateway.settings import GatewaySettings
from wireroom_gateway.websocket.connections import OpenConnections
from wireroom_gateway.websocket.conversation import Surroundings
from wireroom_gateway.websocket.handshake import Upgrades
from wireroom_gateway.websocket.tickets import Tickets

_KEY_EVENTS = frozenset({"auth.apikey.changed", "auth.apikey.revoked"})


def build(settings: GatewaySettings, infra: Infra) -> Service:
    """The gateway: HTTP in front, stubs behind."""
    services = connect(infra.channel)
    metrics = GatewayMetrics(infra.registry)
    reports = Reporter(
        services.metrics,
        infra.clock,
        metrics,
        sample_rate=settings.request_sample_rate,
        interval=settings.report_seconds,
        timeout=settings.rpc_timeout,
    )
    keys = JwksCache(services, infra.clock)
    revocations = Revocations(
        services,
        infra.clock,
        remember_seconds=settings.access_token_lifetime + 2 * settings.token_leeway,
        max_entries=settings.revocation_map_size,
    )
    resynchroniser = Resynchroniser(keys, revocations, infra.clock)
    policy_file = PolicyFile(settings.limits_file, settings.limit_table(), metrics) if settings.limits_file else None
    policy = policy_file.policy if policy_file else _fixed(Policy(settings.limit_table()))
    counters = RedisCounterStore(infra.redis(), timeout=settings.limit_store_timeout)
    limiter = _limiter(settings, policy, counters, infra, metrics) if settings.limits_enabled else None
    blocks = AddressBlocks(services.addresses, infra.clock, metrics)
    gate = BlockGate(blocks, policy, metrics)
    checks = {"auth": resynchroniser.check}
    readiness = Readiness(
        checks,
        degraded=lambda: [
            *(["shared_limits"] if limiter is not None and limiter.degraded else []),
            *(["limits_file"] if policy_file is not None and policy_file.bad else []),
        ],
        draining=infra.draining,
    )
    verifiers = _verifiers(settings, infra, services, keys, revocations)
    sockets = Sockets(
        _tickets(settings, infra),
        Surroundings(
            services,
            Toll(limiter, gate, metrics, reports),
            ThreatNotes(reports, metrics, settings.threat_report_score),
            revocations,
            verifiers["keys"],
            OpenConnections(metrics, most=settings.max_websockets, most_per_user=settings.max_websockets_per_user),
            infra.clock,
            rpc_timeout=settings.rpc_timeout,
            chat_timeout=settings.chat_timeout,
            keepalive=settings.keepalive_seconds,
        ),
    )
    answers = AnswerStore(
        infra.redis(),
        keep=settings.idempotency_seconds,
        lease=settings.idempotency_lease_seconds,
        timeout=settings.limit_store_timeout,
    )
    api = application(settings, infra, services, keys, readiness, sockets=lambda: sockets)
    table = RouteTable(api.router.routes)
    app: ASGIApp = assemble(
        Dispatch(api),
        {
            RequestId: {
                "table": table,
                "addresses": ClientAddresses(TrustedProxies(settings.trusted_proxies), settings.forwarded_header),
            },
            Refusals: {"metrics": metrics},
            AccessLog: {"clock": infra.clock},
            Measurement: {"metrics": metrics, "clock": infra.clock, "reports": reports},
            SecurityHeaders: {"legacy_xss_protection": settings.legacy_xss_protection},
            Cors: {"origins": settings.cors_origins, "plain_http": settings.cors_plain_http},
            Hosts: {"allowed": settings.allowed_hosts},
            BodyLimit: {
                "limits": {
                    Body.JSON: settings.max_json_bytes,
                    Body.CHAT: settings.max_chat_bytes,
                    Body.UPLOAD: settings.max_upload_bytes + MULTIPART_OVERHEAD,
                }
            },
            Authentication: {
                **verifiers,
                "tickets": sockets.tickets,
                "token_leeway": settings.token_leeway,
                "metrics": metrics,
            },
            Threats: {
                "reports": reports,
                "metrics": metrics,
                "report_score": settings.threat_report_score,
                "block_score": settings.threat_block_score,
            },
            Idempotency: {
                "store": answers,
                "metrics": metrics,
            },
            BlockedAddresses: {"gate": gate},
            RateLimits: {"limiter": limiter, "gate": gate, "metrics": metrics, "reports": reports},
        },
    )
    return Service(
        name="gateway",
        http=http_app(app, settings, Upgrades(app)),
        subscriptions=[
            Subscription("gateway.revocations", broadcast=revocations.on_event, types=REVOCATION_EVENTS),
            Subscription("gateway.api_keys", broadcast=verifiers["keys"].on_event, types=_KEY_EVENTS),
            Subscription("gateway.jwks", broadcast=keys.on_event, types=frozenset({"auth.signing_key.rotated"})),
            Subscription("gateway.blocks", broadcast=blocks.on_event, types=BLOCK_EVENTS),
            Subscription("gateway.answers", broadcast=answers.on_event, types=SOURCE_EVENTS),
        ],
        # The first run must not hold up the start: `auth` may come later.
        periodic=[
            Periodic("gateway.resync", TICK_SECONDS, resynchroniser.run),
            Periodic("gateway.reports", 1.0, reports.run),
            # It waits for work by itself.
            Periodic("gateway.blocks", 0.1, blocks.run),
            *([Periodic("gateway.limits_file", POLL_SECONDS, policy_file.poll)] if policy_file else []),
        ],
        checks=checks,
        stop=counters.close,
    )


def _fixed(policy: Policy) -> Callable[[], Policy]:
    return lambda: policy


def _limiter(
    settings: GatewaySettings, policy: Callable[[], Policy], counters: RedisCounterStore, infra: Infra, metrics: GatewayMetrics
) -> Limiter:
    return Limiter(
        policy,
        counters,
        MemoryCounterStore(infra.clock, share=settings.known_replicas),
        infra.clock,
        metrics,
    )


def _verifiers(
    settings: GatewaySettings, infra: Infra, services: Services, keys: JwksCache, revocations: Revocations
) -> dict[str, Any]:
    api_keys = ApiKeyVerifier(
        services,
        revocations,
        infra.clock,
        cache_size=settings.key_cache_size,
        good_seconds=settings.key_cache_seconds,
        bad_seconds=settings.key_cache_negative_seconds,
        timeout=settings.rpc_timeout,
    )
    return {
        "signatures": RequestSignatures(api_keys, infra.redis(), infra.clock, timeout=settings.limit_store_timeout),
        "keys": api_keys,
        "tokens": TokenVerifier(
            keys,
            revocations,
            infra.clock,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            leeway=settings.token_leeway,
            cache_size=settings.token_cache_size,
        ),
    }


def _tickets(settings: GatewaySettings, infra: Infra) -> Tickets:
    return Tickets(
        infra.redis(),
        lifetime=settings.websocket_ticket_seconds,
        bind_address=settings.websocket_ticket_binds_address,
        timeout=settings.limit_store_timeout,
    )


def _no_sockets() -> Sockets:
    raise RuntimeError("These routes are to be described, not called.")


def application(
    settings: GatewaySettings,
    infra: Infra,
    services: Services,
    keys: JwksCache,
    readiness: Readiness,
    *,
    sockets: Callable[[], Sockets] = _no_sockets,
) -> FastAPI:
    """The routes, each with its access declaration; without the pipeline around them. `sockets` is called with the first request."""
    release = version("wireroom-gateway")
    api = new_application(release)
    waiting = Waiting(settings.chat_timeout, settings.stream_headers_seconds, settings.keepalive_seconds)
    add_openai_routes(api, services, waiting, timeout=settings.rpc_timeout)
    add_document_routes(
        api,
        services,
        timeout=settings.rpc_timeout,
        upload_timeout=settings.upload_timeout,
        max_upload_bytes=settings.max_upload_bytes,
    )
    add_collection_routes(api, services, timeout=settings.rpc_timeout)
    add_document_access_routes(api, services, timeout=settings.rpc_timeout)
    add_processing_routes(
        api,
        services,
        waiting,
        timeout=settings.rpc_timeout,
        download_timeout=settings.upload_timeout,
        revocations=lambda: sockets().surroundings.revocations,
        draining=readiness.draining,
    )
    add_privacy_routes(api, services, timeout=settings.rpc_timeout, export_timeout=settings.upload_timeout)
    add_retrieval_routes(api, services, waiting, timeout=settings.rpc_timeout)
    add_index_routes(api, services, timeout=settings.rpc_timeout)
    add_file_routes(
        api,
        services,
        timeout=settings.rpc_timeout,
        upload_timeout=settings.upload_timeout,
        max_upload_bytes=settings.max_upload_bytes,
    )
    add_vector_store_routes(api, services, timeout=settings.rpc_timeout)
    add_file_batch_routes(api, services, timeout=settings.rpc_timeout)
    add_session_routes(api, services, timeout=settings.rpc_timeout, export_timeout=settings.chat_timeout)
    add_turn_routes(api, services, timeout=settings.chat_timeout)
    add_streaming_routes(api, services, waiting, timeout=settings.rpc_timeout)
    add_assistant_routes(api, services, timeout=settings.rpc_timeout)
    add_tool_routes(api, services, timeout=settings.tool_timeout)
    add_news_routes(api, services, timeout=settings.rpc_timeout, feed_timeout=settings.feed_timeout)
    add_auth_routes(api, services, timeout=settings.rpc_timeout)
    add_oidc_routes(api, services, timeout=settings.oidc_timeout, secure=infra.public_url().startswith("https://"))
    add_monitoring_routes(api, services, timeout=settings.rpc_timeout)
    add_security_routes(api, services, timeout=settings.rpc_timeout)
    add_audit_routes(api, services, timeout=settings.rpc_timeout)
    add_admin_routes(api, services, timeout=settings.rpc_timeout)
    add_budget_routes(api, services, timeout=settings.rpc_timeout)
    add_usage_routes(api, services, timeout=settings.rpc_timeout, export_timeout=settings.chat_timeout)
    add_provider_routes(api, services, timeout=settings.rpc_timeout)
    add_offered_model_routes(api, services, timeout=settings.rpc_timeout)
    add_ip_block_routes(api, services, timeout=settings.rpc_timeout)
    add_signing_key_routes(api, services, timeout=settings.rpc_timeout)
    add_websocket_routes(api, sockets)
    add_health_routes(api, services, readiness, infra.clock)
    add_meta_routes(
        api,
        Documentation(api, OPENAPI),
        keys,
        infra.registry,
        version=release,
        metrics_token=settings.metrics_token,
    )
    return api
