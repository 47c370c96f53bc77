"""What the gateway tells its listener."""

from __future__ import annotations

from typing import Any

from wireroom_common.runtime.http_limits import HttpLimits, WebSocketLimits
from wireroom_common.runtime.service import HttpApp
from wireroom_gateway.settings import GatewaySettings


def http_app(app: Any, settings: GatewaySettings, websocket_app: Any = None) -> HttpApp:
    """`app`, and `websocket_app` for WebSockets, on the listener that `settings` describe."""
    return HttpApp(
        app,
        settings.host,
        settings.port,
        settings.tls_port,
        settings.tls_cert,
        settings.tls_key,
        HttpLimits(
            head_bytes=settings.max_header_bytes,
            head_fields=settings.max_header_fields,
            target_bytes=settings.max_target_bytes,
            head_seconds=settings.head_seconds,
            idle_seconds=settings.idle_seconds,
            minimum_rate=settings.min_bytes_per_second,
            body_grace_seconds=settings.slow_body_seconds,
            read_grace_seconds=settings.slow_reader_seconds,
            tls_handshake_seconds=settings.head_seconds,
            connections=settings.max_connections,
            connections_per_client=settings.max_connections_per_client,
        ),
        settings.trusted_proxies,
        settings.proxy_protocol,
        websocket_app,
        WebSocketLimits(
            message_bytes=settings.max_websocket_bytes,
            message_seconds=settings.slow_body_seconds,
            ping_seconds=settings.websocket_ping_seconds,
            pong_seconds=settings.websocket_ping_seconds,
        ),
    )
