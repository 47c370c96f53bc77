"""Which addresses a provider may have.

Operators set them, and private ones are fine (a model server in the same network). What never is a model server, and gives out
credentials of the machine, is refused: link-local and metadata addresses.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_ADDRESS = 500
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        # Answers of a cloud's own host to its machines.
        "168.63.129.16/32",
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
    )
)


def check_address(url: str) -> str:
    """The address without a slash at its end; ValueError says what is wrong with it."""
    if len(url) > MAX_ADDRESS or any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("is no address: too long, or with spaces in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write an address that begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a user name or password in it is not taken; give the key as a key")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("write the address without ? and #")
    if port == 0:
        raise ValueError("there is no port 0")
    host = parts.hostname.rstrip(".").lower()
    if not host.isascii():
        # Other programs read digits of other scripts as digits, and so a name as an address.
        raise ValueError("write the host in ASCII (names of other scripts as xn--…)")
    if host in _METADATA_NAMES or is_refused(host):
        raise ValueError("link-local and metadata addresses are not taken")
    return url.rstrip("/")


def is_refused(host: str) -> bool:
    """Whether `host` is an IP address that is never called; False for names, which are checked when they have been resolved."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or _embedded_ipv4(address) or address
    return any(address in network for network in _REFUSED)


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address behind a NAT64 or an IPv4-compatible one."""
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
