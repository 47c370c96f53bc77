"""The addresses behind a target, one gRPC target each."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

# One connection each; a service with more replicas is reached on these.
MAX_ADDRESSES = 32
_IPV4 = "ipv4:"


def changes(target: str) -> bool:
    """Whether the addresses come from a name, which may mean others tomorrow."""
    return not target.startswith(("unix:", _IPV4))


async def addresses_of(target: str) -> list[str]:
    """The addresses of "host:port", "ipv4:address:port,…" or "unix:/path"; OSError if the name cannot be resolved now."""
    if target.startswith("unix:"):
        return [target]
    if target.startswith(_IPV4):
        return [f"{_IPV4}{address}" for address in dict.fromkeys(target.removeprefix(_IPV4).split(","))][:MAX_ADDRESSES]
    host, _, port = target.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    return sorted({_written(str(entry[4][0]), int(port)) for entry in found})[:MAX_ADDRESSES]


def _written(address: str, port: int) -> str:
    # A zone ("fe80::1%eth0") is no part of the address.
    version = ipaddress.ip_address(address.partition("%")[0]).version
    return f"{_IPV4}{address}:{port}" if version == 4 else f"ipv6:[{address}]:{port}"  # noqa: PLR2004 - the version
