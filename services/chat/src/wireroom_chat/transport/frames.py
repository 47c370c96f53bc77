"""Frames of streamed answers as protobuf has them, and back."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.frames import End, Frame, Info
from wireroom_chat.transport.grpc import info_message
from wireroom_common.errors import ErrorKind, invalid
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2
from wireroom_protos.common.v1 import error_pb2

_MAX_TAIL = 1_000
_KINDS = {kind.value: error_pb2.ErrorKind.Value(f"ERROR_KIND_{kind.name}") for kind in ErrorKind}


def frame_message(frame: Frame) -> conversation_pb2.StreamFrame:
    """The message of a frame."""
    part = frame.part
    if isinstance(part, bytes):
        return conversation_pb2.StreamFrame(seq=frame.seq, data=part)
    if isinstance(part, Info):
        return conversation_pb2.StreamFrame(seq=frame.seq, info=info_message(part))
    return conversation_pb2.StreamFrame(seq=frame.seq, end=end_message(part))


def tail_of(messages: Sequence[conversation_pb2.StreamFrame]) -> list[Frame]:
    """The last frames that a caller has, as it sends them along; INVALID for too many of them and for what is none."""
    if len(messages) > _MAX_TAIL:
        raise invalid("tail_too_long", f"At most {_MAX_TAIL} frames may be sent along.", field="tail")
    try:
        return [frame for frame in map(frame_of, messages) if frame is not None]
    except ValueError:
        raise invalid("tail_invalid", "A frame of the tail names no known answer mode.", field="tail") from None


def frame_of(message: conversation_pb2.StreamFrame) -> Frame | None:
    """The frame of a message; None for an end or an empty one: nobody resumes after those."""
    which = message.WhichOneof("part")
    if which == "data":
        return Frame(message.seq, message.data)
    if which == "info":
        return Frame(message.seq, _info(message.info))
    return None


def end_message(end: End) -> conversation_pb2.StreamEnd:
    """How a stream ended."""
    return conversation_pb2.StreamEnd(
        status=end.status,
        error_kind=_KINDS.get(end.error_kind, 0),
        error_code=end.error_code,
        error_detail=end.error_detail,
        retry_after=end.retry_after,
    )


def _info(message: chat_pb2.CompletionInfo) -> Info:
    return Info(
        completion_id=message.completion_id,
        model=message.model,
        answer_mode=AnswerMode(message.answer_mode),
        provider=message.provider,
        path=tuple(message.provider_path),
        cache=message.cache,
        cost_micros=message.cost_micros,
        budget_remaining_micros=message.budget_remaining_micros if message.HasField("budget_remaining_micros") else None,
        retrieval=message.retrieval,
        source_terms=tuple(tuple(terms.names) for terms in message.source_terms),
    )
