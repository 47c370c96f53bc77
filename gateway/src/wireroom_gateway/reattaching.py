"""A streamed answer that goes on when the replica of the chat service that gave it is gone.

Its last frames are kept here for a moment: a process that dies has sent frames that no other one knows. With them, and the number of the
last one, another replica takes the answer up; the client sees one stream, without a gap and without a repetition.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2_grpc
from wireroom_protos.chat.v1.conversation_pb2 import ResumeRequest, ResumeResponse, StreamEnd, StreamFrame, StreamSendResponse
from wireroom_protos.common.v1 import error_pb2

# What a call ends with when the process behind it is gone or going, not when the answer failed.
_LOST = frozenset({"rpc_unavailable", "rpc_cancelled", "stream_moved", "service_stopping"})
# While another replica is being found; it must first see that the old one is gone.
_FOR_NOW = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE})
_PATIENCE = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# More than what reaches the buffer of streams late: some milliseconds' worth.
_TAIL = 32
_KINDS: dict[int, ErrorKind] = {error_pb2.ErrorKind.Value(f"ERROR_KIND_{kind.name}"): kind for kind in ErrorKind}
_log = get_logger(__name__)


class Reattaching:
    """The parts of a call as they come, then those of the calls that go on with it, made to look the same by `part_of`.

    `frames_of` is the other way round: a part may hold several frames. `ends_silently`: the end of these parts is the end of the call, or
    its error. Without `stream_id` the stream's name is that in its first part: before it nothing can be resumed.
    """

    def __init__(
        self,
        call: Any,
        streams: conversation_pb2_grpc.StreamServiceAsyncStub,
        *,
        frames_of: Callable[[Any], list[StreamFrame]],
        part_of: Callable[[StreamFrame], Any],
        timeout: float,
        stream_id: str = "",
        after: int = 0,
        ends_silently: bool = False,
        patience: float = _PATIENCE,
    ) -> None:
        self._call = call
        self._streams = streams
        self._frames_of = frames_of
        self._part_of = part_of
        self._timeout = timeout
        self._stream_id = stream_id
        self._after = after
        self._ends_silently = ends_silently
        self._patience = patience
        self._tail: deque[Any] = deque(maxlen=_TAIL)
        self._given_up = False

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._given_up = True
        self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        error: Exception
        try:
            async for part in self._call:
                if not self._stream_id:
                    self._stream_id = self._name_of(part)
                self._note(part)
                yield part
        except asyncio.CancelledError:
            if not self._is_lost(None):
                raise
            error = WireroomError(ErrorKind.UNAVAILABLE, "rpc_cancelled", "The answer was given up. Try again.", retry_after=1.0)
        except WireroomError as failure:
            if not self._is_lost(failure):
                raise
            error = failure
        else:
            return
        async for part in self._resumed(error):
            yield part

    def _is_lost(self, error: WireroomError | None) -> bool:
        """Whether it is the call that broke off and not the answer, and whether the answer can be found again."""
        if error is None:
            task = asyncio.current_task()
            if self._given_up or (task is not None and task.cancelling()):
                return False
        elif error.code not in _LOST:
            return False
        return bool(self._stream_id)

    async def _resumed(self, error: Exception) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        pause, give_up_at = _FIRST_PAUSE, loop.time() + self._patience
        while True:
            _log.warning("stream_reattaching", stream_id=self._stream_id)
            ending: StreamEnd | None = None
            try:
                async for frame in self._frames():
                    pause, give_up_at = _FIRST_PAUSE, loop.time() + self._patience
                    if self._ends_silently and frame.WhichOneof("part") == "end":
                        ending = frame.end
                        break
                    yield self._part_of(frame)
            except asyncio.CancelledError:
                if not self._is_lost(None):
                    raise
            except WireroomError as failure:
                if failure.kind not in _FOR_NOW:
                    raise _telling(error, failure) from None
            else:
                raise_for(ending)
                return
            if loop.time() + pause > give_up_at:
                raise error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _name_of(self, part: Any) -> str:
        frames = self._frames_of(part)
        return str(frames[0].info.completion_id) if frames else ""

    def _note(self, part: Any) -> None:
        self._tail.append(part)

    def _last_frames(self) -> list[StreamFrame]:
        return [frame for part in self._tail for frame in self._frames_of(part)][-_TAIL:]

    async def _frames(self) -> AsyncIterator[Any]:
        frames = self._last_frames()
        after = frames[-1].seq if frames else self._after
        request = ResumeRequest(stream_id=self._stream_id, after_seq=after, tail=frames)
        call = self._call = self._streams.Resume(request, timeout=self._timeout)
        async for response in call:
            self._note(self._part_of(response.frame))
            yield response.frame


class ReattachingMade(Reattaching):
    """For parts that are made of a stream's frames and bring them along (`frames`): another replica makes the rest of them.

    `again`: asks for the parts after those that count (`counts`), from the stream's name, their number and the last frames.
    """

    def __init__(
        self,
        call: Any,
        streams: conversation_pb2_grpc.StreamServiceAsyncStub,
        *,
        again: Callable[[str, int, list[StreamFrame]], Any],
        counts: Callable[[Any], bool],
        timeout: float,
    ) -> None:
        super().__init__(
            call,
            streams,
            frames_of=lambda part: list(part.frames),
            part_of=lambda part: part,
            timeout=timeout,
            ends_silently=True,
        )
        self._again = again
        self._counts = counts
        self._known = 0

    def _note(self, part: Any) -> None:
        self._known += self._counts(part)
        super()._note(part)

    def _is_lost(self, error: WireroomError | None) -> bool:
        return super()._is_lost(error) and bool(self._last_frames())

    async def _frames(self) -> AsyncIterator[Any]:
        call = self._call = self._again(self._stream_id, self._known, self._last_frames())
        async for part in call:
            self._note(part)
            yield part


def chunk_stream(call: Any, streams: conversation_pb2_grpc.StreamServiceAsyncStub, timeout: float) -> Reattaching:
    """For `StreamComplete`, whose end is the end of the call."""
    return Reattaching(call, streams, frames_of=_frames_of_chunks, part_of=_chunk_of_frame, timeout=timeout, ends_silently=True)


def _telling(error: Exception, failure: WireroomError) -> Exception:
    """The first failure is what happened; that it could not be mended is the client's business only where it says more."""
    return failure if failure.kind is ErrorKind.CONFLICT else error


