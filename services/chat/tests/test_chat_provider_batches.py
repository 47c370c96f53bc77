"""Chunks of one read from a provider go on together."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing

import pytest

from wireroom_chat.adapters.providers.http import Endpoint, ProviderHttp, ProviderSessions
from wireroom_chat.adapters.providers.openai import OpenAiProvider
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_common.clock import SystemClock
from wireroom_common.errors import WireroomError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(text: str, reason: str = "null") -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (text.encode(), reason.encode())


@pytest.mark.parametrize(
    ("pieces", "expected", "code"),
    [
        ([chunk("a") + chunk("b"), chunk("c", '"stop"') + b"data: [DONE]\n\n" + chunk("never")], [["a", "b"], ["c"]], ""),
        # What stands before something that is no chunk has been paid for and is not lost.
        ([chunk("a") + chunk("b") + b"data: {\n\n" + chunk("never")], [["a", "b"]], "provider_invalid"),
        ([chunk("a") + b"data: " + b"x" * 1_100_000], [["a"]], "provider_unavailable"),
        ([chunk("a") + chunk("b")], [["a", "b"]], "provider_unavailable"),
    ],
    ids=["complete", "invalid", "endless", "cut"],
)
async def test_chunks_of_one_read_come_together_and_before_a_failure_behind_them(
    pieces: list[bytes], expected: list[list[str]], code: str
) -> None:
    read: list[list[str]] = []
    arrived = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await arrived.wait()
        writer.close()

    sessions = ProviderSessions(max_connections=2)
    await sessions.start()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = Endpoint("p", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, ProviderTimeouts(5, 5, 5, 5))
    provider = OpenAiProvider(ProviderHttp(endpoint, sessions, SystemClock()))
    failure = ""
    try:
        async with aclosing(provider.batches({"model": "m"})) as batches:
            async for batch in batches:
                read.append([entry["choices"][0]["delta"]["content"] for entry in batch])
                arrived.set()
    except WireroomError as error:
        failure = error.code
    finally:
        server.close()
        await sessions.stop()
    assert (read, failure) == (expected, code)
