"""What a listener puts up with, and what its connections share."""

from __future__ import annotations

import ipaddress
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where the application finds why the listener refused a request.
REFUSAL_KEY = "wireroom.refusal"
# The address at the other end of the connection, where `client` of the scope is one that a proxy told.
PEER_KEY = "wireroom.peer"


@dataclass(frozen=True)
class HttpLimits:
    """Sizes in bytes, times in seconds, rates in bytes per second."""

    head_bytes: int = 32 * 1024
    head_fields: int = 100
    target_bytes: int = 8 * 1024
    # From the connection, or the first byte of a later request, to the end of the head.
    head_seconds: float = 10.0
    idle_seconds: float = 30.0
    # Below this rate, a body or the reader of an answer uses up its grace.
    minimum_rate: int = 1024
    body_grace_seconds: float = 10.0
    read_grace_seconds: float = 30.0
    tls_handshake_seconds: float = 10.0
    # Chunk extensions and trailers of one body.
    chunk_overhead_bytes: int = 16 * 1024
    pipelined: int = 32
    connections: int = 10_000
    # One IPv4 address, or one IPv6 /64. Trusted proxies are exempt.
    connections_per_client: int = 2_000


@dataclass(frozen=True)
class WebSocketLimits:
    """Sizes in bytes, times in seconds. A message that is too large ends the connection with 1009, too slow a one with 4408."""

    message_bytes: int = 64 * 1024
    # The parts that one message may come in, and how long they may take; a part that stays incomplete keeps pings from being answered.
    fragments: int = 64
    message_seconds: float = 10.0
    ping_seconds: float = 20.0
    # For the answer to a ping; 4408 without.
    pong_seconds: float = 20.0


@dataclass(frozen=True)
class Refusal:
    """Why the listener does not serve a request; the application renders it. `code` comes from a closed set."""

    status: int
    code: str
    detail: str
    headers: Sequence[tuple[str, str]] = ()


class HttpMetrics:
    """Registered on the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge("wireroom_http_connections", "Open HTTP connections", registry=registry)
        self.cut = Counter(
            "wireroom_http_connections_cut_total",
            "Connections closed by the listener, by reason",
            ["reason"],
            registry=registry,
        )


@dataclass
class ListenerState:
    """Shared by the connections of all listeners of one application."""

    limits: HttpLimits
    metrics: HttpMetrics
    trusted: TrustedProxies
    # The application for WebSockets and its limits; None: an upgrade is ignored.
    websocket_app: Any = None
    websocket_limits: WebSocketLimits = field(default_factory=WebSocketLimits)
    draining: bool = False
    open: int = 0
    by_client: Tally[str] = field(default_factory=Tally)
    # Connections that were refused but still get an answer.
    courtesies: int = 0


class TrustedProxies:
    """The addresses whose word about others is taken."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """ValueError when an entry is neither an address nor a network."""
        self.networks: tuple[IpNetwork, ...] = tuple(ipaddress.ip_network(entry) for entry in networks)
        self._known = lru_cache(maxsize=4096)(self._contains)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def __contains__(self, address: str) -> bool:
        return bool(self.networks) and self._known(address)

    def _contains(self, address: str) -> bool:
        parsed = parse_address(address)
        return parsed is not None and any(parsed.version == entry.version and parsed in entry for entry in self.networks)


def parse_address(text: str) -> IpAddress | None:
    """The address, IPv4 in IPv6 taken out; None if `text` is none. Zones (`%eth0`) mean nothing on another machine."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return None
        return parsed.ipv4_mapped or parsed
    return parsed


def client_group(address: str) -> str:
    """Who shares an allowance of connections: an IPv4 address, or an IPv6 /64, which is what one customer gets."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed) if parsed is not None else address