def raise_for(end: StreamEnd | None) -> None:
    """The error of a stream that did not come to its end."""
    if end is None:
        return
    if end.status == "failed":
        kind = _KINDS.get(end.error_kind, ErrorKind.INTERNAL)
        raise WireroomError(kind, end.error_code, end.error_detail, retry_after=end.retry_after)
    if end.status == "cancelled":
        raise WireroomError(ErrorKind.UNAVAILABLE, "stream_cancelled", "The answer was given up. Try again.", retry_after=1.0)


def _frames_of_chunks(part: chat_pb2.StreamCompleteResponse) -> list[StreamFrame]:
    if part.WhichOneof("part") == "info":
        return [StreamFrame(seq=part.seq, info=part.info)]
    return [StreamFrame(seq=part.seq + place, data=data) for place, data in enumerate((part.data, *part.more))]


def _chunk_of_frame(frame: StreamFrame) -> chat_pb2.StreamCompleteResponse:
    if frame.WhichOneof("part") == "info":
        return chat_pb2.StreamCompleteResponse(seq=frame.seq, info=frame.info)
    return chat_pb2.StreamCompleteResponse(seq=frame.seq, data=frame.data)


def turn_stream(call: Any, streams: conversation_pb2_grpc.StreamServiceAsyncStub, timeout: float) -> Reattaching:
    """For `StreamSend`."""
    return Reattaching(call, streams, frames_of=_frames_in, part_of=_turn_part, timeout=timeout)


def resumed_stream(
    streams: conversation_pb2_grpc.StreamServiceAsyncStub, stream_id: str, after: int, timeout: float
) -> Reattaching:
    """For `Resume`, which is called here."""
    call = streams.Resume(ResumeRequest(stream_id=stream_id, after_seq=after), timeout=timeout)
    return Reattaching(
        call, streams, frames_of=_frames_in, part_of=_resumed_part, timeout=timeout, stream_id=stream_id, after=after
    )


def _frames_in(part: StreamSendResponse | ResumeResponse) -> list[StreamFrame]:
    return [part.frame]


def _turn_part(frame: StreamFrame) -> StreamSendResponse:
    return StreamSendResponse(frame=frame)


def _resumed_part(frame: StreamFrame) -> ResumeResponse:
    return ResumeResponse(frame=frame)
