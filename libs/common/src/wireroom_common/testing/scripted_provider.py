"""A real local server that speaks OpenAI's API (and Anthropic's Messages) and answers by script: for tests only, never a product.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from wireroom_common.testing import scripted_messages

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
    # Instead of text: calls of functions as in a message, `[{"id": …, "type": "function", "function": {"name": …, "arguments": …}}]`.
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    # A request with one of these members is refused with status 400.
    refused_members: tuple[str, ...] = ()
    # Of vectors; `dimensions` of a request goes before it.
    dimensions: int = 8

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
        if "tool_calls" in values:
            values["tool_calls"] = tuple(values["tool_calls"])
        if "refused_members" in values:
            values["refused_members"] = tuple(values["refused_members"])
        return cls(**values)


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it arrived. `authorization`: the header, or the key that Anthropic's clients send."""

    authorization: str
    body: dict[str, Any]


@dataclass
class Billed:
    """What a request costs: its prompt, and the tokens that were sent before it ended in whatever way; refused ones nothing.

    `status` is "running", "completed", "cut" (by the script), "aborted" (by the client) or "refused".
    """

    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: str = "running"


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
        self.bill: deque[Billed] = deque(maxlen=_MAX_RECORDED)

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
        self.bill.clear()
        self.started = self.completed = self.cancelled = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_post("/v1/messages", self._completions)
        app.router.add_post("/v1/embeddings", self._embeddings)
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
        credential = request.headers.get("Authorization", "") or request.headers.get("x-api-key", "")
        self.requests.append(RecordedRequest(credential, body))
        script = self._queue.popleft() if self._queue else self._default
        bill = Billed(body.get("model", ""))
        self.bill.append(bill)
        self.live += 1
        self.started += 1
        try:
            refused = script.status != 200 or any(member in body for member in script.refused_members)  # noqa: PLR2004 - HTTP OK
            if not refused:
                bill.prompt_tokens = script.prompt_tokens
            await self._pause(script.first_byte_delay)
            if refused:
                bill.status = "refused"
                answer: web.StreamResponse = web.Response(
                    status=400 if script.status == 200 else script.status,  # noqa: PLR2004 - HTTP OK
                    headers=dict(script.headers),
                    text=script.error_body,
                    content_type="application/json",
                )
            elif request.path == "/v1/messages":
                answer = await (self._stream_message if body.get("stream") else self._whole_message)(request, body, script, bill)
            elif body.get("stream"):
                answer = await self._stream(request, body, script, bill)
            else:
                answer = await self._whole(request, body, script, bill)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            bill.status = "aborted"
            raise
        else:
            self.completed += 1
            if bill.status == "running":
                bill.status = "cut"
            return answer
        finally:
            self.live -= 1

    async def _whole(self, request: web.Request, body: Mapping[str, Any], script: Script, bill: Billed) -> web.Response:
        for position in range(len(script.tokens)):
            await self._fault(request, script, position)
            await self._pause(script.token_delay)
        await self._fault(request, script, len(script.tokens))
        if script.wrong_json:
            return web.Response(text=script.wrong_json, content_type="application/json")
        message: dict[str, Any] = {"role": "assistant", "content": "".join(script.tokens), "refusal": None}
        if script.tool_calls:
            message |= {"content": None, "tool_calls": list(script.tool_calls)}
        logprobs = {"content": [_logprob(token) for token in script.tokens], "refusal": None} if body.get("logprobs") else None
        answer = {
            **_head(body, "chat.completion"),
            "choices": [
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(script)}
                for index in range(body.get("n") or 1)
            ],
        }
        if script.usage:
            answer["usage"] = _usage(script)
        bill.completion_tokens, bill.status = len(script.tokens) * len(answer["choices"]), "completed"
        return web.json_response(answer, headers=dict(script.headers))

    async def _stream(self, request: web.Request, body: Mapping[str, Any], script: Script, bill: Billed) -> web.StreamResponse:
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
        choices = range(body.get("n") or 1)
        opening = {"role": "assistant", "content": None if script.tool_calls else ""}
        await response.write(_each(head, choices, opening) + b"".join(_event(head, delta) for delta in _call_deltas(script)))
        for position, token in enumerate(script.tokens if not script.tool_calls else ()):
            if await self._fault(request, script, position):
                return response
            if position == script.invalid_after:
                await response.write(b"data: {not json\n\n")
            await self._pause(script.token_delay)
            logprobs = {"content": [_logprob(token)], "refusal": None} if body.get("logprobs") else None
            await response.write(_each(head, choices, {"content": token}, logprobs=logprobs))
            bill.completion_tokens += len(choices)
        if await self._fault(request, script, len(script.tokens)):
            return response
        await response.write(_each(head, choices, {}, _reason(script)))
        bill.status = "completed"
        if script.tool_calls:
            bill.completion_tokens = len(script.tokens)
        if script.usage and (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b"data: " + json.dumps({**head, "choices": [], "usage": _usage(script)}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _whole_message(self, request: web.Request, body: Mapping[str, Any], script: Script, bill: Billed) -> web.Response:
        for position in range(len(script.tokens) + 1):
            await self._fault(request, script, position)
            await self._pause(script.token_delay)
        if script.wrong_json:
            return web.Response(text=script.wrong_json, content_type="application/json")
        tokens = (script.prompt_tokens, len(script.tokens))
        answer = scripted_messages.message(
            body.get("model", ""), "".join(script.tokens), script.tool_calls, _reason(script), tokens
        )
        bill.completion_tokens, bill.status = len(script.tokens), "completed"
        return web.json_response(answer, headers=dict(script.headers))

    async def _stream_message(
        self, request: web.Request, body: Mapping[str, Any], script: Script, bill: Billed
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", **script.headers}
        )
        await response.prepare(request)
        if script.wrong_json:
            await response.write(f"data: {script.wrong_json}\n\n".encode())
            return response
        await response.write(scripted_messages.opening(body.get("model", ""), script.prompt_tokens))
        if script.tool_calls:
            await response.write(scripted_messages.tool_blocks(script.tool_calls))
            bill.completion_tokens = len(script.tokens)
        else:
            await response.write(scripted_messages.text_start())
        for position, token in enumerate(script.tokens if not script.tool_calls else ()):
            if await self._fault(request, script, position):
                return response
            if position == script.invalid_after:
                await response.write(b"data: {not json\n\n")
            await self._pause(script.token_delay)
            await response.write(scripted_messages.text_delta(token))
            bill.completion_tokens += 1
        if await self._fault(request, script, len(script.tokens)):
            return response
        if not script.tool_calls:
            await response.write(scripted_messages.text_stop())
        bill.status = "completed"
        await response.write(scripted_messages.closing(_reason(script), len(script.tokens)))
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

    async def _embeddings(self, request: web.Request) -> web.Response:
        """Vectors made from the length of each input; always numbers, whatever encoding was asked for, as some providers do."""
        body = await request.json()
        self.requests.append(RecordedRequest(request.headers.get("Authorization", ""), body))
        script = self._queue.popleft() if self._queue else self._default
        self.started += 1
        await self._pause(script.first_byte_delay)
        self.completed += 1
        if script.status != 200:  # noqa: PLR2004 - HTTP OK
            return web.Response(
                status=script.status, headers=dict(script.headers), text=script.error_body, content_type="application/json"
            )
        if script.wrong_json:
            return web.Response(text=script.wrong_json, content_type="application/json")
        given = body["input"]
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        size = body.get("dimensions") or script.dimensions
        data = [
            {"object": "embedding", "index": index, "embedding": [len(item) / (place + 1) for place in range(size)]}
            for index, item in enumerate(inputs)
        ]
        usage = {"prompt_tokens": script.prompt_tokens, "total_tokens": script.prompt_tokens}
        self.bill.append(Billed(body.get("model", ""), script.prompt_tokens, 0, "completed"))
        answer = {"object": "list", "data": data, "model": body.get("model"), "usage": usage}
        return web.json_response(answer)

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
                "bill": [vars(item) for item in self.bill],
                "requests": [{"authorization": item.authorization, "body": item.body} for item in list(self.requests)[-20:]],
            }
        )


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": _CREATED, "model": body.get("model", "scripted-model")}


def _event(
    head: Mapping[str, Any],
    delta: Mapping[str, Any],
    finish_reason: str | None = None,
    *,
    index: int = 0,
    logprobs: Mapping[str, Any] | None = None,
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


def _each(head: Mapping[str, Any], choices: Iterable[int], *args: Any, **kwargs: Any) -> bytes:
    return b"".join(_event(head, *args, index=index, **kwargs) for index in choices)


def _logprob(token: str) -> dict[str, Any]:
    other = {"token": "other", "logprob": -2.5, "bytes": list(b"other")}
    return {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": [other]}


def _call_deltas(script: Script) -> list[dict[str, Any]]:
    """Each call begins with its name and goes on with its arguments in two pieces."""
    deltas = []
    for index, call in enumerate(script.tool_calls):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        first = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [first]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in (arguments[:half], arguments[half:])
        ]
    return deltas


def _reason(script: Script) -> str:
    return "tool_calls" if script.tool_calls else script.finish_reason


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
