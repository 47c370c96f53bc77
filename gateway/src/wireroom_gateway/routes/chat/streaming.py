"""`/api/v1/chat/stream` and `/api/v1/chat/streams/{stream_id}`: turns of chat sessions as server-sent events, and coming back to them."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wireroom_common.errors import invalid
from wireroom_gateway.access import Bucket, access
from wireroom_gateway.reattaching import resumed_stream, turn_stream
from wireroom_gateway.routes.answering import Events, Headers, Parts, Waiting, send_events, told
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.chat.frames import NativeFrames, error_frame
from wireroom_gateway.routes.chat.sessions import grounding_bytes
from wireroom_gateway.routes.chat.turns import ChatInput
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2

_PATH = "/api/v1/chat/streams/{stream_id}"
_MAX_SEQ = 2**62
# Fields, not a model: their places are the query and a header.
After = Annotated[
    int, Query(ge=0, le=_MAX_SEQ, description="Number of the last event that was seen; `Last-Event-ID` goes before it")
]


# The schema is that of one event.
EVENTS: dict[str, Any] = {
    "description": "Server-sent events",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
            }
        }
    },
}


class EventStream(Response):
    """Answers by events as they come."""

    media_type = "text/event-stream"

    def __init__(self, parts: Parts, events: Events, waiting: Waiting) -> None:
        super().__init__()
        self._parts = parts
        self._events = events
        self._waiting = waiting
        self._started = time.perf_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_events((scope, receive, send), self._parts, self._events, self._waiting, self._started)


class NativeEvents:
    """Frames as events; a stream that breaks off ends with an event `error` without an id."""

    def __init__(self) -> None:
        self._frames = NativeFrames()
        self._info: chat_pb2.CompletionInfo | None = None

    def take(self, part: Any) -> bytes:
        if isinstance(part, conversation_pb2.StreamSendResponse) and part.message_id:
            self._frames.message_id, self._frames.user_message_id = part.message_id, part.user_message_id
            self._frames.session_id = part.session_id
        frame = part.frame
        if self._info is None and frame.WhichOneof("part") == "info":
            self._info = frame.info
        return b"".join([native.event() for native in self._frames.of(frame)])

    def headers(self) -> Headers:
        if self._info is None:
            return []
        return [
            (b"x-answer-mode", self._info.answer_mode.encode("ascii", "replace")),
            (b"x-stream-id", self._info.completion_id.encode("ascii", "replace")),
        ]

    def end(self, scope: Scope, error: Exception | None) -> bytes:
        if error is None:
            return b""
        told(scope, error)
        return error_frame(error).event()


def add_streaming_routes(api: FastAPI, services: Services, waiting: Waiting, *, timeout: float) -> None:
    """`waiting` for the streams, `timeout` for the rest."""

    @api.post(
        "/api/v1/chat/stream",
        tags=["chat"],
        status_code=200,
        response_class=EventStream,
        response_model=None,
        description="Events `ready`, `token`, `citation`, `tool`, `usage`, then `done` or `error`. Their ids resume the stream.",
        responses={200: EVENTS, **problem_responses(404, 409, 415)},
    )
    @access("chat:use", bucket=Bucket.CHAT, prompt=True)
    async def stream_message(body: ChatInput) -> EventStream:
        call = services.chat.StreamSend(
            conversation_pb2.StreamSendRequest(
                session_id=body.session_id or "",
                message=body.message,
                grounding=grounding_bytes(body.grounding),
                model=body.model,
            ),
            timeout=waiting.answer,
        )
        return EventStream(turn_stream(call, services.streams, waiting.answer), NativeEvents(), waiting)

    @api.get(
        _PATH,
        tags=["chat"],
        status_code=200,
        response_class=EventStream,
        response_model=None,
        description="The events after `Last-Event-ID` or `after`, then live until the end.",
        responses={200: EVENTS, **problem_responses(404, 409)},
    )
    @access("chat:use")
    async def resume_stream(stream_id: str, request: Request, after: After = 0) -> EventStream:
        last = request.headers.get("last-event-id", "")
        if last and not (last.isascii() and last.isdigit() and int(last[:20]) <= _MAX_SEQ):
            raise invalid(
                "last_event_id_invalid", "Last-Event-ID must be the id of an event of this stream.", field="last-event-id"
            )
        parts = resumed_stream(services.streams, stream_id, int(last) if last else after, waiting.answer)
        return EventStream(parts, NativeEvents(), waiting)

    @api.delete(_PATH, tags=["chat"], status_code=204, response_model=None, responses=problem_responses(404, 415))
    @access("chat:use")
    async def cancel_stream(stream_id: str) -> Response:
        await services.streams.Cancel(conversation_pb2.CancelRequest(stream_id=stream_id), timeout=timeout)
        return Response(status_code=204)
