"""`SessionService`: protobuf in and out, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_chat.domain.sessions import DEFAULT_MODEL, Message, Session, SessionChange, SessionDraft
from wireroom_chat.ports.sessions import MessageQuery, SessionQuery
from wireroom_chat.transport import pages
from wireroom_chat.usecases.sessions import ExportHead, ManageSessions, parsed_grounding
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import sessions_pb2, sessions_pb2_grpc

# Below the size of one rpc message.
_EXPORT_PIECE = 256 * 1024


class SessionServicer(sessions_pb2_grpc.SessionServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, sessions: ManageSessions) -> None:
        self._sessions = sessions

    async def CreateSession(  # noqa: N802 - rpc name
        self, request: sessions_pb2.CreateSessionRequest, context: Any
    ) -> sessions_pb2.CreateSessionResponse:
        del context
        draft = SessionDraft(request.title, request.model, request.assistant, parsed_grounding(request.grounding))
        session = await self._sessions.create(current_principal(), draft)
        return sessions_pb2.CreateSessionResponse(session=session_message(session))

    async def GetSession(self, request: sessions_pb2.GetSessionRequest, context: Any) -> sessions_pb2.GetSessionResponse:  # noqa: N802 - rpc name
        del context
        session = await self._sessions.get(current_principal(), parse_id(request.id, "chat session"))
        return sessions_pb2.GetSessionResponse(session=session_message(session))

    async def ListSessions(  # noqa: N802 - rpc name
        self, request: sessions_pb2.ListSessionsRequest, context: Any
    ) -> sessions_pb2.ListSessionsResponse:
        del context
        principal = current_principal()
        size = pages.page_size(request.page_size)
        query = SessionQuery(
            owner_id=parse_id(request.owner_id, "user") if request.owner_id else principal.user_id(),
            text=request.q,
            archived=request.archived if request.HasField("archived") else None,
            after=pages.decode_moment(request.page_token),
            limit=size + 1,
        )
        found = await self._sessions.page(principal, query)
        shown = found[:size]
        token = pages.encode(shown[-1].updated_at.isoformat(), str(shown[-1].id)) if len(found) > size else ""
        return sessions_pb2.ListSessionsResponse(sessions=[session_message(entry) for entry in shown], next_page_token=token)

    async def UpdateSession(  # noqa: N802 - rpc name
        self, request: sessions_pb2.UpdateSessionRequest, context: Any
    ) -> sessions_pb2.UpdateSessionResponse:
        del context
        change = SessionChange(
            title=request.title if request.HasField("title") else None,
            model=request.model if request.HasField("model") else None,
            assistant=request.assistant if request.HasField("assistant") else None,
            grounding=parsed_grounding(request.grounding),
            clear_grounding=request.HasField("grounding") and not request.grounding,
            archived=request.archived if request.HasField("archived") else None,
        )
        session_id = parse_id(request.id, "chat session")
        session = await self._sessions.update(current_principal(), session_id, change, request.version)
        return sessions_pb2.UpdateSessionResponse(session=session_message(session))

    async def DeleteSession(  # noqa: N802 - rpc name
        self, request: sessions_pb2.DeleteSessionRequest, context: Any
    ) -> sessions_pb2.DeleteSessionResponse:
        del context
        await self._sessions.delete(current_principal(), parse_id(request.id, "chat session"))
        return sessions_pb2.DeleteSessionResponse()

    async def ListMessages(  # noqa: N802 - rpc name
        self, request: sessions_pb2.ListMessagesRequest, context: Any
    ) -> sessions_pb2.ListMessagesResponse:
        del context
        size = pages.page_size(request.page_size)
        query = MessageQuery(
            parse_id(request.session_id, "chat session"), pages.decode_number(request.page_token), size + 1, request.newest_first
        )
        found = await self._sessions.messages(current_principal(), query)
        token = pages.encode(str(found[size - 1].number)) if len(found) > size else ""
        return sessions_pb2.ListMessagesResponse(messages=[_message(entry) for entry in found[:size]], next_page_token=token)

    async def AddFeedback(self, request: sessions_pb2.AddFeedbackRequest, context: Any) -> sessions_pb2.AddFeedbackResponse:  # noqa: N802 - rpc name
        del context
        message_id = parse_id(request.message_id, "message")
        await self._sessions.add_feedback(current_principal(), message_id, request.score, list(request.tags), request.comment)
        return sessions_pb2.AddFeedbackResponse()

    async def ExportSession(  # noqa: N802 - rpc name
        self, request: sessions_pb2.ExportSessionRequest, context: Any
    ) -> AsyncIterator[sessions_pb2.ExportSessionResponse]:
        del context
        session_id = parse_id(request.id, "chat session")
        async with aclosing(self._sessions.export(current_principal(), session_id, request.format)) as pieces:
            async for piece in pieces:
                if isinstance(piece, ExportHead):
                    yield sessions_pb2.ExportSessionResponse(media_type=piece.media_type, filename=piece.filename)
                    continue
                for at in range(0, len(piece), _EXPORT_PIECE):
                    yield sessions_pb2.ExportSessionResponse(data=piece[at : at + _EXPORT_PIECE])


def session_message(session: Session) -> sessions_pb2.ChatSession:
    """The session as protobuf has it."""
    return sessions_pb2.ChatSession(
        id=str(session.id),
        owner_id=str(session.owner_id),
        title=session.title,
        model=session.model or ("" if session.assistant else DEFAULT_MODEL),
        assistant=session.assistant,
        grounding=b"" if session.grounding is None else orjson.dumps(session.grounding),
        archived=session.archived,
        message_count=session.message_count,
        version=session.version,
        created_at=_time(session.created_at),
        updated_at=_time(session.updated_at),
        turn_running=session.turn_running,
    )


def _message(message: Message) -> sessions_pb2.SessionMessage:
    return sessions_pb2.SessionMessage(
        id=str(message.id),
        session_id=str(message.session_id),
        number=message.number,
        role=message.role,
        content=message.content,
        annotations=orjson.dumps(message.annotations),
        completion_id=message.completion_id,
        status=message.status,
        finish_reason=message.finish_reason,
        error_code=message.error_code,
        model=message.model,
        answer_mode=message.answer_mode,
        tokens_in=message.tokens_in,
        tokens_out=message.tokens_out,
        created_at=_time(message.created_at),
        finished_at=_time(message.finished_at),
        feedback=message.feedback,
    )


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    result = Timestamp()
    result.FromDatetime(moment)
    return result
