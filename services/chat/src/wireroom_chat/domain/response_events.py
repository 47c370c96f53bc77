"""A response in the making: its output items from chat completions or chunks of them, and the events that tell of each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wireroom_chat.domain.response_items import NewName
from wireroom_chat.domain.responses import ResponseRequest, response_usage
from wireroom_common.errors import ErrorKind, WireroomError

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_INTERNAL = "An internal error occurred."


@dataclass(frozen=True)
class Event:
    """One event of the stream."""

    type: str
    members: Mapping[str, Any]


@dataclass
class _Text:
    """A text or a refusal of the message."""

    kind: str
    index: int
    parts: list[str] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        text = "" if empty else "".join(self.parts)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        annotations, logprobs = ([], []) if empty else (self.annotations, self.logprobs)
        return {"type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text}


@dataclass
class _Message:
    id: str
    index: int
    texts: dict[str, _Text] = field(default_factory=dict)

    def item(self, status: str) -> dict[str, Any]:
        content = [text.part() for text in self.texts.values()] if status != "in_progress" else []
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


@dataclass
class _Call:
    id: str
    index: int
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def item(self, status: str) -> dict[str, Any]:
        arguments = "".join(self.arguments) if status != "in_progress" else ""
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "arguments": arguments,
            "call_id": self.call_id,
            "name": self.name,
        }


class ResponseBuilder:
    """Takes the chunks of one chat completion and gives the events of a response; or takes the whole completion."""

    def __init__(self, request: ResponseRequest, *, response_id: str, created: float, new_name: NewName) -> None:
        self.id = response_id
        self._request = request
        self._created = int(created)
        self._new_name = new_name
        self._message: _Message | None = None
        self._calls: dict[int, _Call] = {}
        self._count = 0
        self._sequence = 0
        self._reason = "stop"
        self._usage: Mapping[str, Any] | None = None
        self._tier: str | None = None

    def opening(self) -> Iterator[Event]:
        """The events before the first chunk."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._object("in_progress"))

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events of one chunk."""
        self._note(chunk)
        for choice in chunk["choices"][:1]:
            delta = choice["delta"]
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            if delta.get("content") or delta.get("annotations"):
                yield from self._text("output_text", delta.get("content") or "", logprobs)
                yield from self._annotate(delta.get("annotations") or ())
            if delta.get("refusal"):
                yield from self._text("refusal", delta["refusal"], [])
            for position, call in enumerate(delta.get("tool_calls") or ()):
                yield from self._call(position, call)
            self._reason = choice.get("finish_reason") or self._reason

    def take(self, completion: Mapping[str, Any]) -> None:
        """A whole chat completion, instead of chunks."""
        choice = completion["choices"][0]
        calls = [{**call, "index": index} for index, call in enumerate(choice["message"].get("tool_calls") or ())]
        whole = {**choice, "delta": {**choice["message"], "tool_calls": calls}}
        for _ in self.chunk({**completion, "choices": [whole]}):
            pass

    def closing(self) -> Iterator[Event]:
        """The events between the last chunk and the end."""
        status = self._item_status()
        for item in self._items():
            if isinstance(item, _Message):
                for text in item.texts.values():
                    place = {"item_id": item.id, "output_index": item.index, "content_index": text.index}
                    whole = "".join(text.parts)
                    if text.kind == "refusal":
                        yield self._event("response.refusal.done", **place, refusal=whole)
                    else:
                        yield self._event("response.output_text.done", **place, text=whole, logprobs=_plain(text.logprobs))
                    yield self._event("response.content_part.done", **place, part=text.part())
            else:
                yield self._event(
                    "response.function_call_arguments.done",
                    item_id=item.id,
                    output_index=item.index,
                    name=item.name,
                    arguments="".join(item.arguments),
                )
            yield self._event("response.output_item.done", output_index=item.index, item=item.item(status))

    def ended(self, response: Mapping[str, Any]) -> Event:
        """The last event, that carries the whole response."""
        return self._event(f"response.{response['status']}", response=response)

    def finished(self, now: float) -> dict[str, Any]:
        """The response object at the end of the answer."""
        reason = _INCOMPLETE.get(self._reason)
        return self._object("incomplete" if reason else "completed", completed=int(now), incomplete=reason)

    def failed(self, error: WireroomError) -> dict[str, Any]:
        """The response object of an answer that broke off."""
        code = "rate_limit_exceeded" if error.kind is ErrorKind.RATE_LIMITED else "server_error"
        message = error.detail if error.kind is not ErrorKind.INTERNAL else _INTERNAL
        return self._object("failed", error={"code": code, "message": message})

    def cancelled(self) -> dict[str, Any]:
        """The response object of an answer whose caller has left: what was made of it."""
        return self._object("cancelled")

    def _note(self, chunk: Mapping[str, Any]) -> None:
        if isinstance(chunk.get("usage"), Mapping):
            self._usage = chunk["usage"]
        self._tier = chunk.get("service_tier") or self._tier

    def _text(self, kind: str, text: str, logprobs: list[Any]) -> Iterator[Event]:
        if self._message is None:
            self._message = _Message(self._new_name("msg"), self._next_index())
            yield self._event(
                "response.output_item.added", output_index=self._message.index, item=self._message.item("in_progress")
            )
        message = self._message
        place = {"item_id": message.id, "output_index": message.index}
        if kind not in message.texts:
            message.texts[kind] = _Text(kind, len(message.texts))
            part = message.texts[kind].part(empty=True)
            yield self._event("response.content_part.added", **place, content_index=message.texts[kind].index, part=part)
        target = message.texts[kind]
        if not text:
            return
        target.parts.append(text)
        target.logprobs += [_logprob(entry) for entry in logprobs] if self._request.logprobs else []
        more = {"logprobs": _plain(logprobs) if self._request.logprobs else []} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.delta", **place, content_index=target.index, delta=text, **more)

    def _annotate(self, annotations: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
        for given in annotations:
            if self._message is None or given.get("type") != "url_citation":
                continue
            target = self._message.texts["output_text"]
            told = given["url_citation"]
            annotation = {
                "type": "url_citation",
                "start_index": told.get("start_index", 0),
                "end_index": told.get("end_index", 0),
                "url": told.get("url", ""),
                "title": told.get("title", ""),
            }
            target.annotations.append(annotation)
            yield self._event(
                "response.output_text.annotation.added",
                item_id=self._message.id,
                output_index=self._message.index,
                content_index=target.index,
                annotation_index=len(target.annotations) - 1,
                annotation=annotation,
            )

    def _call(self, position: int, delta: Mapping[str, Any]) -> Iterator[Event]:
        number = delta.get("index", position)
        function = delta.get("function") or {}
        call = self._calls.get(number)
        if call is None:
            call_id = delta.get("id") or self._new_name("call")
            call = self._calls[number] = _Call(self._new_name("fc"), self._next_index(), call_id, function.get("name") or "")
            yield self._event("response.output_item.added", output_index=call.index, item=call.item("in_progress"))
        if function.get("arguments"):
            call.arguments.append(function["arguments"])
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=call.id,
                output_index=call.index,
                delta=function["arguments"],
            )

    def _items(self) -> list[_Message | _Call]:
        items: list[_Message | _Call] = [*([self._message] if self._message else []), *self._calls.values()]
        return sorted(items, key=lambda item: item.index)

    def _next_index(self) -> int:
        self._count += 1
        return self._count - 1

    def _item_status(self) -> str:
        return "incomplete" if self._reason in _INCOMPLETE else "completed"

    def _event(self, kind: str, **members: Any) -> Event:
        self._sequence += 1
        return Event(kind, {"type": kind, "sequence_number": self._sequence - 1, **members})

    def _object(
        self, status: str, *, completed: int | None = None, incomplete: str | None = None, error: dict[str, str] | None = None
    ) -> dict[str, Any]:
        ended = status != "in_progress"
        tier = {"service_tier": self._tier} if self._tier else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "completed_at": completed,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "model": self._request.model,
            "output": [
                item.item("incomplete" if error or status == "cancelled" else self._item_status()) for item in self._items()
            ]
            if ended
            else [],
            **self._request.echoed,
            **tier,
            "usage": response_usage(self._usage) if ended else None,
        }


def _logprob(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "token": entry.get("token", ""),
        "bytes": entry.get("bytes") or [],
        "logprob": entry.get("logprob", 0.0),
        "top_logprobs": [
            {"token": other.get("token", ""), "bytes": other.get("bytes") or [], "logprob": other.get("logprob", 0.0)}
            for other in entry.get("top_logprobs") or ()
        ],
    }


def _plain(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Log probabilities as events carry them: without bytes."""
    return [
        {
            "token": entry.get("token", ""),
            "logprob": entry.get("logprob", 0.0),
            "top_logprobs": [
                {"token": other.get("token", ""), "logprob": other.get("logprob", 0.0)}
                for other in entry.get("top_logprobs") or ()
            ],
        }
        for entry in entries
    ]
