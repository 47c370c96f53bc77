"""`StreamService`: coming back to streamed generations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from wireroom_chat.transport.frames import frame_message, tail_of
from wireroom_chat.usecases.streams import Streams
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import conversation_pb2, conversation_pb2_grpc


class StreamServicer(conversation_pb2_grpc.StreamServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def Resume(  # noqa: N802 - rpc name
        self, request: conversation_pb2.ResumeRequest, context: Any
    ) -> AsyncIterator[conversation_pb2.ResumeResponse]:
        del context
        resumed = self._streams.resume(current_principal(), request.stream_id, request.after_seq, tail_of(request.tail))
        async with aclosing(resumed) as frames:
            async for frame in frames:
                yield conversation_pb2.ResumeResponse(frame=frame_message(frame))

    async def Cancel(self, request: conversation_pb2.CancelRequest, context: Any) -> conversation_pb2.CancelResponse:  # noqa: N802 - rpc name
        del context
        await self._streams.cancel(current_principal(), request.stream_id)
        return conversation_pb2.CancelResponse()
