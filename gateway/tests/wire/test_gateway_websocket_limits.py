from __future__ import annotations

import asyncio
import base64
import json
import os
import socket as sockets
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from gateway_chat import SESSION_ID, ScriptedChat, Wire, close_code, frame, frames_until, say, text_of, wired
from websockets.asyncio.client import connect

from wireroom_common.testing import eventually


@pytest_asyncio.fixture
async def wire(work_dir: Path) -> AsyncIterator[Wire]:
    """One gateway with little patience."""
    settings = {"websocket_ping_seconds": 0.4, "slow_body_seconds": 0.5, "slow_reader_seconds": 0.5, "max_websocket_bytes": 4096}
    async with wired(work_dir, ScriptedChat(), **settings) as started:
        yield started


class Bare:
    """A connection that knows the wire and nothing of good manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        size = len(payload)
        head = bytes([(0x80 if fin else 0) | opcode])
        head += bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + struct.pack("!H", size)
        self.writer.write(head + b"\0\0\0\0" + payload)

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            head, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            return head & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])


async def bare(wire: Wire) -> Bare:
    reader, writer = await wire.rig.connect()
    writer.write(
        wire.rig.head(
            "GET",
            f"/api/v1/ws/{SESSION_ID}",
            connection="Upgrade",
            upgrade="websocket",
            sec_websocket_version="13",
            sec_websocket_key=base64.b64encode(os.urandom(16)).decode(),
            sec_websocket_extensions="permessage-deflate",
            authorization=f"Bearer {wire.token()}",
        )
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    # A compressed message is small until somebody reads it.
    assert b"permessage-deflate" not in head
    return Bare(reader, writer)


async def test_who_does_not_answer_pings_is_gone(wire: Wire) -> None:
    client = await bare(wire)
    assert await client.close_code() == 4408
    client.writer.close()


async def test_who_answers_pings_stays(wire: Wire) -> None:
    async with wire.open() as client:
        await frame(client)
        for _ in range(4):
            await asyncio.sleep(0.3)
            await say(client, ping=1)
            assert (await frame(client))["ping"] == 1


@pytest.mark.parametrize("parts", ["one", "two"])
async def test_a_message_that_is_too_large(wire: Wire, parts: str) -> None:
    client = await bare(wire)
    if parts == "one":
        client.send(1, b'{"ping": "%s"}' % (b"x" * 5000))
    else:
        client.send(1, b"x" * 3000, fin=False)
        client.send(0, b"x" * 3000)
    assert await client.close_code() == 1009
    client.writer.close()


async def test_a_message_in_too_many_parts(wire: Wire) -> None:
    client = await bare(wire)
    client.send(1, b"", fin=False)
    for _ in range(70):
        client.send(0, b"", fin=False)
    assert await client.close_code() == 1009
    client.writer.close()


async def test_a_message_that_never_ends(work_dir: Path) -> None:
    async with wired(work_dir, ScriptedChat(), slow_body_seconds=0.5, head_seconds=1) as wire:
        client = await bare(wire)
        client.send(1, b'{"ping": ', fin=False)
        assert await client.close_code() == 4408
        client.writer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x02{}", 1002),
        (b"\xf1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x80\x80\0\0\0\0", 1002),
        (b"\x81\x82\0\0\0\0\xff\xfe", 1007),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 1002),
    ],
    ids=["not masked", "reserved bits", "unknown opcode", "continues nothing", "no UTF-8", "HTTP"],
)
async def test_bytes_that_are_no_frames(wire: Wire, sent: bytes, code: int) -> None:
    client = await bare(wire)
    client.writer.write(sent)
    assert await client.close_code() == code
    client.writer.close()


async def test_pings_are_answered(wire: Wire) -> None:
    client = await bare(wire)
    client.send(9, b"hello")
    opcode, payload = await client.frame()
    while opcode != 10:
        opcode, payload = await client.frame()
    assert payload == b"hello"
    client.writer.close()


async def test_who_does_not_read_is_closed_and_loses_nothing(work_dir: Path) -> None:
    chat = ScriptedChat()
    async with wired(work_dir, chat, slow_reader_seconds=0.5) as wire:
        address = urlsplit(wire.rig.url)
        narrow = sockets.socket()
        narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        narrow.connect((address.hostname, address.port))
        # Reads one message ahead, and no more.
        async with wire.open(sock=narrow, max_queue=1) as client:
            await frame(client)
            await say(client, message="go")
            ready = (await frames_until(client, "ready"))[-1]
            stream = chat.stream
            for number in range(1_000):
                stream.token(f"{number} " + "x" * 20_000)
            registry = wire.rig.infra.registry
            await eventually(
                lambda: registry.get_sample_value("wireroom_gateway_websockets_closed_total", {"code": "1013"}) == 1,
                what="it is closed",
                within=20,
            )
            assert stream.readers == 0
        stream.finish()
        async with wire.open(max_size=None) as client:
            await frame(client)
            await say(client, resume=ready["seq"], stream_id=ready["stream_id"])
            frames = await frames_until(client, "done", "error")
        assert text_of(frames) == stream.text


async def test_no_more_is_read_than_twenty_messages_a_second(work_dir: Path) -> None:
    async with wired(work_dir, ScriptedChat()) as wire, wire.open() as client:
        await frame(client)
        started = asyncio.get_running_loop().time()
        for number in range(45):
            await say(client, ping=number)
        for number in range(45):
            assert (await frame(client))["ping"] == number
        assert asyncio.get_running_loop().time() - started > 1.9


async def test_over_tls(work_dir: Path) -> None:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with wired(work_dir, ScriptedChat(["over ", "TLS"]), tls_port=port) as wire:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        url = f"{wire.rig.urls[1].replace('https', 'wss', 1)}/api/v1/ws/{SESSION_ID}"
        protocols = ["wireroom.v1", f"bearer.{wire.token()}"]
        origin = wire.rig.urls[1]
        async with connect(url, ssl=context, subprotocols=protocols, origin=origin, proxy=None) as client:
            await frame(client)
            await say(client, message="go")
            assert text_of(await frames_until(client, "done", "error")) == "over TLS"


async def test_a_closed_connection_is_no_longer_counted_by_the_listener(wire: Wire) -> None:
    for _ in range(3):
        async with wire.open() as client:
            await frame(client)
            await client.send(json.dumps({"ping": 1}))
        assert await close_code(client) == 1000
    registry = wire.rig.infra.registry
    await eventually(lambda: registry.get_sample_value("wireroom_http_connections") == 0, what="none is left")
