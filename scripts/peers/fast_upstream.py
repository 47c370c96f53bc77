"""An upstream that costs nearly nothing: fixed answers to chat completions, whole or as 200 chunks, for measuring what stands before it.

Listens on the loopback port FAST_PORT. No more HTTP than the load needs: one request at a time on each connection, with Content-Length.
"""

from __future__ import annotations

import asyncio
import json
import os

TOKENS = 200
_HEAD = {"id": "chatcmpl-fast", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "fast"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": TOKENS + 12}


def _chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return b"data: " + json.dumps({**_HEAD, "choices": [choice]}).encode() + b"\n\n"


def _events() -> list[bytes]:
    pieces = [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": f" word{number}"}) for number in range(TOKENS))]
    usage = b"data: " + json.dumps({**_HEAD, "choices": [], "usage": _USAGE}).encode() + b"\n\n"
    return [*pieces, _chunk({}, "stop"), usage, b"data: [DONE]\n\n"]


_MESSAGE = {"role": "assistant", "content": "Hello from the fast upstream.", "refusal": None}
_WHOLE = json.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_WHOLE) + _WHOLE
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# Ten events in one piece, as they reach a proxy from a provider that is not slow.
_EVENTS = _events()
_PIECES = [b"".join(_EVENTS[first : first + 10]) for first in range(0, len(_EVENTS), 10)]
_STREAM = _STREAM_HEAD + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _PIECES) + b"0\r\n\r\n"


class FastUpstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or self._transport is None:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        wanted = b'"stream":true' in body or b'"stream": true' in body
        self._transport.write(_STREAM if wanted else _JSON)


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(FastUpstream, "127.0.0.1", int(os.environ["FAST_PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
