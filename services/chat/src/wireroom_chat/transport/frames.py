"""Frames of streamed answers as protobuf has them."""

from __future__ import annotations

from wireroom_chat.domain.frames import End, Frame, Info
from wireroom_chat.transport.grpc import info_message
from wireroom_protos.chat.v1 import conversation_pb2
from wireroom_protos.common.v1.error_pb2 import ErrorKind


def frame_message(frame: Frame) -> conversation_pb2.StreamFrame:
    """The message of `frame`."""
    if isinstance(frame.part, Info):
        return conversation_pb2.StreamFrame(seq=frame.seq, info=info_message(frame.part))
    if isinstance(frame.part, End):
        return conversation_pb2.StreamFrame(seq=frame.seq, end=_end(frame.part))
    return conversation_pb2.StreamFrame(seq=frame.seq, data=frame.part)


def _end(end: End) -> conversation_pb2.StreamEnd:
    kind = ErrorKind.Value(f"ERROR_KIND_{end.error_kind.upper()}") if end.error_kind else 0
    return conversation_pb2.StreamEnd(
        status=end.status, error_kind=kind, error_code=end.error_code, error_detail=end.error_detail, retry_after=end.retry_after
    )
