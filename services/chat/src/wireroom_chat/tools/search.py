"""Search in the caller's documents and news; what is found is untrusted text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import Field

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.request import Grounding
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.tools.contract import Tool, ToolCaller, ToolInput, ToolResult, tool
from wireroom_common.errors import ErrorKind, WireroomError

_Query = Annotated[
    str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$", description="What to look for, in plain words.")
]
_TopK = Annotated[int, Field(ge=1, le=10, description="How many passages.")]


class KnowledgeInput(ToolInput):
    """A question to the documents."""

    query: _Query
    top_k: _TopK = 5


class NewsInput(ToolInput):
    """A question to the news."""

    query: _Query
    top_k: _TopK = 5
    since: Annotated[date | None, Field(description="Leave out what was published before this day (ISO 8601).")] = None


def search_tools(retrieval: Retrieval) -> list[Tool]:
    """`search_knowledge` and `search_news`, inside what the caller may read."""

    async def knowledge(given: KnowledgeInput, caller: ToolCaller) -> ToolResult:
        wanted = Grounding((SourceKind.DOCUMENT,), None, given.top_k, collections=caller.collections)
        return await _search(retrieval, given.query, wanted, caller)

    async def news(given: NewsInput, caller: ToolCaller) -> ToolResult:
        since = datetime.combine(given.since, time(), UTC) if given.since else None
        # What the request leaves out stays out, whatever the model asks for.
        limits = [moment for moment in (since, caller.since) if moment is not None]
        return await _search(
            retrieval, given.query, Grounding((SourceKind.ARTICLE,), max(limits, default=None), given.top_k), caller
        )

    return [
        tool(
            "search_knowledge", "Search the documents that the user may read.", KnowledgeInput, knowledge, safe_on_untrusted=True
        ),
        tool("search_news", "Search the news that the user may read.", NewsInput, news, safe_on_untrusted=True),
    ]


async def _search(retrieval: Retrieval, query: str, grounding: Grounding, caller: ToolCaller) -> ToolResult:
    if caller.kinds and not set(grounding.kinds) & set(caller.kinds):
        raise WireroomError(ErrorKind.FORBIDDEN, "source_not_allowed", "This assistant does not search that kind of source.")
    passages = await retrieval.retrieve(query, grounding)
    data: dict[str, Any] = {"found": len(passages)}
    return ToolResult(data, tuple(passages))
