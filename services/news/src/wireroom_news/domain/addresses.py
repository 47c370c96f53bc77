"""Which network addresses a feed may be fetched from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PUBLIC_PORTS = frozenset({80, 443, 8080, 8443})

# Every range that is not the public internet, or that embeds an IPv4 address of such a range (mapped, NAT64, 6to4, Teredo).
# `ipaddress.is_private` misses several of them. 168.63.129.16 is a cloud platform's virtual host address.
DENIED_NETWORKS: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


@dataclass(frozen=True)
class _HostRule:
    host: str
    port: int | None


class AddressPolicy:
    """Decides per (host, port, resolved address). Public addresses on web ports pass; `exceptions` name what else does.

    An exception is a host (`feeds.internal`), a host and port (`127.0.0.1:8081`, `[::1]:8081`) or a network (`10.2.0.0/16`).
    Raises ValueError for an exception or network that is none of these.
    """

    def __init__(self, exceptions: Iterable[str] = (), denied: Iterable[str] = ()) -> None:
        self._hosts: list[_HostRule] = []
        self._networks: list[Network] = []
        self._denied = (*DENIED_NETWORKS, *(ip_network(text) for text in denied))
        for text in exceptions:
            if "/" in text:
                self._networks.append(ip_network(text))
            else:
                self._hosts.append(_host_rule(text))

    def is_public(self, address: Address) -> bool:
        """Whether no denied network holds the address."""
        return not any(address.version == network.version and address in network for network in self._denied)

    def is_exception(self, host: str, port: int, address: Address) -> bool:
        """Whether a setting names this host or address."""
        host = _plain_host(host)
        return any(rule.host == host and rule.port in (None, port) for rule in self._hosts) or any(
            address.version == network.version and address in network for network in self._networks
        )

    def allows(self, host: str, port: int, address: Address) -> bool:
        """Whether a connection to `address` may be opened for `host` and `port`."""
        return self.is_exception(host, port, address) or (port in PUBLIC_PORTS and self.is_public(address))


def parse_address(text: str) -> Address:
    """The address in `text`, without an interface scope; ValueError otherwise."""
    return ip_address(text.partition("%")[0])


def _plain_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _host_rule(text: str) -> _HostRule:
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text.partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    host = _plain_host(host)
    if not host:
        msg = f"'{text}' names no host."
        raise ValueError(msg)
    return _HostRule(host, int(port) if port else None)
