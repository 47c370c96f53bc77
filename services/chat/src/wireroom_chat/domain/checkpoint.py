"""What a process leaves behind of a streamed answer, so that another one can go on with it, and what the answer's chunks tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.request import ChatRequest, Grounding, GroundingMode, Unsupported, parse_request
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.domain.token_estimate import answer_tokens


def checkpoint_of(request: ChatRequest, grounding: Grounding | None, *, continuable: bool) -> dict[str, Any]:
    """Of a request; `grounding` is what its route makes of the request's own. Later `noted` adds what is known at the first word."""
    return {
        "request": {**request.raw, "disable_fallback": not request.fallback},
        "grounding": _packed(grounding) if grounding is not None else None,
        "search": request.search,
        "continuable": continuable,
        "terms": request.terms.written(),
    }


def request_of(checkpoint: Mapping[str, Any]) -> ChatRequest:
    """The request of a checkpoint."""
    request = parse_request(orjson.dumps(checkpoint["request"]), stream=True)
    grounding = checkpoint.get("grounding")
    return replace(
        request,
        grounding=_unpacked(grounding) if grounding is not None else None,
        search=checkpoint.get("search") or "",
        terms=SourceTerms.read(checkpoint.get("terms")),
    )


def _packed(grounding: Grounding) -> dict[str, Any]:
    return {
        "kinds": [kind.value for kind in grounding.kinds],
        "since": grounding.since.isoformat() if grounding.since is not None else None,
        "top_k": grounding.top_k,
        "mode": grounding.mode.value,
        "unsupported": grounding.unsupported.value if grounding.unsupported is not None else None,
        "collections": list(grounding.collections),
    }


def _unpacked(packed: Mapping[str, Any]) -> Grounding:
    since = packed["since"]
    return Grounding(
        tuple(SourceKind(kind) for kind in packed["kinds"]),
        datetime.fromisoformat(since) if since is not None else None,
        packed["top_k"],
        GroundingMode(packed["mode"]),
        tuple(packed["collections"]),
        Unsupported(packed["unsupported"]) if packed.get("unsupported") else None,
    )


@dataclass
class Written:
    """What the chunks of a stream hold: texts as they were sent, tokens, what ended it, tools that were called."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str = ""
    annotations: Sequence[Mapping[str, Any]] | None = None
    called: set[str] = field(default_factory=set)
    # Whether it has been said who speaks.
    opened: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)

    @classmethod
    def of(cls, chunks: Sequence[bytes]) -> Written:
        """Of a stream's chunks in order."""
        written = cls()
        for chunk in chunks:
            for choice in orjson.loads(chunk)["choices"]:
                delta = choice["delta"]
                written.opened = True
                if delta.get("content"):
                    written.texts.append(delta["content"])
                written.tokens += answer_tokens(delta)
                written.finish_reason = choice.get("finish_reason") or written.finish_reason
                if delta.get("annotations"):
                    written.annotations = delta["annotations"]
                event = delta.get("tool_event")
                if isinstance(event, Mapping) and event.get("status") == "called":
                    written.called.add(str(event.get("name")))
        return written


class DivergedError(Exception):
    """An answer that was made again is not the one that was begun."""


class Splice:
    """Takes the chunks of an answer that is made again from its beginning, and leaves out what has been sent of it."""

    def __init__(self, written: Written) -> None:
        self._left = written.text
        self._opened = written.opened

    def rest(self, chunk: bytes) -> Iterator[bytes]:
        """What of the chunk is new. DivergedError where it is not what was sent."""
        if not self._left and not self._opened:
            yield chunk
            return
        value = orjson.loads(chunk)
        for choice in value["choices"]:
            delta = choice["delta"]
            content = delta.get("content") or ""
            if delta.get("role") and not content:
                return
            if choice.get("finish_reason") and self._left:
                raise DivergedError
            if not content or not self._left:
                continue
            common = min(len(content), len(self._left))
            if content[:common] != self._left[:common]:
                raise DivergedError
            self._left = self._left[common:]
            delta["content"] = content[common:]
            if not delta["content"] and not delta.get("annotations"):
                return
        yield orjson.dumps(value)
