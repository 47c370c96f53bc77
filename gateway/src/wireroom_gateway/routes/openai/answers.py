"""What the answers of all routes below /v1 have in common: headers about the answer, errors in streams, OpenAPI."""

from __future__ import annotations

from typing import Any

import grpc.aio
import orjson
from starlette.types import Receive, Scope, Send

from wireroom_gateway.routes.answering import Headers, answer_of, overhead_header, send_json, told
from wireroom_gateway.routes.event_stream import DONE, frame
from wireroom_protos.chat.v1 import chat_pb2

_STATUSES = {
    400: "The request is malformed",
    401: "No credential, or one that is not valid",
    403: "The permission is missing",
    404: "There is no such model",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "A rate limit or a budget is used up",
    503: "The model cannot be reached",
    504: "The model did not answer in time",
}
EVENT_STREAM: dict[str, Any] = {"type": "string", "description": "Server-sent events"}


def answer_headers(info: chat_pb2.CompletionInfo | None, *, final: bool) -> Headers:
    """What is known of an answer. What it cost is only told when it is `final`."""
    if info is None:
        return []
    headers = []
    if info.answer_mode:
        headers.append((b"x-answer-mode", _ascii(info.answer_mode)))
    if info.provider_path:
        headers.append((b"x-provider-path", _ascii(",".join(info.provider_path))))
    if info.cache:
        headers.append((b"x-cache", _ascii(info.cache)))
    if info.retrieval:
        headers.append((b"x-retrieval", _ascii(info.retrieval)))
    if final:
        headers.append((b"x-cost-micros", b"%d" % info.cost_micros))
    if info.HasField("budget_remaining_micros"):
        headers.append((b"x-budget-remaining-micros", b"%d" % info.budget_remaining_micros))
    return headers


async def send_answer(receive: Receive, send: Send, call: grpc.aio.UnaryUnaryCall[Any, Any], overhead: float) -> None:
    """The whole answer of `call` with what is known of it; `overhead`: seconds that were spent here before the call."""
    response = await answer_of(call, receive)
    await send_json(send, response.body, [*answer_headers(response.info, final=True), overhead_header(overhead)])


class ChunkEvents:
    """Each part is one JSON chunk; `[DONE]` at the end, an error object instead of it when the answer broke off."""

    def __init__(self) -> None:
        self._info: chat_pb2.CompletionInfo | None = None

    def take(self, part: Any) -> bytes:
        if part.HasField("info"):
            self._info = self._info or part.info
            return b""
        return frame(part.data)

    def headers(self) -> Headers:
        return answer_headers(self._info, final=False)

    def end(self, scope: Scope, error: Exception | None) -> bytes:
        return DONE if error is None else frame(orjson.dumps(told(scope, error)))


def described(
    name: str,
    summary: str,
    *,
    description: str,
    members: dict[str, Any],
    required: list[str],
    answer: dict[str, Any],
    streams: bool = False,
) -> dict[str, Any]:
    """The OpenAPI operation of a route that takes a JSON object and hands it on."""
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": EVENT_STREAM}
    return {
        "tags": ["openai"],
        "summary": summary,
        "description": description,
        "operationId": name,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": required, "properties": members, "additionalProperties": True}
                }
            },
        },
        "responses": {
            "200": {"description": "The answer, or its events" if streams else "The answer", "content": content},
            **{str(status): {"description": text} for status, text in _STATUSES.items()},
        },
    }


def _ascii(text: str) -> bytes:
    """Names of models come from configurations; a header takes no line breaks and no other characters."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return "".join(character if " " <= character <= "~" else "?" for character in text).encode("ascii")
