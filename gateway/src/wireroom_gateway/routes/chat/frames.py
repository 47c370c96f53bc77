"""From the frames of a streamed generation to those that clients of the native surface get, as server-sent events and over WebSockets.

`ready {stream_id, model, answer_mode, message_id}` · `token {text}` · `citation {…}` (OpenAI's `url_citation`) · `tool {calls}` (OpenAI's
deltas) · `usage {…}` · `done {finish_reason}` or `error {code, detail}` at the end · `ping`, which has no `seq`.

A client that comes back with the `seq` of the last frame it has seen misses nothing and gets no text twice: of the frames with one `seq`
the text is the last, and what only the end tells (finish reason, usage) comes with the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from wireroom_gateway.problems import problem_of
from wireroom_protos.chat.v1.chat_pb2 import CompletionInfo
from wireroom_protos.chat.v1.conversation_pb2 import StreamEnd, StreamFrame

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class NativeFrame:
    """One frame of a client. `seq` 0: it has none. `resumable`: whoever has seen it may come back with its `seq`."""

    kind: str
    seq: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    resumable: bool = True

    def members(self) -> dict[str, Any]:
        """The frame as one object: its type, its number, its own members."""
        head = {"type": self.kind, "seq": self.seq} if self.seq else {"type": self.kind}
        return {**head, **self.body}

    def message(self) -> bytes:
        """As the text of a WebSocket message."""
        return orjson.dumps(self.members())

    def event(self) -> bytes:
        """As a server-sent event; `id` stands where a client may resume."""
        number = b"id: %d\n" % self.seq if self.seq and self.resumable else b""
        return b"%sevent: %s\ndata: %s\n\n" % (number, self.kind.encode(), orjson.dumps(self.members()))


class NativeFrames:
    """Maps the frames of one stream, in order; remembers what has to wait for the end."""

    def __init__(self, *, message_id: str = "", user_message_id: str = "", session_id: str = "") -> None:
        self.session_id = session_id
        self.message_id = message_id
        self.user_message_id = user_message_id
        self._finish_reason: str | None = None
        self._usage: Mapping[str, Any] | None = None

    def of(self, frame: StreamFrame) -> list[NativeFrame]:
        """What a client gets for it; often one frame, sometimes none."""
        part = frame.WhichOneof("part")
        if part == "data":
            return self._chunk(frame.seq, frame.data)
        if part == "info":
            return [self._ready(frame.seq, frame.info)]
        if part == "end":
            return self._end(frame.seq, frame.end)
        return []

    def _ready(self, seq: int, info: CompletionInfo) -> NativeFrame:
        body: dict[str, Any] = {"stream_id": info.completion_id, "model": info.model, "answer_mode": info.answer_mode}
        if info.retrieval:
            body["retrieval"] = info.retrieval
        if self.session_id:
            body["session_id"] = self.session_id
        if self.message_id:
            body["message_id"] = self.message_id
        if self.user_message_id:
            body["user_message_id"] = self.user_message_id
        return NativeFrame("ready", seq, body)

    def _chunk(self, seq: int, data: bytes) -> list[NativeFrame]:
        chunk = orjson.loads(data)
        usage = chunk.get("usage")
        if usage:
            self._usage = usage
        found: list[tuple[str, Mapping[str, Any]]] = []
        for choice in chunk.get("choices", ()):
            if choice.get("finish_reason"):
                self._finish_reason = choice["finish_reason"]
            delta = choice.get("delta") or _NOTHING
            found += [("citation", _citation(entry)) for entry in delta.get("annotations") or ()]
            event = delta.get("tool_event")
            if isinstance(event, dict):
                found.append(("tool", event))
            calls = delta.get("tool_calls")
            text = delta.get("content") or delta.get("refusal")
            # Choices beyond the first are there only for requests that asked for several.
            which = {"index": choice["index"]} if choice.get("index") else _NOTHING
            if calls:
                found.append(("tool", {"calls": calls, **which}))
            if text:
                found.append(("token", {"text": text, **which}))
        last = len(found) - 1
        return [NativeFrame(kind, seq, body, resumable=place == last) for place, (kind, body) in enumerate(found)]

    def _end(self, seq: int, end: StreamEnd) -> list[NativeFrame]:
        if end.status == "failed":
            last = NativeFrame("error", seq, {"code": end.error_code or "internal", "detail": end.error_detail})
        else:
            reason = "cancelled" if end.status == "cancelled" else self._finish_reason
            last = NativeFrame("done", seq, {"finish_reason": reason})
        if self._usage is None:
            return [last]
        return [NativeFrame("usage", seq, self._usage, resumable=False), last]


def error_frame(error: Exception) -> NativeFrame:
    """The end of a stream that the service could not end itself; no `seq`, so that a client may come back for the rest."""
    problem = problem_of(error)
    return NativeFrame("error", 0, {"code": problem.code, "detail": problem.detail})


def _citation(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    url_citation = entry.get("url_citation")
    return url_citation if isinstance(url_citation, dict) else entry
