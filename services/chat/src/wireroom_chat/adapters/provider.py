"""Providers that speak OpenAI's wire format, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from pydantic import SecretStr

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError

_MAX_ANSWER_BYTES = 15 * 1024 * 1024
_MAX_EVENT_BYTES = 1024 * 1024
_MAX_RETRY_AFTER = 3600.0
_MAX_EVENT_LINES = 1000
_DRAIN_SECONDS = 0.05
_DONE = b"[DONE]"


@dataclass(frozen=True)
class ProviderTimeouts:
    """Seconds. `total` bounds an answer that is not streamed."""

    connect: float
    first_byte: float
    idle: float
    total: float


class ProviderSessions:
    """The pooled connections to all providers; opened by `start`, ended by `stop`."""

    def __init__(self, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, limit_per_host=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def session(self) -> aiohttp.ClientSession:
        """The pool; RuntimeError before `start`."""
        if self._session is None:
            msg = "The provider connections are not open."
            raise RuntimeError(msg)
        return self._session


class OpenAiProvider:
    """One provider."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: SecretStr | None,
        timeouts: ProviderTimeouts,
        sessions: ProviderSessions,
        clock: Clock,
    ) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._timeouts = timeouts
        self._sessions = sessions
        self._clock = clock
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._failures_named():
            async with asyncio.timeout(self._timeouts.total), self._post(body, "application/json") as response:
                payload = await _read_bounded(response)
            if payload is None:
                raise self._invalid()
            answer = _object(payload)
            choices = answer.get("choices") if answer is not None else None
            if (
                answer is None
                or not isinstance(choices, list)
                or not choices
                or not all(_is_choice(item, "message") for item in choices)
            ):
                raise self._invalid()
            return answer

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        # The limit holds until the first event has arrived; afterwards the pause between two reads is what counts.
        async with (
            self._failures_named(),
            asyncio.timeout(self._timeouts.first_byte) as first_byte,
            self._post(body, "text/event-stream") as response,
        ):
            if not response.content_type.startswith("text/event-stream"):
                raise self._invalid()
            progress = _Progress()
            async for data in _events(response):
                if first_byte.when() is not None:
                    first_byte.reschedule(None)
                if data == _DONE:
                    break
                chunk = self._chunk(data)
                progress.note(chunk["choices"])
                yield chunk
            if not progress.finished:
                raise self._interrupted()
            await _drain(response)

    def _chunk(self, data: bytes) -> dict[str, Any]:
        chunk = _object(data)
        if chunk is None:
            raise self._invalid()
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            if chunk.get("error"):
                raise WireroomError(
                    ErrorKind.UNAVAILABLE,
                    "provider_unavailable",
                    f"The provider '{self.name}' reported an error while it answered; try again.",
                )
            raise self._invalid()
        for choice in choices:
            if not _is_choice(choice, "delta"):
                raise self._invalid()
        return chunk

    @asynccontextmanager
    async def _post(self, body: Mapping[str, Any], accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=self._timeouts.connect,
            sock_read=self._timeouts.idle if accept != "application/json" else self._timeouts.total,
        )
        response = await self._sessions.session().post(
            self._url,
            data=orjson.dumps(body),
            headers={**self._headers, "Accept": accept},
            timeout=timeout,
            allow_redirects=False,
        )
        try:
            if response.status != HTTPStatus.OK:
                raise self._refusal(response)
            yield response
        finally:
            # Closing (not releasing) drops the socket of an unfinished answer, so that the provider stops generating;
            # a finished one has gone back to the pool already.
            response.close()

    @asynccontextmanager
    async def _failures_named(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError:
            raise WireroomError(
                ErrorKind.DEADLINE,
                "provider_timeout",
                f"The provider '{self.name}' did not answer in time; try again.",
                retry_after=1,
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "provider_unavailable",
                f"The provider '{self.name}' cannot be reached; try again later.",
                retry_after=2,
            ) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._interrupted() from error

    def _interrupted(self) -> WireroomError:
        return WireroomError(
            ErrorKind.UNAVAILABLE,
            "provider_unavailable",
            f"The connection to the provider '{self.name}' broke before the answer was complete; try again.",
            retry_after=1,
        )

    def _invalid(self) -> WireroomError:
        return WireroomError(
            ErrorKind.UNAVAILABLE, "provider_invalid", f"The provider '{self.name}' sent something that is not a chat completion."
        )

    def _refusal(self, response: aiohttp.ClientResponse) -> WireroomError:  # noqa: PLR0911 - a table: one return per class of status
        status = response.status
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return WireroomError(
                ErrorKind.UNAVAILABLE,
                "provider_refused",
                f"The provider '{self.name}' refused this installation's credentials; the operator has to check its API key.",
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return WireroomError(
                ErrorKind.RATE_LIMITED,
                "provider_rate_limited",
                f"The provider '{self.name}' takes no more requests at the moment; try again later.",
                retry_after=self._retry_after(response.headers.get("Retry-After")),
            )
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return WireroomError(
                ErrorKind.TOO_LARGE, "provider_request_too_large", f"The request is too large for '{self.name}'."
            )
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            return WireroomError(
                ErrorKind.INVALID,
                "provider_rejected_request",
                f"The provider '{self.name}' rejected the request as invalid (HTTP {status}); check the members that it does not support,"
                " and the length of the messages.",
            )
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT):
            return WireroomError(
                ErrorKind.DEADLINE, "provider_timeout", f"The provider '{self.name}' did not answer in time; try again."
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return WireroomError(
                ErrorKind.UNAVAILABLE,
                "provider_unavailable",
                f"The provider '{self.name}' has trouble (HTTP {status}); try again later.",
                retry_after=self._retry_after(response.headers.get("Retry-After")),
            )
        return WireroomError(
            ErrorKind.UNAVAILABLE,
            "provider_refused",
            f"The provider '{self.name}' answered with HTTP {status}; the operator has to check its address and the model's name.",
        )

    def _retry_after(self, value: str | None) -> float:
        if not value:
            return 1.0
        try:
            seconds = float(value)
        except ValueError:
            try:
                moment = parsedate_to_datetime(value)
            except ValueError:
                return 1.0
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - self._clock.now()).total_seconds()
        return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else 1.0  # noqa: PLR0124 - only NaN differs from itself


class _Progress:
    """Which choices have begun and not said why they ended."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._ended = False

    def note(self, choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            index = choice.get("index")
            key = index if isinstance(index, int) else 0
            if choice.get("finish_reason"):
                self._open.discard(key)
                self._ended = True
            elif key not in self._open:
                self._open.add(key)

    @property
    def finished(self) -> bool:
        return self._ended and not self._open


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_choice(value: Any, member: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(member), dict)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    async for data in response.content.iter_any():
        size += len(data)
        if size > _MAX_ANSWER_BYTES:
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


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The `data` of each server-sent event; comments and other fields are skipped, several data lines are joined."""
    buffer = b""
    data: list[bytes] = []
    async for received in response.content.iter_any():
        buffer += received
        lines = buffer.split(b"\n")
        buffer = lines.pop()
        if len(buffer) > _MAX_EVENT_BYTES:
            raise aiohttp.ClientPayloadError
        for line in lines:
            stripped = line.rstrip(b"\r")
            if not stripped:
                if data:
                    yield data[0] if len(data) == 1 else b"\n".join(data)
                    data = []
            elif stripped.startswith(b"data:"):
                data.append(stripped[5:].strip())
                if len(data) > _MAX_EVENT_LINES:
                    raise aiohttp.ClientPayloadError
    if buffer.startswith(b"data:"):
        data.append(buffer[5:].strip())
    if data:
        yield b"\n".join(data)
