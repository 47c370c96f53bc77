"""A real local server that speaks OpenAI's chat completion API and answers by script: for tests only, never a product.

In a test:

    async with ScriptedProvider() as provider:
        provider.script(tokens=["Hel", "lo"], token_delay=0.01)     # every answer from now on
        provider.enqueue(status=429, headers={"Retry-After": "7"})  # the next answer only
        ... provider.base_url ...
        provider.live, provider.cancelled, provider.completed, provider.requests

Beside a harness: `python -m wireroom_common.testing.scripted_provider --port 9100`, then `POST /script` with the members of `Script`
(`{"tokens": […], "queue": true}` for the next answer only), `POST /reset`, and `GET /state`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, Self

from aiohttp import web

_MAX_QUEUE = 1000
_MAX_RECORDED = 1000
_MAX_BODY = 32 * 1024 * 1024
_CREATED = 1_700_000_000


@dataclass(frozen=True)
class Script:
    """How to answer. Times are seconds; counts of tokens begin at 0, negative means never."""

    tokens: tuple[str, ...] = ("Hello", " from", " the", " scripted", " provider", ".")
    first_byte_delay: float = 0.0
    token_delay: float = 0.0
    finish_reason: str = "stop"
    # HTTP status other than 200: `error_body` is sent with it.
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error_body: str = '{"error": {"message": "scripted failure", "type": "scripted"}}'
    # After this many tokens: the body ends early, falls silent, is not JSON, or the connection is reset.
    cut_after: int = -1
    stall_after: int = -1
    invalid_after: int = -1
    reset_after: int = -1
    # Instead of a chat completion: this text as the JSON body, or as the data of the first event.
    wrong_json: str = ""
    usage: bool = True
    prompt_tokens: int = 7
    # Sent before the first chunk, as some providers do.
    comment: str = ""

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Script:
        """From JSON members; ValueError names one that is unknown."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(members) - known)
        if unknown:
            msg = f"A script has no member '{unknown[0]}'; there are {', '.join(sorted(known))}."
            raise ValueError(msg)
        values = dict(members)
        if "tokens" in values:
            values["tokens"] = tuple(str(token) for token in values["tokens"])
        return cls(**values)


@dataclass(frozen=True)
class RecordedRequest:
    """One chat completion request as it arrived."""

    authorization: str
    body: dict[str, Any]


class ScriptedProvider:
    """The server; an async context manager."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, models: tuple[str, ...] = ("scripted-model",)) -> None:
        self._host = host
        self._port = port
        self._models = models
        self._default = Script()
        self._queue: deque[Script] = deque()
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self.live = 0
        self.started = 0
        self.completed = 0
        self.cancelled = 0
        self.requests: deque[RecordedRequest] = deque(maxlen=_MAX_RECORDED)

    @property
    def base_url(self) -> str:
        """What a client is given as the API's address."""
        return f"http://{self._host}:{self._port}/v1"

    def script(self, **members: Any) -> None:
        """Answer like this from now on."""
        self._default = Script.of(members)

    def enqueue(self, **members: Any) -> None:
        """Answer like this once, before anything else."""
        if len(self._queue) >= _MAX_QUEUE:
            msg = f"At most {_MAX_QUEUE} scripts can wait."
            raise ValueError(msg)
        self._queue.append(Script.of(members))

    def reset(self) -> None:
        """Forget scripts, recorded requests and counts; generations that run go on."""
        self._default = Script()
        self._queue.clear()
        self.requests.clear()
        self.started = self.completed = self.cancelled = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/script", self._take_script)
        app.router.add_post("/reset", self._take_reset)
        app.router.add_get("/state", self._state)
        # With cancellation a handler ends when its client is gone: that is how dropped generations are counted.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return web.json_response({"error": {"message": "not JSON", "type": "invalid_request_error"}}, status=400)
        self.requests.append(RecordedRequest(request.headers.get("Authorization", ""), body))
        script = self._queue.popleft() if self._queue else self._default
        self.live += 1
        self.started += 1
        try:
            await self._pause(script.first_byte_delay)
            if script.status != 200:  # noqa: PLR2004 - HTTP OK
                answer: web.StreamResponse = web.Response(
                    status=script.status, headers=dict(script.headers), text=script.error_body, content_type="application/json"
                )
            elif body.get("stream"):
                answer = await self._stream(request, body, script)
            else:
                answer = await self._whole(request, body, script)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        else:
            self.completed += 1
            return answer
        finally:
            self.live -= 1

    async def _whole(self, request: web.Request, body: Mapping[str, Any], script: Script) -> web.Response:
        for position in range(len(script.tokens)):
            await self._fault(request, script, position)
            await self._pause(script.token_delay)
        await self._fault(request, script, len(script.tokens))
        if script.wrong_json:
            return web.Response(text=script.wrong_json, content_type="application/json")
        message = {"role": "assistant", "content": "".join(script.tokens), "refusal": None}
        answer = {
            **_head(body, "chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": script.finish_reason}],
        }
        if script.usage:
            answer["usage"] = _usage(script)
        return web.json_response(answer)

    async def _stream(self, request: web.Request, body: Mapping[str, Any], script: Script) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", **script.headers}
        )
        await response.prepare(request)
        if script.comment:
            await response.write(f": {script.comment}\n\n".encode())
        if script.wrong_json:
            await response.write(f"data: {script.wrong_json}\n\n".encode())
            return response
        head = _head(body, "chat.completion.chunk")
        await response.write(_event(head, {"role": "assistant", "content": ""}))
        for position, token in enumerate(script.tokens):
            if await self._fault(request, script, position):
                return response
            if position == script.invalid_after:
                await response.write(b"data: {not json\n\n")
            await self._pause(script.token_delay)
            await response.write(_event(head, {"content": token}))
        if await self._fault(request, script, len(script.tokens)):
            return response
        await response.write(_event(head, {}, script.finish_reason))
        if script.usage and (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b"data: " + json.dumps({**head, "choices": [], "usage": _usage(script)}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _fault(self, request: web.Request, script: Script, position: int) -> bool:
        """Carry out what the script says for this position; True when the answer ends here."""
        if position == script.stall_after:
            await self._stopping.wait()
            return True
        if position == script.reset_after and request.transport is not None:
            request.transport.abort()
            return True
        return position == script.cut_after

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _list_models(self, request: web.Request) -> web.Response:
        del request
        models = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "scripted"} for name in self._models]
        return web.json_response({"object": "list", "data": models})

    async def _take_script(self, request: web.Request) -> web.Response:
        try:
            members = await request.json()
            if members.pop("queue", False):
                self.enqueue(**members)
            else:
                self.script(**members)
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"ok": True})

    async def _take_reset(self, request: web.Request) -> web.Response:
        del request
        self.reset()
        return web.json_response({"ok": True})

    async def _state(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(
            {
                "live": self.live,
                "started": self.started,
                "completed": self.completed,
                "cancelled": self.cancelled,
                "queued": len(self._queue),
                "requests": [{"authorization": item.authorization, "body": item.body} for item in list(self.requests)[-20:]],
            }
        )


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": _CREATED, "model": body.get("model", "scripted-model")}


def _event(head: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


def _usage(script: Script) -> dict[str, int]:
    count = len(script.tokens)
    return {"prompt_tokens": script.prompt_tokens, "completion_tokens": count, "total_tokens": script.prompt_tokens + count}


async def _serve(host: str, port: int) -> None:
    async with ScriptedProvider(host=host, port=port) as provider:
        sys.stdout.write(provider.base_url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted; prints the API's address when it is ready."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible provider for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    try:
        asyncio.run(_serve(options.host, options.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
