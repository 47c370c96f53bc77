"""`ChatService`: protobuf in and out, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from wireroom_chat.transport.frames import frame_message
from wireroom_chat.transport.grpc import info_message
from wireroom_chat.usecases.conversations import Asked, Conversations, TurnIds
from wireroom_chat.usecases.sessions import parsed_grounding
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import conversation_pb2, conversation_pb2_grpc


class ConversationServicer(conversation_pb2_grpc.ChatServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def Send(self, request: conversation_pb2.SendRequest, context: Any) -> conversation_pb2.SendResponse:  # noqa: N802 - rpc name
        del context
        ids, body, info = await self._conversations.send(current_principal(), _asked(request))
        return conversation_pb2.SendResponse(
            message_id=str(ids.message_id),
            user_message_id=str(ids.user_message_id),
            session_id=str(ids.session_id),
            body=body,
            info=info_message(info),
        )

    async def StreamSend(  # noqa: N802 - rpc name
        self, request: conversation_pb2.StreamSendRequest, context: Any
    ) -> AsyncIterator[conversation_pb2.StreamSendResponse]:
        del context
        head: TurnIds | None = None
        async with aclosing(self._conversations.stream(current_principal(), _asked(request))) as parts:
            async for part in parts:
                if isinstance(part, TurnIds):
                    head = part
                    continue
                response = conversation_pb2.StreamSendResponse(frame=frame_message(part))
                if head is not None:
                    response.message_id = str(head.message_id)
                    response.user_message_id = str(head.user_message_id)
                    response.session_id = str(head.session_id)
                    head = None
                yield response


def _asked(request: conversation_pb2.SendRequest | conversation_pb2.StreamSendRequest) -> Asked:
    session_id = parse_id(request.session_id, "chat session") if request.session_id else None
    return Asked(request.message, session_id, parsed_grounding(request.grounding), request.model)
