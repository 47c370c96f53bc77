"""Frames as bytes, many in one piece, for a buffer outside of the process."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.frames import End, Frame, Info

_HEAD = struct.Struct(">cI")
_FIRST = struct.Struct(">Q")
_CHUNK, _INFO, _END = b"c", b"i", b"e"


def pack(frames: Sequence[Frame]) -> bytes:
    """At least one frame, numbered without gaps."""
    parts = [_FIRST.pack(frames[0].seq)]
    for _, part in frames:
        if isinstance(part, bytes):
            kind, data = _CHUNK, part
        else:
            kind, data = (_INFO if isinstance(part, Info) else _END), orjson.dumps(asdict(part))
        parts += (_HEAD.pack(kind, len(data)), data)
    return b"".join(parts)


def unpack(packed: bytes) -> list[Frame]:
    """The frames; ValueError for what `pack` did not write."""
    try:
        (seq,) = _FIRST.unpack_from(packed)
        place = _FIRST.size
        frames = []
        while place < len(packed):
            kind, length = _HEAD.unpack_from(packed, place)
            place += _HEAD.size
            data = packed[place : place + length]
            if len(data) != length:
                raise ValueError("a frame was cut off")
            frames.append(Frame(seq, _part(kind, data)))
            seq += 1
            place += length
    except (struct.error, TypeError) as error:
        raise ValueError("these bytes are no frames") from error
    return frames


def _part(kind: bytes, data: bytes) -> Info | bytes | End:
    if kind == _CHUNK:
        return data
    members: dict[str, Any] = orjson.loads(data)
    if kind == _END:
        return End(**members)
    if kind == _INFO:
        terms = tuple(map(tuple, members.get("source_terms", ())))
        mode = AnswerMode(members["answer_mode"])
        return Info(**{**members, "answer_mode": mode, "path": tuple(members["path"]), "source_terms": terms})
    raise ValueError("a frame of no known kind")
