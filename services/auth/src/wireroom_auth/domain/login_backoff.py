"""Delays after failed logins.

Failures are counted in three places, of which the first two belong to everybody:

- the address that was tried, whether or not it has an account;
- the network that the attempts come from;
- address and network together, once a login of that address from that network has succeeded.

An attempt from a network that is known for its address is judged by the third count alone. So whoever guesses at somebody's password
from elsewhere delays other strangers, not the owner at a usual place. An owner at a new place may have to wait as long as the guessing
goes on; open sessions are never touched, and a password reset by mail starts the first count afresh.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

_IPV6_PREFIX = 64


@dataclass(frozen=True)
class BackoffTerms:
    """After `free` failures each further one costs twice the delay of the one before, from `first` up to `longest`.

    Failures are forgotten when `memory` has passed since the last one.
    """

    free: int
    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=15)
    memory: timedelta = timedelta(hours=24)

    def delay(self, failures: int) -> timedelta:
        """How long to wait after so many failures."""
        if failures < self.free:
            return timedelta(0)
        # 2**40 times the first are longer than any delay; the exponent must not grow without bound.
        return min(self.longest, self.first * (1 << min(failures - self.free, 40)))


@dataclass(frozen=True)
class Failures:
    """One count. `blocked_until`: no attempt before."""

    count: int = 0
    failed_at: datetime | None = None
    blocked_until: datetime | None = None

    def wait(self, now: datetime) -> timedelta:
        """How long to wait from now; zero if not at all."""
        return max(timedelta(0), self.blocked_until - now) if self.blocked_until is not None else timedelta(0)

    def after_failure(self, terms: BackoffTerms, now: datetime) -> Failures:
        """The count with one failure more."""
        forgotten = self.failed_at is None or now - self.failed_at > terms.memory
        count = 1 if forgotten else self.count + 1
        delay = terms.delay(count)
        return Failures(count, now, now + delay if delay else None)


@dataclass(frozen=True)
class AttemptKeys:
    """What an attempt is counted under; digests, because the address may be anybody's. Without a known network: no `network`, no `pair`."""

    address: bytes
    network: bytes | None
    pair: bytes | None

    @classmethod
    def of(cls, email: str, client_ip: str) -> AttemptKeys:
        """The keys of an attempt with a normalised address."""
        network = network_of(client_ip)
        return cls(
            _digest("address", email),
            _digest("network", network) if network else None,
            _digest("pair", email, network) if network else None,
        )

    def all(self) -> list[bytes]:
        """The keys there are, in the order in which rows are locked."""
        return sorted(key for key in (self.address, self.network, self.pair) if key is not None)


def network_of(client_ip: str) -> str:
    """What counts as one place: an IPv4 address, or the /64 of an IPv6 address; empty if it is neither."""
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return str(address)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
