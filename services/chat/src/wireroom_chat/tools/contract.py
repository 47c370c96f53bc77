"""What a tool is: a name, a typed input with its JSON schema, and a function that answers with data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from wireroom_chat.domain.passages import Passage, SourceKind
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError

_MAX_PROBLEMS = 10
_MAX_MESSAGE = 200


class ToolInput(BaseModel):
    """Arguments of a tool: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class ToolCaller:
    """For whom a tool runs, and over which sources it may search. No kinds = all kinds; no collections = all documents."""

    tenant_id: UUID
    user_id: UUID
    kinds: tuple[SourceKind, ...] = ()
    since: datetime | None = None
    collections: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolResult:
    """JSON data; passages when it found untrusted text, which then stands nowhere in the data."""

    data: Mapping[str, Any] = field(default_factory=dict)
    passages: Sequence[Passage] = ()


@dataclass(frozen=True)
class Tool:
    """A tool on offer.

    `safe_on_untrusted`: it reads or reckons only, changes nothing and lets no data out, so that a prompt which holds text of unknown
    authors may lead to its call.
    """

    name: str
    description: str
    input: type[ToolInput]
    run: Callable[[Any, ToolCaller], Awaitable[ToolResult]]
    safe_on_untrusted: bool
    schema: Mapping[str, Any]

    def parse(self, arguments: Any) -> ToolInput:
        """The checked arguments; INVALID `tool_input_invalid` names what does not fit."""
        try:
            return self.input.model_validate(arguments)
        except ValidationError as error:
            problems = [
                FieldProblem(".".join(str(part) for part in entry["loc"])[:_MAX_MESSAGE], str(entry["msg"])[:_MAX_MESSAGE])
                for entry in error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]
            ]
            detail = "; ".join(f"{problem.field or 'input'}: {problem.message}" for problem in problems[:3])
            raise WireroomError(
                ErrorKind.INVALID, "tool_input_invalid", f"The input of {self.name} does not fit: {detail}.", fields=problems
            ) from None


def tool(
    name: str,
    description: str,
    input_model: type[ToolInput],
    run: Callable[[Any, ToolCaller], Awaitable[ToolResult]],
    *,
    safe_on_untrusted: bool,
) -> Tool:
    """A tool with the schema of its input, made once."""
    return Tool(name, description, input_model, run, safe_on_untrusted, input_model.model_json_schema())


class Toolbox:
    """The tools by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {entry.name: entry for entry in tools}

    def find(self, name: str) -> Tool | None:
        """The tool, or None."""
        return self._tools.get(name)

    def all(self) -> list[Tool]:
        """All of them, by name."""
        return [self._tools[name] for name in sorted(self._tools)]
