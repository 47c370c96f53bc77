"""Who is at the other end: the address and the scheme of the client, as far as the proxies in between are trusted.

The list of a forwarding header is read from the right: the last entry was written by the proxy that called us, the one before by
the proxy that called it. The first address that is not a trusted proxy's is the client; what stands to the left of it was written
by the client or by somebody unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Scope

from wireroom_common.runtime.http_limits import PEER_KEY, TrustedProxies, parse_address

_FORWARDED_PREFIX = b"x-forwarded-"
# Fields that only a proxy, or this installation, may state about a request.
_RESERVED = (_FORWARDED_PREFIX, b"x-user-", b"x-internal-")
_RESERVED_NAMES = frozenset({b"forwarded", b"x-real-ip"})
# Their presence tells that somebody stands between.
_TELLTALE = frozenset({b"via", *_RESERVED_NAMES})
_MAX_HOPS = 32
_PAIR = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]+)\s*')
_ESCAPED = re.compile(r"\\(.)")


class ForwardedHeader(StrEnum):
    """Which header the proxies write. The other one comes from the client and counts for nothing."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"


class Origin(NamedTuple):
    """`peer`: the other end of the connection. `relayed`: there are signs of somebody in between."""

    client: str
    scheme: str
    peer: str
    relayed: bool


@dataclass(frozen=True)
class Hop:
    """What a proxy says of its caller; `address` None: nothing that could be read."""

    address: str | None
    scheme: str = ""


class ClientAddresses:
    """Finds the client of a request, and takes the fields out that only proxies may state."""

    def __init__(self, trusted: TrustedProxies, header: ForwardedHeader = ForwardedHeader.X_FORWARDED_FOR) -> None:
        self._trusted = trusted
        self._header = header.value.encode()

    def claim(self, scope: Scope) -> Origin:
        """The request's origin. Changes `headers` and `scheme` of the scope."""
        kept, reserved, relayed = _sorted(scope["headers"])
        caller = scope["client"][0] if scope.get("client") else ""
        caller = _written(caller)
        told = scope.get(PEER_KEY)
        peer = told[0] if told else caller
        client, scheme = caller, scope["scheme"]
        if reserved:
            scope["headers"] = kept
            if caller in self._trusted:
                client, scheme = self._walk(caller, scheme, reserved)
                scope["scheme"] = scheme
        return Origin(client, scheme, peer, relayed or bool(told))

    def _walk(self, caller: str, scheme: str, reserved: Sequence[tuple[bytes, bytes]]) -> tuple[str, str]:
        value = ",".join(value.decode("latin-1") for name, value in reserved if name == self._header)
        hops = x_forwarded_for(value) if self._header == b"x-forwarded-for" else forwarded(value)
        found, told = caller, ""
        for count, hop in enumerate(hops):
            if count == 0:
                told = hop.scheme
            if found not in self._trusted or hop.address is None or count == _MAX_HOPS:
                break
            found = hop.address
        if self._header == b"x-forwarded-for":
            protos = [value for name, value in reserved if name == b"x-forwarded-proto"]
            told = protos[-1].decode("latin-1").rpartition(",")[2].strip().lower() if protos else ""
        return found, told if told in ("http", "https") else scheme


@lru_cache(maxsize=8_192)
def _written(caller: str) -> str:
    """An address as it is written everywhere here."""
    parsed = parse_address(caller)
    return str(parsed) if parsed is not None else caller


def _sorted(
    headers: Sequence[tuple[bytes, bytes]],
) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], bool]:
    """What stays, what is reserved, and whether somebody stands between. With `_` for `-`, too: others take them for the same."""
    kept, reserved, relayed = [], [], False
    for entry in headers:
        name = entry[0]
        first = name[:1]
        if first == b"x":
            plain = name.replace(b"_", b"-")
            if plain.startswith(_RESERVED) or plain in _RESERVED_NAMES:
                relayed = relayed or plain in _TELLTALE or plain.startswith(_FORWARDED_PREFIX)
                reserved.append(entry)
                continue
        elif first in (b"f", b"v") and name in _TELLTALE:
            relayed = True
            if name in _RESERVED_NAMES:
                reserved.append(entry)
                continue
        kept.append(entry)
    return kept, reserved, relayed


def x_forwarded_for(value: str) -> Iterator[Hop]:
    """The hops of X-Forwarded-For, nearest first."""
    for entry in reversed(value.split(",")):
        yield Hop(_address(entry.strip()))


def forwarded(value: str) -> Iterator[Hop]:
    """The hops of Forwarded (RFC 7239), nearest first. A list that cannot be read says nothing at all."""
    hops: list[Hop] = []
    position = 0
    while position <= len(value):
        pairs: dict[str, str] = {}
        while True:
            match = _PAIR.match(value, position)
            if match is None or match[1].lower() in pairs:
                return
            text = match[2]
            pairs[match[1].lower()] = _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text
            position = match.end()
            if position < len(value) and value[position] == ";":
                position += 1
                continue
            break
        hops.append(Hop(_address(pairs.get("for", "")), pairs.get("proto", "").lower()))
        if position < len(value) and value[position] != ",":
            return
        position += 1
    yield from reversed(hops)


def _address(text: str) -> str | None:
    """The address of `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
        text = host if ":" in host else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
        text = host
    parsed = parse_address(text)
    return str(parsed) if parsed is not None else None


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6  # noqa: PLR2004 - a colon and 65535
