"""Function calling: the model asks for tools, gets their results, and goes on, for a bounded number of rounds.

Tools and untrusted text: as soon as a prompt holds text whose authors nobody knows (retrieved passages), what the model asks for may be
their wish. Then only tools run that read or reckon (`safe_on_untrusted`), and those that the assistant's configuration permits. That
limits the damage of injected instructions; it does not prevent them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from wireroom_chat.domain.answer import Ending, ToolEvent
from wireroom_chat.domain.assistants import Limits
from wireroom_chat.domain.passages import Passage
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.ports.providers import Writer
from wireroom_chat.tools.contract import Tool, ToolCaller, ToolResult
from wireroom_common.errors import WireroomError, invalid

MAX_CALLS = 16
_MAX_ARGUMENTS = 20_000
_MAX_NAME = 64
_MAX_ID = 128
_MAX_DETAIL = 500

log = structlog.get_logger()


@dataclass
class PromptState:
    """Whether the prompt holds untrusted text by now, and who may receive it."""

    tainted: bool = False
    # Of the passages in it.
    terms: SourceTerms = ANY


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    size: int = 0

    def written(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": "".join(self.arguments)}}


@dataclass(frozen=True)
class _Done:
    event: ToolEvent
    result: ToolResult | None
    content: str


# How passages that a tool found are put into a prompt: numbered and fenced, at most so many characters.
Present = Callable[[Sequence[Passage], int], Awaitable[str]]


class ToolLoop:
    """The rounds of one answer. `allowed`: tools by name that the assistant has."""

    def __init__(
        self,
        allowed: Mapping[str, Tool],
        allow_untrusted: Sequence[str],
        limits: Limits,
        caller: ToolCaller,
        state: PromptState,
        *,
        present: Present,
    ) -> None:
        self._allowed = allowed
        self._permitted = frozenset(allow_untrusted)
        self._limits = limits
        self._caller = caller
        self._state = state
        self._present = present
        self.called: set[str] = set()

    async def run(self, provider: Writer, body: Mapping[str, Any]) -> AsyncGenerator[str | ToolEvent | Ending, None]:
        """Text as it comes, an event when a tool is called and when it has ended, then the ending."""
        messages: list[Mapping[str, Any]] = list(body["messages"])
        definitions = [_definition(self._allowed[name]) for name in sorted(self._allowed)]
        for round_number in range(self._limits.rounds + 1):
            asked: dict[str, Any] = {**body, "messages": messages}
            last = round_number == self._limits.rounds
            if definitions:
                asked |= {"tools": definitions, "tool_choice": "none" if last else "auto"}
            calls: dict[int, _Call] = {}
            reason = "stop"
            text: list[str] = []
            # What tools found stays with those who may read it.
            async with aclosing(provider.reading(self._state.terms).stream(asked)) as chunks:
                async for chunk in chunks:
                    for choice in chunk["choices"][:1]:
                        content = choice["delta"].get("content")
                        if isinstance(content, str) and content:
                            text.append(content)
                            yield content
                        _collect(calls, choice["delta"].get("tool_calls"))
                        if choice.get("finish_reason") in ("stop", "length", "content_filter"):
                            reason = choice["finish_reason"]
            if not calls or last or not definitions or reason in ("length", "content_filter"):
                yield Ending(reason)
                return
            messages.append(
                {"role": "assistant", "content": "".join(text) or None, "tool_calls": [call.written() for call in _named(calls)]}
            )
            async with aclosing(self._answered(_named(calls), messages)) as events:
                async for event in events:
                    yield event

    async def _answered(self, calls: Sequence[_Call], messages: list[Mapping[str, Any]]) -> AsyncGenerator[ToolEvent, None]:
        """Runs the calls of a round beside each other and appends their results in order."""
        # What the round asks for was decided before its results were seen.
        tainted = self._state.tainted
        for call in calls:
            yield ToolEvent(call.id, call.name[:_MAX_NAME], "called", arguments=_shown(call))
        room = asyncio.Semaphore(self._limits.parallel_calls)
        tasks = [asyncio.create_task(self._one(call, room, tainted=tainted)) for call in calls]
        try:
            for call, task in zip(calls, tasks, strict=True):
                done = await task
                content = done.content
                if done.result is not None:
                    # Numbered here, in the order of the calls: numbers must not depend on who was faster.
                    content = await self._content(done.result)
                    self._state.tainted = self._state.tainted or bool(done.result.passages)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
                yield done.event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, call: _Call, room: asyncio.Semaphore, *, tainted: bool) -> _Done:
        tool = self._allowed.get(call.name)
        if tool is None:
            names = ", ".join(sorted(self._allowed))
            return _refused(call, "tool_unknown", f"There is no such tool; there are {names}.")
        if tainted and not tool.safe_on_untrusted and tool.name not in self._permitted:
            return _refused(
                call,
                "tool_not_permitted",
                "This tool does not run in a conversation that holds text from documents, news or other tools. Ask the user to call it.",
            )
        self.called.add(tool.name)
        try:
            arguments = tool.parse(_loaded(call))
            async with room, asyncio.timeout(self._limits.tool_seconds):
                result = await tool.run(arguments, self._caller)
        except WireroomError as error:
            return _failed(call, error.code, error.detail)
        except TimeoutError:
            return _failed(call, "tool_timeout", f"The tool did not answer within {self._limits.tool_seconds:g} seconds.")
        except Exception:
            log.exception("chat.tool.failed", tool=tool.name)
            return _failed(call, "tool_failed", "The tool failed.")
        return _Done(ToolEvent(call.id, call.name, "completed", result=result.data), result, "")

    async def _content(self, result: ToolResult) -> str:
        content = json.dumps(dict(result.data), ensure_ascii=False, default=str)
        limit = self._limits.result_characters
        if len(content) > limit:
            content = content[:limit] + "\n[cut here: the result is longer]"
        if not result.passages:
            return content
        try:
            return content + "\n\n" + await self._present(result.passages, limit)
        except WireroomError as error:
            return _error(error.code, error.detail)


def _definition(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema}}


def _collect(calls: dict[int, _Call], deltas: Any) -> None:
    """Put the pieces of calls together; what is beyond the bounds is dropped."""
    if not isinstance(deltas, list):
        return
    for delta in deltas:
        index = delta.get("index", 0) if isinstance(delta, dict) else None
        if not isinstance(index, int) or (index not in calls and len(calls) >= MAX_CALLS):
            continue
        call = calls.setdefault(index, _Call())
        function = delta.get("function")
        if isinstance(delta.get("id"), str):
            call.id = call.id or delta["id"][:_MAX_ID]
        if isinstance(function, dict):
            if isinstance(function.get("name"), str):
                call.name = call.name or function["name"][:_MAX_NAME]
            arguments = function.get("arguments")
            if isinstance(arguments, str):
                call.size += len(arguments)
                if call.size <= _MAX_ARGUMENTS:
                    call.arguments.append(arguments)


def _named(calls: Mapping[int, _Call]) -> list[_Call]:
    ordered = [calls[index] for index in sorted(calls)]
    for number, call in enumerate(ordered):
        call.id = call.id or f"call_{number}"
    return ordered


def _loaded(call: _Call) -> Any:
    if call.size > _MAX_ARGUMENTS:
        raise invalid("tool_input_too_long", f"The arguments have more than {_MAX_ARGUMENTS} characters.")
    text = "".join(call.arguments).strip() or "{}"
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise invalid("tool_input_invalid", "The arguments are not valid JSON.") from None


def _shown(call: _Call) -> Mapping[str, Any] | None:
    try:
        value = orjson.loads("".join(call.arguments) or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _refused(call: _Call, code: str, detail: str) -> _Done:
    return _Done(ToolEvent(call.id, call.name, "refused", code=code, detail=detail), None, _error(code, detail))


def _failed(call: _Call, code: str, detail: str) -> _Done:
    return _Done(
        ToolEvent(call.id, call.name, "failed", code=code, detail=detail[:_MAX_DETAIL]), None, _error(code, detail[:_MAX_DETAIL])
    )


def _error(code: str, detail: str) -> str:
    return json.dumps({"error": code, "detail": detail}, ensure_ascii=False)
