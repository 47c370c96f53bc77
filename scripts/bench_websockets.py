"""What an open WebSocket costs: memory of the gateway per connection, and how long a ping takes while all are open.

`bench_websockets.py [--connections 2000] [--pings 2000]`: one gateway in a process of its own, a chat service that answers from a
script beside it in the same process, clients here. Every connection is authenticated, has passed the whole pipeline and has its session
checked. Exit status 1 above `--most` KB per connection.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "gateway" / "tests" / "wire"))

from gateway_chat import SESSION_ID, ScriptedChat, wired

# Opened first and not counted: what is made once, and what the allocator takes in advance.
WARM = 200
AT_ONCE = 50
# From one address more connections than a default gateway takes from it come in.
SETTINGS = {"max_connections": 100_000, "max_connections_per_client": 100_000, "max_websockets_per_user": 100_000}


async def serve(folder: Path) -> None:
    """The gateway; ends when its input does."""
    async with wired(folder, ScriptedChat(["a"]), **SETTINGS) as wire:
        sys.stderr.write(json.dumps({"url": wire.rig.url, "token": wire.token()}) + "\n")
        sys.stderr.flush()
        await asyncio.to_thread(sys.stdin.read)


class Client(asyncio.Protocol):
    """As little of a WebSocket client as it takes: answers pings, tells when a message has come."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._data = b""
        self._upgraded = False
        self._lost: Exception | None = None
        self._waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream
        self.transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._waiting.done():
            self._lost = exc or ConnectionResetError("closed")
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._upgraded:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._waiting.set_exception(RuntimeError(self._data.decode("latin-1")[:500]))
                return
            self._upgraded, self._data = True, rest
        while len(self._data) >= 2 and len(self._data) >= 2 + self._data[1]:  # noqa: PLR2004 - short frames only
            opcode, size = self._data[0] & 0x0F, self._data[1]
            payload, self._data = self._data[2 : 2 + size], self._data[2 + size :]
            if opcode == 9:  # noqa: PLR2004 - ping
                self.transport.write(bytes([0x8A, 0x80 | size]) + b"\0\0\0\0" + payload)
            elif not self._waiting.done():
                self._waiting.set_result(None)

    async def message(self) -> None:
        """The next message."""
        try:
            await self._waiting
        except asyncio.CancelledError:
            raise self._lost or RuntimeError("cancelled") from None
        self._waiting = asyncio.get_running_loop().create_future()

    async def ping(self) -> float:
        """Seconds until the answer."""
        text = b'{"ping": 1}'
        began = time.perf_counter()
        self.transport.write(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)
        await self.message()
        return time.perf_counter() - began


async def connect(url: str, token: str) -> Client:
    """An open connection whose session was checked."""
    address = urlsplit(url)
    lines = (
        f"GET /api/v1/ws/{SESSION_ID} HTTP/1.1",
        f"host: {address.netloc}",
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {base64.b64encode(os.urandom(16)).decode()}",
        f"sec-websocket-protocol: wireroom.v1, bearer.{token}",
    )
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(head), address.hostname, address.port)
    await client.message()
    return client


async def connect_all(url: str, token: str, count: int) -> list[Client]:
    """`count` of them, a few at a time."""
    clients: list[Client] = []
    while len(clients) < count:
        batch = min(AT_ONCE, count - len(clients))
        clients += await asyncio.gather(*(connect(url, token) for _ in range(batch)))
    return clients


def resident(pid: int) -> int:
    """KB of memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


async def measure(pid: int, url: str, token: str, connections: int, pings: int) -> float:
    """Print what was found; KB per connection."""
    clients = await connect_all(url, token, WARM)
    before = resident(pid)
    began = time.perf_counter()
    clients += await connect_all(url, token, connections)
    seconds = time.perf_counter() - began
    each = (resident(pid) - before) / connections
    print(f"{connections} WebSockets open: {each:.1f} KB each; {connections / seconds:.0f} handshakes per second")
    times = sorted([await random.choice(clients).ping() for _ in range(pings)])  # noqa: S311 - a sample
    print(f"ping and answer: p50 {times[len(times) // 2] * 1000:.2f} ms, p95 {times[len(times) * 95 // 100] * 1000:.2f} ms")
    for client in clients:
        client.transport.abort()
    return each


def main() -> int:
    """Run, print, judge."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--connections", type=int, default=2_000)
    options.add_argument("--pings", type=int, default=2_000)
    options.add_argument("--most", type=float, default=25.0, help="KB per connection")
    options.add_argument("--serve", help=argparse.SUPPRESS)
    given = options.parse_args()
    files = given.connections + WARM + 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(files, 4096), resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    if given.serve:
        uvloop.run(serve(Path(given.serve)))
        return 0
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder, "--connections", str(given.connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            told = json.loads(next(line for line in process.stderr or () if line.startswith("{")))
            each = uvloop.run(measure(process.pid, told["url"], told["token"], given.connections, given.pings))
        finally:
            process.communicate(timeout=60)
    return 0 if each <= given.most else 1


if __name__ == "__main__":
    sys.exit(main())
