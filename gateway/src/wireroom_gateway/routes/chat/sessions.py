"""Chat sessions: their list, their messages, their files, and what people think of the answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any, Literal

import grpc.aio
import orjson
from fastapi import FastAPI, Query, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import access
from wireroom_gateway.routes.answering import pieces_of
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import IdFilter, Input, Output, PageSize, PageToken, SearchText, moment
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import sessions_pb2

_TEXT = r"^[^\x00]*$"
Title = Annotated[str, Field(max_length=200, pattern=_TEXT)]
ModelName = Annotated[str, Field(max_length=200, pattern=_TEXT)]
# The members of `grounding` are checked where answers are made: there is one place that knows them.
Grounding = dict[str, Any]
Archived = Annotated[bool | None, Query(description="Only sessions that are, or are not, in the archive")]
_EXPORTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {name: {} for name in ("application/json", "text/markdown", "application/pdf")},
        "headers": {"content-disposition": {"schema": {"type": "string"}}},
    }
}


class SessionOutput(Output):
    """A chat session; `turn_running` while an answer is being written."""

    id: str
    owner_id: str
    title: str
    model: str
    assistant: str
    grounding: Any
    archived: bool
    message_count: int
    version: int
    turn_running: bool
    created_at: datetime | None
    updated_at: datetime | None


class SessionsOutput(Output):
    """A page of sessions, most recently used first."""

    sessions: list[SessionOutput]
    next_page_token: str


class MessageOutput(Output):
    """A message. `citations` are `url_citation`s whose offsets are code points of `content`, end exclusive; `feedback` is -1, 0 or 1."""

    id: str
    session_id: str
    number: int
    role: str
    content: str
    citations: list[Any]
    status: str
    finish_reason: str
    error_code: str
    model: str
    answer_mode: str
    tokens_in: int
    tokens_out: int
    feedback: int
    stream_id: str
    created_at: datetime | None
    finished_at: datetime | None


class MessagesOutput(Output):
    """A page of messages."""

    messages: list[MessageOutput]
    next_page_token: str


class NewSessionInput(Input):
    """Everything may be left out: the first question gives the title, `grounded` is the model."""

    title: Title = ""
    model: ModelName = ""
    assistant: ModelName = ""
    grounding: Grounding | None = None


class SessionChangeInput(Input):
    """What is left out stays. `grounding` null takes it away. With `version`, 409 unless the session is still that version."""

    title: Title | None = None
    model: ModelName | None = None
    assistant: ModelName | None = None
    grounding: Grounding | None = None
    archived: bool | None = None
    version: Annotated[int, Field(ge=0, le=2**62)] = 0


class FeedbackInput(Input):
    """`score`: 1 (good) or -1 (bad)."""

    score: Literal[-1, 1]
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=50, pattern=_TEXT)]], Field(max_length=10, default_factory=list)
    ]
    comment: Annotated[str, Field(max_length=2_000, pattern=_TEXT)] = ""


class ExportInput(Input):
    """The kind of file."""

    format: Literal["json", "markdown", "pdf"] = "markdown"


def add_session_routes(api: FastAPI, services: Services, *, timeout: float, export_timeout: float) -> None:
    """`/api/v1/sessions`, `/api/v1/messages/{id}/feedback`."""

    @api.post("/api/v1/sessions", status_code=201, tags=["chat"], responses=problem_responses(404, 409, 415))
    @access("sessions:write:own")
    async def create_session(body: NewSessionInput, response: Response) -> SessionOutput:
        answer = await services.sessions.CreateSession(
            sessions_pb2.CreateSessionRequest(
                title=body.title, model=body.model, assistant=body.assistant, grounding=grounding_bytes(body.grounding)
            ),
            timeout=timeout,
        )
        response.headers["location"] = f"/api/v1/sessions/{answer.session.id}"
        return _session(answer.session)

    @api.get("/api/v1/sessions", tags=["chat"])
    @access("sessions:read:own")
    async def list_sessions(
        q: SearchText = "",
        archived: Archived = None,
        owner_id: IdFilter = "",
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> SessionsOutput:
        answer = await services.sessions.ListSessions(
            sessions_pb2.ListSessionsRequest(
                page_size=page_size, page_token=page_token, q=q, archived=archived, owner_id=owner_id
            ),
            timeout=timeout,
        )
        return SessionsOutput(sessions=[_session(entry) for entry in answer.sessions], next_page_token=answer.next_page_token)

    @api.get("/api/v1/sessions/{id}", tags=["chat"], responses=problem_responses(404))
    @access("sessions:read:own")
    async def get_session(id: str) -> SessionOutput:  # noqa: A002 - the path's name for it
        answer = await services.sessions.GetSession(sessions_pb2.GetSessionRequest(id=id), timeout=timeout)
        return _session(answer.session)

    @api.patch("/api/v1/sessions/{id}", tags=["chat"], responses=problem_responses(404, 409, 415))
    @access("sessions:write:own")
    async def update_session(id: str, body: SessionChangeInput) -> SessionOutput:  # noqa: A002 - the path's name for it
        answer = await services.sessions.UpdateSession(
            sessions_pb2.UpdateSessionRequest(
                id=id,
                title=body.title,
                model=body.model,
                assistant=body.assistant,
                grounding=grounding_bytes(body.grounding) if "grounding" in body.model_fields_set else None,
                archived=body.archived,
                version=body.version,
            ),
            timeout=timeout,
        )
        return _session(answer.session)

    @api.delete("/api/v1/sessions/{id}", status_code=204, tags=["chat"], responses=problem_responses(404))
    @access("sessions:write:own")
    async def delete_session(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(id=id), timeout=timeout)
        return Response(status_code=204)

    @api.get("/api/v1/sessions/{id}/messages", tags=["chat"], responses=problem_responses(404))
    @access("sessions:read:own")
    async def list_messages(
        id: str,  # noqa: A002 - the path's name for it
        newest_first: Annotated[bool, Query(description="The last messages first")] = False,  # noqa: FBT002 - a query parameter
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> MessagesOutput:
        answer = await services.sessions.ListMessages(
            sessions_pb2.ListMessagesRequest(
                session_id=id, page_size=page_size, page_token=page_token, newest_first=newest_first
            ),
            timeout=timeout,
        )
        return MessagesOutput(messages=[_message(entry) for entry in answer.messages], next_page_token=answer.next_page_token)

    @api.post("/api/v1/messages/{id}/feedback", status_code=204, tags=["chat"], responses=problem_responses(404, 409, 415))
    @access("sessions:write:own")
    async def add_feedback(id: str, body: FeedbackInput) -> Response:  # noqa: A002 - the path's name for it
        await services.sessions.AddFeedback(
            sessions_pb2.AddFeedbackRequest(message_id=id, score=body.score, tags=body.tags, comment=body.comment),
            timeout=timeout,
        )
        return Response(status_code=204)

    @api.post(
        "/api/v1/sessions/{id}/export",
        tags=["chat"],
        response_class=Response,
        responses={**problem_responses(404, 409, 415), **_EXPORTS},
    )
    @access("sessions:read:own")
    async def export_session(id: str, body: ExportInput) -> Response:  # noqa: A002 - the path's name for it
        call = services.sessions.ExportSession(
            sessions_pb2.ExportSessionRequest(id=id, format=body.format), timeout=export_timeout
        )
        return await _file(call)


def grounding_bytes(grounding: Grounding | None) -> bytes:
    """As the chat service takes it: JSON, or nothing."""
    return b"" if grounding is None else orjson.dumps(grounding)


async def _file(
    call: grpc.aio.UnaryStreamCall[sessions_pb2.ExportSessionRequest, sessions_pb2.ExportSessionResponse],
) -> Response:
    """Answers once the first bytes are there: until then a failure has its proper status."""
    pieces = pieces_of(call)
    head, first = None, b""
    async for piece in pieces:
        head = head or piece
        first = piece.data
        if first:
            break
    if head is None:
        raise WireroomError(ErrorKind.UNAVAILABLE, "export_empty", "The file could not be made; try again.")

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            yield first
            async for piece in pieces:
                yield piece.data
        finally:
            await pieces.aclose()

    disposition = f'attachment; filename="{head.filename}"'
    return StreamingResponse(
        body(), media_type=head.media_type, headers={"content-disposition": disposition, "cache-control": "no-store"}
    )


def _session(session: sessions_pb2.ChatSession) -> SessionOutput:
    return SessionOutput(
        id=session.id,
        owner_id=session.owner_id,
        title=session.title,
        model=session.model,
        assistant=session.assistant,
        grounding=orjson.loads(session.grounding) if session.grounding else None,
        archived=session.archived,
        message_count=session.message_count,
        version=session.version,
        turn_running=session.turn_running,
        created_at=moment(session, "created_at"),
        updated_at=moment(session, "updated_at"),
    )


def _message(message: sessions_pb2.SessionMessage) -> MessageOutput:
    return MessageOutput(
        id=message.id,
        session_id=message.session_id,
        number=message.number,
        role=message.role,
        content=message.content,
        citations=citations_of(orjson.loads(message.annotations or b"[]")),
        status=message.status,
        finish_reason=message.finish_reason,
        error_code=message.error_code,
        model=message.model,
        answer_mode=message.answer_mode,
        tokens_in=message.tokens_in,
        tokens_out=message.tokens_out,
        feedback=message.feedback,
        stream_id=message.completion_id,
        created_at=moment(message, "created_at"),
        finished_at=moment(message, "finished_at"),
    )


def citations_of(annotations: Any) -> list[Any]:
    """The `url_citation`s among the annotations of an answer."""
    if not isinstance(annotations, list):
        return []
    return [entry["url_citation"] for entry in annotations if isinstance(entry, dict) and "url_citation" in entry]
