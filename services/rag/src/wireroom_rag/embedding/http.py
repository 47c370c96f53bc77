"""Calls of a model's HTTP interface: bounded in time, size and number, repeated when it is busy."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

from wireroom_common.errors import ErrorKind, WireroomError

_MAX_ANSWER = 64 * 1024 * 1024
_LONGEST_WAIT = 10.0
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class HttpModel:
    """Where a model answers. `calls_at_once` bounds what it costs and what waits for it: ten times as many may wait."""

    name: str
    base_url: str
    api_key: SecretStr | None
    timeout: float
    retries: int
    calls_at_once: int


class ModelHttp:
    """POSTs JSON objects. Started and stopped with the service."""

    def __init__(self, model: HttpModel) -> None:
        self._model = model
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(model.calls_at_once)
        self._waiting = 0

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._model.timeout),
            connector=aiohttp.TCPConnector(limit=self._model.calls_at_once),
        )

    async def stop(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        self._session = None

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer's object. UNAVAILABLE when there is none after the retries, or too many calls wait already."""
        if self._waiting >= 10 * self._model.calls_at_once:
            raise self._unavailable("model_endpoint_busy", "too many texts wait for it", 2)
        self._waiting += 1
        try:
            async with self._places:
                return await self._repeated(path, body)
        finally:
            self._waiting -= 1

    async def _repeated(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        for attempt in range(self._model.retries + 1):
            answer = await self._once(path, body)
            if isinstance(answer, dict):
                return answer
            if attempt < self._model.retries:
                pause = min(_LONGEST_WAIT, max(answer.retry_after, 0.25 * 2**attempt))
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads repeated calls, no secret
            else:
                raise answer
        raise AssertionError(path)

    async def _once(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | WireroomError:
        """The object, or the error after which it may be tried again; what trying again cannot change is raised."""
        if self._session is None:
            raise self._unavailable("model_endpoint_stopped", "it is not connected", 5)
        key = self._model.api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None and key.get_secret_value() else {}
        try:
            async with self._session.post(
                f"{self._model.base_url.rstrip('/')}/{path}", json=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status in _BUSY:
                    return self._unavailable("model_endpoint_failed", f"it answered {response.status}", _seconds(response))
                if response.status != 200:  # noqa: PLR2004 - HTTP OK
                    raise self._unavailable("model_endpoint_refused", f"it answered {response.status}", 30)
                data = await response.content.read(_MAX_ANSWER + 1)
                while not response.content.at_eof() and len(data) <= _MAX_ANSWER:
                    data += await response.content.read(_MAX_ANSWER + 1 - len(data))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return self._unavailable("model_endpoint_silent", "it does not answer", 1)
        if len(data) > _MAX_ANSWER:
            raise self.wrong()
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return self.wrong()
        return found if isinstance(found, dict) else self.wrong()

    def wrong(self) -> WireroomError:
        """The answer is not what the interface says."""
        return self._unavailable("model_endpoint_wrong", "its answer is not what was asked for", 30)

    def _unavailable(self, code: str, what: str, retry_after: float) -> WireroomError:
        return WireroomError(
            ErrorKind.UNAVAILABLE, code, f"The model '{self._model.name}' cannot be used: {what}.", retry_after=retry_after
        )


def _seconds(response: aiohttp.ClientResponse) -> float:
    try:
        return min(_LONGEST_WAIT, max(0.0, float(response.headers.get("Retry-After", "1"))))
    except ValueError:
        return 1.0
