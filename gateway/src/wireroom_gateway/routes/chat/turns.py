"""`POST /api/v1/chat`: a turn of a chat session, answered as a whole."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import Bucket, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.chat.sessions import Grounding, ModelName, citations_of, grounding_bytes
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.routes.openai.answers import answer_headers
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import conversation_pb2

# The chat service knows how long a message may be; beyond this none may.
_MAX_MESSAGE = 100_000


class ChatInput(Input):
    """A question. Without `session_id` a session is made; `grounding` and `model` hold for this turn only."""

    message: Annotated[str, Field(min_length=1, max_length=_MAX_MESSAGE, pattern=r"^[^\x00]*$")]
    session_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")] | None = None
    grounding: Grounding | None = None
    model: ModelName = ""


class ChatOutput(Output):
    """The answer. `citations` are `url_citation`s whose offsets are code points of `message`, end exclusive."""

    session_id: str
    message_id: str
    user_message_id: str
    message: str
    citations: list[Any]
    finish_reason: str
    answer_mode: str
    model: str
    usage: Any
    stream_id: str


def add_turn_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/chat`."""

    @api.post("/api/v1/chat", tags=["chat"], responses=problem_responses(404, 409, 415))
    @access("chat:use", bucket=Bucket.CHAT, prompt=True)
    async def send_message(body: ChatInput, response: Response) -> ChatOutput:
        answer = await services.chat.Send(
            conversation_pb2.SendRequest(
                session_id=body.session_id or "",
                message=body.message,
                grounding=grounding_bytes(body.grounding),
                model=body.model,
            ),
            timeout=timeout,
        )
        for name, value in answer_headers(answer.info, final=True):
            response.headers[name.decode()] = value.decode()
        completion = orjson.loads(answer.body)
        choice = completion["choices"][0]
        said = choice["message"]
        return ChatOutput(
            session_id=answer.session_id,
            message_id=answer.message_id,
            user_message_id=answer.user_message_id,
            message=said.get("content") or "",
            citations=citations_of(said.get("annotations")),
            finish_reason=choice.get("finish_reason") or "",
            answer_mode=answer.info.answer_mode,
            model=answer.info.model,
            usage=completion.get("usage"),
            stream_id=answer.info.completion_id,
        )
