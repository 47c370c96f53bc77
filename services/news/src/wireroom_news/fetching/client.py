"""The HTTP client for feeds: connects only to addresses that were checked, whoever names them."""

from __future__ import annotations

import asyncio
import email.utils
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from wireroom_common.clock import Clock
from wireroom_news.domain.addresses import Address, AddressPolicy, parse_address
from wireroom_news.domain.urls import UrlRefusedError, feed_url
from wireroom_news.fetching.bodies import BodyBuffer, too_large
from wireroom_news.fetching.failures import FeedError
from wireroom_news.fetching.pacing import HostPacer

# Host and port → textual addresses. Raises OSError when there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]

ACCEPT = "application/atom+xml, application/rss+xml, application/feed+json, application/rdf+xml;q=0.9, application/xml;q=0.8, */*;q=0.5"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_MODIFIED = 304
_MAX_HEADER = 512
_MAX_RETRY_AFTER = 7 * 86_400.0
_CHUNK = 65_536


@dataclass(frozen=True)
class FetchLimits:
    """Seconds and bytes."""

    total: float = 30.0
    connect: float = 10.0
    body: int = 5_000_000
    redirects: int = 5


@dataclass(frozen=True)
class Validators:
    """What the server said about the version we hold."""

    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True)
class Fetched:
    """An answer. `not_modified` has no body; `url` is where the redirects ended."""

    url: str
    status: int
    body: bytes
    content_type: str
    validators: Validators
    wire_bytes: int
    not_modified: bool = False


