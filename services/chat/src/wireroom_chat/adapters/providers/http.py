"""What all wires share: connections, time limits, bounded reads, and the names of failures."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from wireroom_chat.adapters.providers.event_stream import event_batches
from wireroom_chat.adapters.providers.rate_limits import exhausted_for, retry_after
from wireroom_chat.domain.provider_address import is_refused
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_chat.domain.routing import NotCalledError, ProviderError
from wireroom_chat.ports.providers import LeftBeforeCallError
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError

_MAX_ANSWER_BYTES = 15 * 1024 * 1024
_DRAIN_SECONDS = 0.05
_JSON = "application/json"
_EVENTS = "text/event-stream"
_IDLE_CONNECTION_SECONDS = 60.0

T = TypeVar("T")

# Called with the model and the seconds for which a limit of the provider is used up.
Exhausted = Callable[[str, float], None]


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to link-local and metadata addresses."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [entry for entry in found if not is_refused(entry["host"])]
        if not allowed:
            raise OSError(None, "the name leads to an address that is not called")
        return allowed

    async def close(self) -> None:
        await self._inner.close()


class ProviderSessions:
    """The pooled connections to all providers; opened by `start`, ended by `stop`.

    `max_connections` of each provider are in use at a time; a call that finds none free waits `wait` seconds at most.
    """

    def __init__(self, *, max_connections: int, wait: float = 2.0) -> None:
        self._max_connections = max_connections
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self.wait = wait
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                # `places` bounds them: a provider whose answers hang leaves the others theirs.
                limit=0,
                limit_per_host=0,
                resolver=GuardedResolver(),
                keepalive_timeout=_IDLE_CONNECTION_SECONDS,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def places(self, provider: str) -> asyncio.Semaphore:
        """The provider's connections, to be held during each call; the same for all of its keys."""
        places = self._places.get(provider)
        if places is None:
            places = self._places[provider] = asyncio.Semaphore(self._max_connections)
        return places

    def session(self) -> aiohttp.ClientSession:
        """The pool; RuntimeError before `start`."""
        if self._session is None:
            msg = "The provider connections are not open."
            raise RuntimeError(msg)
        return self._session


@dataclass(frozen=True)
class Endpoint:
    """One provider through one of its keys: where it is and how it is called. `headers` hold the key and are not shown."""

    name: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    timeouts: ProviderTimeouts


