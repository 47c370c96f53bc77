"""`ResponseService`: protobuf in and out, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson

from wireroom_chat.domain.frames import Frame, Info
from wireroom_chat.domain.response_events import Event
from wireroom_chat.transport.frames import frame_message, tail_of
from wireroom_chat.transport.grpc import info_message
from wireroom_chat.usecases.responding import KnownEvents, Respond
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import conversation_pb2, responses_pb2, responses_pb2_grpc

_MAX_PAGE = 100


class ResponseServicer(responses_pb2_grpc.ResponseServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    async def CreateResponse(  # noqa: N802 - rpc name
        self, request: responses_pb2.CreateResponseRequest, context: Any
    ) -> responses_pb2.CreateResponseResponse:
        del context
        body, info = await self._respond.create(current_principal(), request.body)
        return responses_pb2.CreateResponseResponse(body=body, info=info_message(info))

    async def StreamResponse(  # noqa: N802 - rpc name
        self, request: responses_pb2.StreamResponseRequest, context: Any
    ) -> AsyncIterator[responses_pb2.StreamResponseResponse]:
        del context
        frames: list[conversation_pb2.StreamFrame] = []
        async with aclosing(self._respond.stream(current_principal(), request.body)) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    frames.append(frame_message(part))
                    continue
                if isinstance(part, Info):
                    yield responses_pb2.StreamResponseResponse(info=info_message(part), frames=frames)
                else:
                    yield responses_pb2.StreamResponseResponse(event=_event_message(part), frames=frames)
                frames.clear()

    async def ResumeResponse(  # noqa: N802 - rpc name
        self, request: responses_pb2.ResumeResponseRequest, context: Any
    ) -> AsyncIterator[responses_pb2.ResumeResponseResponse]:
        del context
        known = KnownEvents(request.id, request.stream_id, max(0, request.events), tail_of(request.tail))
        frames: list[conversation_pb2.StreamFrame] = []
        async with aclosing(self._respond.resume(current_principal(), request.body, known)) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    frames.append(frame_message(part))
                elif isinstance(part, Event):
                    yield responses_pb2.ResumeResponseResponse(event=_event_message(part), frames=frames)
                    frames.clear()

    async def GetResponse(  # noqa: N802 - rpc name
        self, request: responses_pb2.GetResponseRequest, context: Any
    ) -> responses_pb2.GetResponseResponse:
        del context
        return responses_pb2.GetResponseResponse(body=await self._respond.get(current_principal(), request.id))

    async def DeleteResponse(  # noqa: N802 - rpc name
        self, request: responses_pb2.DeleteResponseRequest, context: Any
    ) -> responses_pb2.DeleteResponseResponse:
        del context
        await self._respond.delete(current_principal(), request.id)
        return responses_pb2.DeleteResponseResponse()

    async def ListInputItems(  # noqa: N802 - rpc name
        self, request: responses_pb2.ListInputItemsRequest, context: Any
    ) -> responses_pb2.ListInputItemsResponse:
        del context
        page = await self._respond.input_items(
            current_principal(),
            request.id,
            limit=min(max(request.limit, 1), _MAX_PAGE),
            after=request.after,
            ascending=request.ascending,
        )
        return responses_pb2.ListInputItemsResponse(body=page.render())


def _event_message(event: Event) -> responses_pb2.ResponseEvent:
    return responses_pb2.ResponseEvent(type=event.type, data=orjson.dumps(event.members))