async def system_resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class FeedClient:
    """Fetches documents under `limits`; every connection goes to an address that `policy` allowed at that moment.

    Redirects are followed by hand, each hop checked like the first. No proxies from the environment, no credentials, no cookies.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        limits: FetchLimits,
        pacer: HostPacer,
        clock: Clock,
        *,
        user_agent: str,
        resolve: Resolve = system_resolve,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._pacer = pacer
        self._clock = clock
        self._user_agent = user_agent
        self._resolve = resolve

    async def fetch(self, url: str, validators: Validators | None = None) -> Fetched:
        """GET `url`; raises FeedError with one of the codes `feed_*`."""
        known = validators or Validators()
        loop = asyncio.get_running_loop()
        left = self._limits.total
        for _ in range(self._limits.redirects + 1):
            began = loop.time()
            target, addresses = await self._checked(url)
            left -= loop.time() - began
            host, port = target.host or "", target.port or 0
            if not all(self._policy.is_exception(host, port, address) for address in addresses):
                # Waiting for a turn is our choice, not the server's slowness: it does not count.
                await self._pacer.turn(host)
            began = loop.time()
            try:
                async with asyncio.timeout(max(left, 0)):
                    answer = await self._get(target, addresses, known)
            except TimeoutError:
                raise FeedError("feed_timeout", "The feed's server did not answer in time; try again later.") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _unreachable(error) from error
            if isinstance(answer, Fetched):
                return answer
            left -= loop.time() - began
            url = answer
        raise FeedError("feed_unreachable", f"The address redirects more than {self._limits.redirects} times.")

    async def _checked(self, url: str) -> tuple[URL, list[Address]]:
        """The URL and its addresses, all of them allowed."""
        try:
            target = URL(feed_url(url), encoded=True)
            host, port = target.host or "", target.port or 0
        except (UrlRefusedError, ValueError) as error:
            reason = error if isinstance(error, UrlRefusedError) else "it cannot be read as a URL"
            raise FeedError("feed_url_invalid", f"The address cannot be fetched: {reason}.") from None
        try:
            addresses = [parse_address(host)]
        except ValueError:
            addresses = await self._resolved(host, port)
        if not all(self._policy.allows(host, port, address) for address in addresses):
            raise FeedError(
                "feed_address_forbidden",
                f"'{host}' on port {port} is not fetched: the address is not public or the port is not one of the web's."
                " An operator can allow it by the setting allowed_private_hosts.",
            )
        return target, addresses

    async def _resolved(self, host: str, port: int) -> list[Address]:
        try:
            async with asyncio.timeout(self._limits.connect):
                texts = await self._resolve(host, port)
            addresses = list(dict.fromkeys(parse_address(text) for text in texts))
        except TimeoutError:
            raise FeedError("feed_timeout", f"The name '{host}' could not be resolved in time; try again later.") from None
        except (OSError, UnicodeError, ValueError):
            addresses = []
        if not addresses:
            raise FeedError("feed_unreachable", f"The name '{host}' cannot be resolved; check the address.")
        return addresses

    async def _get(self, target: URL, addresses: list[Address], known: Validators) -> Fetched | str:
        """The document, or where the server sends us."""
        headers = {"User-Agent": self._user_agent, "Accept": ACCEPT, "Accept-Encoding": "gzip"}
        if known.etag:
            headers["If-None-Match"] = known.etag
        if known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        approved = frozenset(addresses)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses),
            use_dns_cache=False,
            force_close=True,
            socket_factory=lambda info: _guarded_socket(info, approved),
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect, connect=self._limits.connect),
            ) as session,
            session.get(target, headers=headers, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return urljoin(str(target), response.headers["Location"])
            return await self._answer(target, response, known)

    async def _answer(self, target: URL, response: aiohttp.ClientResponse, known: Validators) -> Fetched:
        validators = Validators(_header(response, "ETag"), _header(response, "Last-Modified"))
        if response.status == _NOT_MODIFIED and known != Validators():
            kept = Validators(validators.etag or known.etag, validators.last_modified or known.last_modified)
            return Fetched(str(target), _NOT_MODIFIED, b"", "", kept, 0, not_modified=True)
        if response.status != 200:  # noqa: PLR2004 - the one success that carries a document
            raise FeedError(
                "feed_http_status",
                f"The feed's server answered with status {response.status}.",
                status=response.status,
                retry_after=self._retry_after(response),
            )
        if (response.content_length or 0) > self._limits.body:
            raise too_large(self._limits.body)
        buffer = BodyBuffer(self._limits.body, response.headers.get("Content-Encoding", ""))
        async for chunk in response.content.iter_chunked(_CHUNK):
            buffer.feed(chunk)
        return Fetched(
            str(target), response.status, buffer.body(), _header(response, "Content-Type"), validators, buffer.received
        )

    def _retry_after(self, response: aiohttp.ClientResponse) -> float:
        """Seconds the server asks us to stay away; on 429 and 503 only."""
        text = response.headers.get("Retry-After", "").strip()
        if response.status not in (429, 503) or not text:
            return 0.0
        if text.isascii() and text.isdigit():
            return min(float(text[:9]), _MAX_RETRY_AFTER)
        try:
            until = email.utils.parsedate_to_datetime(text)
            seconds = (_as_utc(until) - self._clock.now()).total_seconds()
        except (ValueError, OverflowError, TypeError, IndexError):
            return 0.0
        return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


class _Pinned(AbstractResolver):
    """Answers every name with the addresses that were checked, so that nothing is resolved twice."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,  # noqa: PLR2004 - IP version
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
            if family in (socket.AF_UNSPEC, socket.AF_INET if address.version == 4 else socket.AF_INET6)  # noqa: PLR2004 - IP version
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _guarded_socket(info: tuple[Any, ...], approved: frozenset[Address]) -> socket.socket:
    """The last line: whatever path led here, no socket is made for an address that was not checked."""
    family, kind, proto, _, sockaddr = info
    if parse_address(str(sockaddr[0])) not in approved:
        msg = "The connection leads to an address that was not checked."
        raise OSError(msg)
    return socket.socket(family, kind, proto)


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    """A header that is kept or sent back: '' unless it is short printable ASCII."""
    value = response.headers.get(name, "")
    return value if len(value) <= _MAX_HEADER and value.isascii() and value.isprintable() else ""


def _as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _unreachable(error: Exception) -> FeedError:
    if isinstance(error, aiohttp.ClientSSLError):
        return FeedError("feed_unreachable", "The feed's server has no valid certificate.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return FeedError("feed_unreachable", "The feed's server refuses connections or cannot be reached.")
    return FeedError("feed_unreachable", "The connection to the feed's server broke or its answer is not HTTP.")
