"""A listener on a real socket with a small application, and bare connections to it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from wireroom_common.clock import SystemClock
from wireroom_common.runtime.http import HttpServers
from wireroom_common.runtime.http_limits import PEER_KEY, REFUSAL_KEY
from wireroom_common.runtime.service import HttpApp


@dataclass
class Application:
    """Answers what it was asked; refusals with their code. `/big` answers 20 MB, `/wait` when `go` is set."""

    served: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    gone: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = scope.get(REFUSAL_KEY)
        if refusal is not None:
            self.refused.append(refusal.code)
            await _send(send, refusal.status, json.dumps({"code": refusal.code}).encode())
            return
        self.served.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body, more = body + message["body"], message.get("more_body", False)
        if scope["path"] == "/wait":
            await self.go.wait()
        if scope["path"] == "/big":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(200):
                await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
            "client": scope["client"][0],
            "peer": scope.get(PEER_KEY, scope["client"])[0],
            "scheme": scope["scheme"],
        }
        await _send(send, 200, json.dumps(told).encode())


async def _send(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Answer:
    """`status` 0: the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A bare connection to the listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        """The next answer; waits no longer than 10 s."""
        async with asyncio.timeout(10):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return Answer(0, {}, b"")
            line, *rest = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest if entry)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return Answer(int(line.split()[1]), headers, body)

    async def ended(self) -> bool:
        """Whether the other side closes within 10 s, sending nothing more."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()


@dataclass
class Listener:
    """`urls`: HTTP, then HTTPS if there is any."""

    app: Application
    servers: HttpServers
    registry: CollectorRegistry
    urls: list[str]

    async def connect(self, *, tls: ssl.SSLContext | None = None, plain_to_tls: bool = False) -> Connection:
        address = urlsplit(self.urls[1 if tls or plain_to_tls else 0])
        return Connection(
            *await asyncio.open_connection(
                address.hostname, address.port, ssl=tls, server_hostname="localhost" if tls else None, limit=2**20
            )
        )

    async def ask(self, data: bytes) -> tuple[Answer, bool]:
        """The answer to `data` on a connection of its own, and whether the connection stays usable."""
        connection = await self.connect()
        try:
            await connection.send(data)
            answer = await connection.answer()
            if answer.headers.get("connection") == "close" or not answer.status:
                return answer, not await connection.ended()
            await connection.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
            return answer, (await connection.answer()).status == 200
        finally:
            connection.close()

    def cut(self, reason: str) -> float:
        return self.registry.get_sample_value("wireroom_http_connections_cut_total", {"reason": reason}) or 0

    @property
    def open(self) -> float:
        return self.registry.get_sample_value("wireroom_http_connections") or 0


@asynccontextmanager
async def listening(folder: Path, **options: Any) -> AsyncIterator[Listener]:
    """`options` are fields of `HttpApp`."""
    app, registry = Application(), CollectorRegistry()
    http = HttpApp(app, "127.0.0.1", 0, **options)
    servers = HttpServers(http, certificate_dir=folder / "tls", clock=SystemClock(), drain_timeout=5, registry=registry)
    listener = Listener(app, servers, registry, await servers.start())
    try:
        yield listener
    finally:
        app.go.set()
        await servers.stop()
