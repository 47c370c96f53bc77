"""An answer as it comes from the chat service, across failures of a replica of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.routes.chat.frames import NativeFrame, NativeFrames
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import conversation_pb2

# Seconds between attempts to take an answer up again whose service went away; then the client is told, and may do so itself.
_PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0)
_LOST = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE})


class Answer:
    """Frames of one stream, each once and in order. `stream_id` is known from the first frame on."""

    def __init__(self, services: Services, *, timeout: float, stream_id: str = "", after_seq: int = 0) -> None:
        self._services = services
        self._timeout = timeout
        self.stream_id = stream_id
        self.seq = after_seq

    async def to(self, request: conversation_pb2.StreamSendRequest) -> AsyncGenerator[NativeFrame, None]:
        """The answer to a new question."""
        async for frame in self._frames(self._services.chat.StreamSend(request, timeout=self._timeout)):
            yield frame

    async def rest(self) -> AsyncGenerator[NativeFrame, None]:
        """What follows `after_seq` of a stream that was begun before."""
        async for frame in self._frames(self._resumed()):
            yield frame

    def _resumed(self) -> Any:
        request = conversation_pb2.ResumeRequest(stream_id=self.stream_id, after_seq=self.seq)
        return self._services.streams.Resume(request, timeout=self._timeout)

    async def _frames(self, call: Any) -> AsyncIterator[NativeFrame]:
        mapping = NativeFrames()
        failures = 0
        while True:
            try:
                async for part in call:
                    failures = 0
                    for frame in self._take(part, mapping):
                        yield frame
                    if part.frame.WhichOneof("part") == "end":
                        return
                failure = _broken()
            except WireroomError as error:
                failure = error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not this side has given up, the service has.
                failure = _broken()
            finally:
                call.cancel()
            if not self.stream_id or failure.kind not in _LOST or failures >= len(_PAUSES):
                raise failure
            await asyncio.sleep(_PAUSES[failures])
            failures += 1
            call = self._resumed()

    def _take(self, part: Any, mapping: NativeFrames) -> Sequence[NativeFrame]:
        frame: conversation_pb2.StreamFrame = part.frame
        if isinstance(part, conversation_pb2.StreamSendResponse) and part.message_id:
            mapping.message_id, mapping.user_message_id = part.message_id, part.user_message_id
        if frame.seq <= self.seq:
            return ()
        self.seq = frame.seq
        if frame.WhichOneof("part") == "info" and frame.info.completion_id:
            self.stream_id = frame.info.completion_id
        return mapping.of(frame)


def _broken() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "stream_broken", "The answer broke off. Resume it, or ask again.", retry_after=1.0
    )
