"""`/v1/responses`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Query
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.reattaching import ReattachingMade
from wireroom_gateway.routes.answering import (
    Headers,
    Waiting,
    read_object,
    send_events,
    told,
    wants_stream,
)
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import IdFilter, Output
from wireroom_gateway.routes.openai.answers import answer_headers, described, send_answer
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2, conversation_pb2_grpc, responses_pb2, responses_pb2_grpc

PATH = "/v1/responses"
_RESPONSE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created_at", "model", "status", "output"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "output": {"type": "array", "items": {"type": "object"}},
    },
}
OPENAPI: dict[str, Any] = {
    PATH: {
        "post": described(
            "create_response",
            "Create Response",
            description="OpenAI's Responses API with function tools. `grounding` may stand beside the standard members.",
            required=["model", "input"],
            members={
                "model": {"type": "string"},
                "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
                "instructions": {"type": ["string", "null"]},
                "previous_response_id": {"type": ["string", "null"]},
                "store": {"type": ["boolean", "null"]},
                "stream": {"type": "boolean"},
                "grounding": {"type": "object"},
            },
            answer=_RESPONSE,
            streams=True,
        )
    }
}
_WITH_BODY: dict[int | str, dict[str, Any]] = {
    **problem_responses(404),
    200: {"description": "The response", "content": {"application/json": {"schema": _RESPONSE}}},
}
_LIST: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data", "first_id", "last_id", "has_more"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
}


class DeletedResponseOutput(Output):
    """What was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class CreateResponse:
    """A client that goes away cancels the call."""

    def __init__(
        self,
        stub: responses_pb2_grpc.ResponseServiceAsyncStub,
        streams: conversation_pb2_grpc.StreamServiceAsyncStub,
        waiting: Waiting,
    ) -> None:
        self._stub = stub
        self._streams = streams
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body, request = await read_object(scope, receive)
        if wants_stream(request):
            stream = self._stream(body)
            await send_events((scope, receive, send), stream, _ResponseEvents(), self._waiting, started)
            return
        overhead = time.perf_counter() - started
        call = self._stub.CreateResponse(responses_pb2.CreateResponseRequest(body=body), timeout=self._waiting.answer)
        await send_answer(receive, send, call, overhead)

    def _stream(self, body: bytes) -> ReattachingMade:
        """The events, from another replica when the one that makes them is gone."""
        first: list[bytes] = []

        def counts(part: Any) -> bool:
            if not part.HasField("event"):
                return False
            if not first:
                first.append(part.event.data)
            return True

        def again(stream_id: str, known: int, tail: list[conversation_pb2.StreamFrame]) -> Any:
            # The first event holds the response's id. Without it nothing is known of the response: another one may be made.
            name = orjson.loads(first[0])["response"]["id"] if first else ""
            request = responses_pb2.ResumeResponseRequest(body=body, id=name, stream_id=stream_id, events=known, tail=tail)
            return self._stub.ResumeResponse(request, timeout=self._waiting.answer)

        call = self._stub.StreamResponse(responses_pb2.StreamResponseRequest(body=body), timeout=self._waiting.answer)
        return ReattachingMade(call, self._streams, again=again, counts=counts, timeout=self._waiting.answer)


class _ResponseEvents:
    """Typed events; the last one is `response.completed` or tells what went wrong. There is no `[DONE]`."""

    def __init__(self) -> None:
        self._info: chat_pb2.CompletionInfo | None = None
        self._count = 0

    def take(self, part: responses_pb2.StreamResponseResponse) -> bytes:
        if part.HasField("info"):
            self._info = part.info
            return b""
        self._count += 1
        return b"event: %s\ndata: %s\n\n" % (part.event.type.encode(), part.event.data)

    def headers(self) -> Headers:
        return answer_headers(self._info, final=False)

    def end(self, scope: Scope, error: Exception | None) -> bytes:
        if error is None:
            return b""
        problem = told(scope, error)["error"]
        event = {
            "type": "error",
            "sequence_number": self._count,
            "code": problem["code"],
            "message": problem["message"],
            "param": problem["param"],
        }
        return b"event: error\ndata: %s\n\n" % orjson.dumps(event)


def add_response_routes(
    api: FastAPI,
    stub: responses_pb2_grpc.ResponseServiceAsyncStub,
    streams: conversation_pb2_grpc.StreamServiceAsyncStub,
    waiting: Waiting,
    *,
    timeout: float,
) -> None:
    """Stored responses are seen by their owner only."""
    api.router.routes.append(Route(PATH, CreateResponse(stub, streams, waiting), methods=["POST"]))

    @api.get(f"{PATH}/{{id}}", tags=["openai"], response_class=Response, responses=_WITH_BODY)
    @access("llm:invoke")
    async def get_response(id: str) -> Response:  # noqa: A002 - the path's name for it
        found = await stub.GetResponse(responses_pb2.GetResponseRequest(id=id), timeout=timeout)
        return Response(found.body, media_type="application/json")

    @api.delete(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404))
    @access("llm:invoke")
    async def delete_response(id: str) -> DeletedResponseOutput:  # noqa: A002 - the path's name for it
        await stub.DeleteResponse(responses_pb2.DeleteResponseRequest(id=id), timeout=timeout)
        return DeletedResponseOutput(id=id)

    @api.get(
        f"{PATH}/{{id}}/input_items",
        tags=["openai"],
        response_class=Response,
        responses={**_WITH_BODY, 200: {"description": "The items", "content": {"application/json": {"schema": _LIST}}}},
    )
    @access("llm:invoke")
    async def list_input_items(
        id: str,  # noqa: A002 - the path's name for it
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Annotated[Literal["asc", "desc"], Query()] = "desc",
        after: IdFilter = "",
    ) -> Response:
        request = responses_pb2.ListInputItemsRequest(id=id, limit=limit, after=after, ascending=order == "asc")
        return Response((await stub.ListInputItems(request, timeout=timeout)).body, media_type="application/json")
