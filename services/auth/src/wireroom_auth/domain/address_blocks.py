"""Blocked client addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from wireroom_auth.domain.identity import has_control_characters
from wireroom_common.errors import WireroomError, invalid

DEFAULT_TTL = timedelta(hours=1)
LONGEST_TTL = timedelta(days=30)
_IPV4_BITS = 32
_IPV6_BITS = 128
_COUNTED_IPV6_BITS = 64
_LONGEST_TEXT = 200


@dataclass(frozen=True)
class AddressBlock:
    """Callers from `network` that present `principal` (empty: that present nothing) are refused until `until`."""

    id: UUID
    network: str
    principal: str
    violations: int
    reason: str
    blocked_by: str
    blocked_at: datetime
    until: datetime


def counted_network(text: str) -> str:
    """What is blocked for an address: the IPv4 address itself, the /64 of an IPv6 address. INVALID for anything else.

    An IPv4 address that is written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 address.
    """
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise _malformed() from None
    if isinstance(network, ipaddress.IPv4Network):
        if network.prefixlen != _IPV4_BITS:
            raise _malformed()
        return str(network.network_address)
    mapped = network.network_address.ipv4_mapped
    if mapped is not None and network.prefixlen == _IPV6_BITS:
        return str(mapped)
    if network.prefixlen not in (_COUNTED_IPV6_BITS, _IPV6_BITS):
        raise _malformed()
    return str(network.supernet(new_prefix=_COUNTED_IPV6_BITS))


def block_end(now: datetime, ttl_seconds: int) -> datetime:
    """When a block made now ends; 0 means an hour, more than 30 days is INVALID."""
    if not 0 <= ttl_seconds <= LONGEST_TTL.total_seconds():
        raise invalid(
            "ttl_out_of_range",
            f"ttl_seconds must be between 1 and {int(LONGEST_TTL.total_seconds())} (30 days), or 0 for an hour.",
            field="ttl_seconds",
        )
    return now + (timedelta(seconds=ttl_seconds) if ttl_seconds else DEFAULT_TTL)


def plain_text(text: str, field: str) -> str:
    """`text` without surrounding space; INVALID with control characters or more than 200 characters."""
    stripped = text.strip()
    if len(stripped) > _LONGEST_TEXT or has_control_characters(stripped):
        raise invalid(
            f"{field}_malformed", f"{field} may have at most {_LONGEST_TEXT} characters and no control characters.", field=field
        )
    return stripped


def checked_violations(violations: int) -> int:
    """INVALID if negative."""
    if violations < 0:
        raise invalid("violations_negative", "violations cannot be negative.", field="violations")
    return violations


def _malformed() -> WireroomError:
    return invalid(
        "network_malformed",
        "network must be one IPv4 address, or one IPv6 address or its /64; wider ranges belong into a firewall.",
        field="network",
    )
