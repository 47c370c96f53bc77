"""`CompatibilityService`: protobuf in and out, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson

from wireroom_chat.domain.frames import COMPLETED, End, Frame, Info
from wireroom_chat.domain.moderation import moderation_object, parse_moderation_request
from wireroom_chat.transport.frames import end_message, frame_message, tail_of
from wireroom_chat.transport.grpc import info_message, raise_for
from wireroom_chat.usecases.completing import PERMISSION
from wireroom_chat.usecases.embedding import EmbedTexts
from wireroom_chat.usecases.texts import CompleteText
from wireroom_common.ids import new_id
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import compatibility_pb2, compatibility_pb2_grpc, conversation_pb2


class CompatibilityServicer(compatibility_pb2_grpc.CompatibilityServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, texts: CompleteText, embedding: EmbedTexts) -> None:
        self._texts = texts
        self._embedding = embedding

    async def CompleteText(  # noqa: N802 - rpc name
        self, request: compatibility_pb2.CompleteTextRequest, context: Any
    ) -> compatibility_pb2.CompleteTextResponse:
        del context
        body, info = await self._texts.complete(current_principal(), request.body)
        return compatibility_pb2.CompleteTextResponse(body=body, info=info_message(info))

    async def StreamCompleteText(  # noqa: N802 - rpc name
        self, request: compatibility_pb2.StreamCompleteTextRequest, context: Any
    ) -> AsyncIterator[compatibility_pb2.StreamCompleteTextResponse]:
        del context
        frames: list[conversation_pb2.StreamFrame] = []
        async with aclosing(self._texts.stream(current_principal(), request.body)) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    frames.append(frame_message(part))
                    continue
                if isinstance(part, bytes):
                    yield compatibility_pb2.StreamCompleteTextResponse(data=part, frames=frames)
                elif isinstance(part, Info):
                    yield compatibility_pb2.StreamCompleteTextResponse(info=info_message(part), frames=frames)
                else:
                    raise_for(part)
                frames.clear()

    async def ResumeCompleteText(  # noqa: N802 - rpc name
        self, request: compatibility_pb2.ResumeCompleteTextRequest, context: Any
    ) -> AsyncIterator[compatibility_pb2.ResumeCompleteTextResponse]:
        del context
        tail = tail_of(request.tail)
        frames: list[conversation_pb2.StreamFrame] = []
        rest = self._texts.resume(current_principal(), request.body, request.stream_id, max(0, request.chunks), tail)
        async with aclosing(rest) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    frames.append(frame_message(part))
                elif isinstance(part, bytes):
                    yield compatibility_pb2.ResumeCompleteTextResponse(data=part, frames=frames)
                    frames.clear()
                elif isinstance(part, End) and part.status != COMPLETED:
                    yield compatibility_pb2.ResumeCompleteTextResponse(end=end_message(part))

    async def Embed(  # noqa: N802 - rpc name
        self, request: compatibility_pb2.EmbedRequest, context: Any
    ) -> compatibility_pb2.EmbedResponse:
        del context
        body, info = await self._embedding.embed(current_principal(), request.body)
        return compatibility_pb2.EmbedResponse(body=body, info=info_message(info))

    async def Moderate(  # noqa: N802 - rpc name
        self, request: compatibility_pb2.ModerateRequest, context: Any
    ) -> compatibility_pb2.ModerateResponse:
        del context
        current_principal().require(PERMISSION)
        checked = parse_moderation_request(request.body)
        answer = await asyncio.to_thread(moderation_object, checked, new_id().hex)
        return compatibility_pb2.ModerateResponse(body=orjson.dumps(answer))
