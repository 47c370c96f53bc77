"""The PROXY protocol, versions 1 and 2, as sent by load balancers in front of the first byte of a connection.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = b"PROXY "
_V1_MAX = 107
_V2_HEAD = 16
# Addresses need 216 at most; the rest are extensions (TLV), which nobody reads here.
_V2_MAX = 4096
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21

Address = tuple[str, int]


class ProxyHeaderError(Exception):
    """The connection does not begin with a header of the PROXY protocol."""


def parse_v1(line: bytes) -> Address | None:
    """The client of a version 1 line (with its CRLF); None for UNKNOWN: the peer speaks for itself."""
    if len(line) > _V1_MAX or not line.startswith(_V1) or not line.endswith(b"\r\n"):
        raise ProxyHeaderError("not a version 1 line")
    try:
        words = line[len(_V1) : -2].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyHeaderError("not ASCII") from None
    if words[0] == "UNKNOWN":
        return None
    if len(words) != 5 or words[0] not in ("TCP4", "TCP6"):  # noqa: PLR2004 - family, two addresses, two ports
        raise ProxyHeaderError("not family, addresses and ports")
    family, source, target, source_port, target_port = words
    kind = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
    try:
        kind(target)
        client = kind(source)
    except ValueError:
        raise ProxyHeaderError("an address is none") from None
    _port(target_port)
    return str(client), _port(source_port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or (len(text) > 1 and text[0] == "0") or int(text) > 65535:  # noqa: PLR2004
        raise ProxyHeaderError("a port is none")
    return int(text)


def v2_length(head: bytes) -> int:
    """How many bytes follow the 16 of a version 2 header."""
    if len(head) != _V2_HEAD or not head.startswith(_SIGNATURE):
        raise ProxyHeaderError("not a version 2 header")
    (length,) = struct.unpack_from("!H", head, 14)
    if length > _V2_MAX:
        raise ProxyHeaderError("the header is too long")
    return int(length)


def parse_v2(head: bytes, rest: bytes) -> Address | None:
    """The client of a version 2 header; None for LOCAL and families other than TCP: the peer speaks for itself."""
    if len(rest) != v2_length(head):
        raise ProxyHeaderError("the length does not fit")
    command, family = head[12], head[13]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ProxyHeaderError("unknown version or command")
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if size is None:
        return None
    if len(rest) < 2 * size + 4:
        raise ProxyHeaderError("the addresses are cut off")
    (port,) = struct.unpack_from("!H", rest, 2 * size)
    return str(ipaddress.ip_address(rest[:size])), int(port)


async def read_proxy_header(sock: socket.socket) -> Address | None:
    """Take the header off a connection, and not a byte more. ProxyHeaderError when there is none."""
    loop = asyncio.get_running_loop()
    start = await _exactly(loop, sock, len(_SIGNATURE))
    if start == _SIGNATURE:
        head = start + await _exactly(loop, sock, _V2_HEAD - len(start))
        return parse_v2(head, await _exactly(loop, sock, v2_length(head)))
    if not start.startswith(_V1):
        raise ProxyHeaderError("no header")
    line = bytearray(start)
    # One by one: what follows the line belongs to somebody else.
    while not line.endswith(b"\n") and len(line) < _V1_MAX:
        line += await _exactly(loop, sock, 1)
    return parse_v1(bytes(line))


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await loop.sock_recv(sock, count - len(data))
        if not part:
            raise ProxyHeaderError("the connection ended")
        data += part
    return data