class ProviderHttp:
    """Calls of one endpoint. Failures are `ProviderError`s that name the provider, never its words."""

    def __init__(
        self,
        endpoint: Endpoint,
        sessions: ProviderSessions,
        clock: Clock,
        *,
        exhausted: Exhausted = lambda _model, _seconds: None,
    ) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        self._sessions = sessions
        self._places = sessions.places(endpoint.name)
        self._clock = clock
        self._exhausted = exhausted

    async def call(
        self, path: str, body: Mapping[str, Any] | None, *, model: str = "", total: float | None = None
    ) -> dict[str, Any]:
        """The JSON object that a POST (a GET without a body) answers with."""
        async with self._place(), self._failures_named():
            async with asyncio.timeout(total or self._timeouts.total), self._request(path, body, _JSON, model) as response:
                payload = await _read_bounded(response, _MAX_ANSWER_BYTES)
            answer = None if payload is None else object_of(payload)
            if answer is None:
                raise self.invalid()
            return answer

    async def stream(
        self, path: str, body: Mapping[str, Any], parse: Callable[[bytes], T | None], *, model: str
    ) -> AsyncGenerator[list[T], None]:
        """The events, each through `parse`, up to the one for which it returns None; those together that arrived together.

        Closing the generator closes the connection at once.
        """
        # The limit holds until the first event has arrived; afterwards the pause between two reads is what counts.
        async with (
            self._place(),
            self._failures_named(),
            asyncio.timeout(self._timeouts.first_byte) as first_byte,
            self._request(path, body, _EVENTS, model) as response,
        ):
            if not response.content_type.startswith(_EVENTS):
                raise self.invalid()
            async for batch in event_batches(response):
                if first_byte.when() is not None:
                    first_byte.reschedule(None)
                parsed, ended, failure = _parsed(batch, parse)
                if parsed:
                    yield parsed
                if failure is not None:
                    raise failure
                if ended:
                    break
            await _drain(response)

    @asynccontextmanager
    async def _request(
        self, path: str, body: Mapping[str, Any] | None, accept: str, model: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=self._timeouts.connect,
            sock_read=self._timeouts.idle if accept == _EVENTS else self._timeouts.total,
        )
        response = await self._sessions.session().request(
            "GET" if body is None else "POST",
            f"{self._endpoint.base_url}{path}",
            data=None if body is None else orjson.dumps(body),
            headers={**self._endpoint.headers, "Content-Type": _JSON, "Accept": accept},
            timeout=timeout,
            allow_redirects=False,
        )
        try:
            seconds = exhausted_for(response.headers, self._clock.now())
            if seconds > 0 and model:
                self._exhausted(model, seconds)
            if response.status != HTTPStatus.OK:
                raise self._refusal(response)
            yield response
        finally:
            # Closing (not releasing) drops the socket of an unfinished answer, so that the provider stops generating;
            # a finished one has gone back to the pool already.
            response.close()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """A free connection. Waiting for one is no time of the provider's."""
        try:
            async with asyncio.timeout(self._sessions.wait):
                await self._places.acquire()
        except TimeoutError:
            raise NotCalledError(
                ErrorKind.UNAVAILABLE,
                "provider_connections_exhausted",
                f"All connections to the provider '{self.name}' are in use; try again.",
                retry_after=1.0,
            ) from None
        except asyncio.CancelledError as left:
            raise LeftBeforeCallError(*left.args) from None
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def _failures_named(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError:
            raise self.failure(
                ErrorKind.DEADLINE,
                "provider_timeout",
                f"The provider '{self.name}' did not answer in time; try again.",
                retry_after=1,
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise self.failure(
                ErrorKind.UNAVAILABLE,
                "provider_unavailable",
                f"The provider '{self.name}' cannot be reached; try again later.",
                retry_after=2,
            ) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.interrupted() from error

    def failure(
        self, kind: ErrorKind, code: str, detail: str, *, retry_after: float = 0.0, cooldown: float = 0.0
    ) -> ProviderError:
        """An error of this provider; `cooldown`: seconds for which it asked to be left alone."""
        error = ProviderError(kind, code, detail, retry_after=retry_after)
        error.cooldown = cooldown
        return error

    def interrupted(self) -> WireroomError:
        """The answer ended before it was complete."""
        return self.failure(
            ErrorKind.UNAVAILABLE,
            "provider_unavailable",
            f"The connection to the provider '{self.name}' broke before the answer was complete; try again.",
            retry_after=1,
        )

    def invalid(self) -> WireroomError:
        """The answer is not what the wire says."""
        return self.failure(
            ErrorKind.UNAVAILABLE,
            "provider_invalid",
            f"The provider '{self.name}' sent something that is not an answer to the request.",
        )

    def troubled(self, *, limited: bool = False) -> WireroomError:
        """An error that the provider told of while it answered."""
        if limited:
            return self.failure(
                ErrorKind.RATE_LIMITED,
                "provider_rate_limited",
                f"The provider '{self.name}' takes no more requests at the moment; try again later.",
                retry_after=1,
            )
        return self.failure(
            ErrorKind.UNAVAILABLE,
            "provider_unavailable",
            f"The provider '{self.name}' reported an error while it answered; try again.",
        )

    def _refusal(self, response: aiohttp.ClientResponse) -> WireroomError:  # noqa: PLR0911 - a table: one return per class of status
        status = response.status
        asked = retry_after(response.headers.get("Retry-After"), self._clock.now())
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PAYMENT_REQUIRED):
            return self.failure(
                ErrorKind.UNAVAILABLE,
                "provider_refused",
                f"The provider '{self.name}' refused this installation's credentials; the operator has to check its API key.",
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            # Where it does not say for how long, what it says of its limits may.
            pause = asked or exhausted_for(response.headers, self._clock.now()) or 1.0
            return self.failure(
                ErrorKind.RATE_LIMITED,
                "provider_rate_limited",
                f"The provider '{self.name}' takes no more requests at the moment; try again later.",
                retry_after=pause,
                cooldown=pause,
            )
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return self.failure(ErrorKind.TOO_LARGE, "provider_request_too_large", f"The request is too large for '{self.name}'.")
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            return self.failure(
                ErrorKind.INVALID,
                "provider_rejected_request",
                f"The provider '{self.name}' rejected the request as invalid (HTTP {status}); check the members that it does not support,"
                " and the length of the messages.",
            )
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT):
            return self.failure(
                ErrorKind.DEADLINE, "provider_timeout", f"The provider '{self.name}' did not answer in time; try again."
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return self.failure(
                ErrorKind.UNAVAILABLE,
                "provider_unavailable",
                f"The provider '{self.name}' has trouble (HTTP {status}); try again later.",
                retry_after=asked or 1.0,
                cooldown=asked,
            )
        return self.failure(
            ErrorKind.UNAVAILABLE,
            "provider_misconfigured",
            f"The provider '{self.name}' answered with HTTP {status}; the operator has to check its address and the model's name.",
        )


def object_of(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _parsed(batch: list[bytes], parse: Callable[[bytes], T | None]) -> tuple[list[T], bool, WireroomError | None]:
    """What stands before the end or the first failure, whether the end is among them, and the failure."""
    parsed: list[T] = []
    try:
        for data in batch:
            event = parse(data)
            if event is None:
                return parsed, True, None
            parsed.append(event)
    except WireroomError as failure:
        return parsed, False, failure
    return parsed, False, None


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    async for data in response.content.iter_any():
        size += len(data)
        if size > limit:
            return None
        parts.append(data)
    return b"".join(parts)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the end of the body, so that the connection can be used again; a provider that keeps it open is not waited for."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            await response.content.readany()
    except (TimeoutError, aiohttp.ClientError):
        return
