"""An answer as it comes from the chat service, across failures of a replica of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.reattaching import Reattaching, resumed_stream, turn_stream
from wireroom_gateway.routes.chat.frames import NativeFrame, NativeFrames
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import conversation_pb2


class Answer:
    """Frames of one stream, in order. `stream_id` is known from the first frame on."""

    def __init__(self, services: Services, *, timeout: float, stream_id: str = "", after_seq: int = 0) -> None:
        self._services = services
        self._timeout = timeout
        self._after_seq = after_seq
        self.stream_id = stream_id

    def to(self, request: conversation_pb2.StreamSendRequest) -> AsyncGenerator[NativeFrame, None]:
        """The answer to a new question, which is asked when the first frame is."""

        def ask() -> Reattaching:
            call = self._services.chat.StreamSend(request, timeout=self._timeout)
            return turn_stream(call, self._services.streams, self._timeout)

        return self._frames(ask)

    def rest(self) -> AsyncGenerator[NativeFrame, None]:
        """What follows `after_seq` of a stream that was begun before."""
        return self._frames(lambda: resumed_stream(self._services.streams, self.stream_id, self._after_seq, self._timeout))

    async def _frames(self, call: Callable[[], Reattaching]) -> AsyncGenerator[NativeFrame, None]:
        # Here, because the one who reads the frames has a request id of its own.
        parts = call()
        mapping = NativeFrames()
        try:
            async for part in parts:
                for frame in self._take(part, mapping):
                    yield frame
                if part.frame.WhichOneof("part") == "end":
                    return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not this side has given up, the service has.
        finally:
            parts.cancel()
        raise _broken()

    def _take(self, part: Any, mapping: NativeFrames) -> Sequence[NativeFrame]:
        frame: conversation_pb2.StreamFrame = part.frame
        if isinstance(part, conversation_pb2.StreamSendResponse) and part.message_id:
            mapping.message_id, mapping.user_message_id = part.message_id, part.user_message_id
        if frame.WhichOneof("part") == "info" and frame.info.completion_id:
            self.stream_id = frame.info.completion_id
        return mapping.of(frame)


def _broken() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "stream_broken", "The answer broke off. Resume it, or ask again.", retry_after=1.0
    )
