"""What the command line needs of a running Wireroom: join, upload, add a feed, ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from wireroom_common.errors import OperatorError

_TIMEOUT = aiohttp.ClientTimeout(total=120, connect=5)
_POLL = 0.2


class ClientError(OperatorError):
    """The server said no; the message is its problem document in one line."""


class Client:
    """A short-lived HTTP client; `key` is an API key."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def join(self, email: str, admin_token: str, password: str) -> str:
        """Redeem the one-time admin token, sign in, make an API key; returns the key."""
        account = {"email": email, "password": password}
        await self._json("POST", "/auth/register", account | {"admin_token": admin_token})
        login = await self._json("POST", "/auth/login", account)
        self._headers = {"Authorization": f"Bearer {login['access_token']}"}
        key = await self._json("POST", "/auth/api-keys", {"name": "command line"})
        return str(key["secret"])

    async def upload(self, path: Path, wait: float) -> dict[str, Any]:
        """Upload a document; with `wait` > 0 return when it is searchable or refused."""
        form = aiohttp.FormData()
        form.add_field("file", await asyncio.to_thread(path.read_bytes), filename=path.name)
        document = await self._json("POST", "/api/v1/documents", form)
        deadline = asyncio.get_running_loop().time() + wait
        while document["state"] not in {"indexed", "rejected", "failed"} and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL)
            document = await self._json("GET", f"/api/v1/documents/{document['id']}")
        return document

    async def add_feed(self, url: str) -> dict[str, Any]:
        """Add a feed; its present articles are stored when this returns."""
        return await self._json("POST", "/api/v1/feeds", {"url": url})

    async def ask(self, question: str, model: str) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed chat completion."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
        async with (
            self._reachable(),
            aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers) as session,
            session.post(f"{self._url}/v1/chat/completions", json=body) as response,
        ):
            await _refuse(response)
            async for line in response.content:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])

    @asynccontextmanager
    async def _reachable(self) -> AsyncIterator[None]:
        try:
            yield
        except aiohttp.ClientConnectionError as error:
            raise ClientError(f"Nothing answers at {self._url}: is `make run` running in another terminal?") from error

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        payload: dict[str, Any] = {}
        if body is not None:
            payload = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        async with (
            self._reachable(),
            aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers) as session,
            session.request(method, f"{self._url}{path}", **payload) as response,
        ):
            await _refuse(response)
            result: dict[str, Any] = await response.json()
            return result


async def _refuse(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:  # noqa: PLR2004 - the first HTTP error status
        return
    text = await response.text()
    try:
        problem = json.loads(text)
        error = problem.get("error", problem)
        text = f"{error.get('detail') or error.get('message') or error.get('title')} ({error.get('code')})"
    except (ValueError, AttributeError):
        text = text[:300]
    raise ClientError(f"{response.status}: {text}")
