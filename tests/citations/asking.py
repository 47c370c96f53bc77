"""Questions put to the chat service's own use cases, over the real rag service; only the writer is scripted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from wireroom_chat.adapters.retrieval import RagRetrieval
from wireroom_chat.adapters.vectors import RagVectors
from wireroom_chat.domain.answer import AnswerMode, AnswerText, Ending, Piece
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.request import ChatRequest, Grounding, parse_request
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.domain.terms import Terms
from wireroom_chat.usecases.checking import Checking
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_common.principal import set_current_principal
from wireroom_protos.rag.v1 import rag_pb2

HOST = "wireroom.example"
_SOURCE = re.compile(r"^=== source (\d+) \S+ · .*\n((?:.*\n)*?)=== end ", re.MULTILINE)
_AT_A_TIME = 4
T = TypeVar("T")


@dataclass
class Answered:
    """`mode` and `missing` as told, `answer` as shown."""

    mode: AnswerMode
    answer: AnswerText
    missing: tuple[str, ...]


class ScriptedWriter:
    """Writes what `script` makes of the numbered sources in the prompt, in pieces of a few characters."""

    def __init__(self, script: Callable[[Mapping[int, str]], str]) -> None:
        self._script = script
        self.prompts: list[list[Mapping[str, Any]]] = []

    def reading(self, _terms: SourceTerms) -> ScriptedWriter:
        return self

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.prompts.append(list(body["messages"]))
        sources = {int(number): text for number, text in _SOURCE.findall(body["messages"][-1]["content"])}
        written = self._script(sources)
        for at in range(0, len(written), 7):
            yield {"choices": [{"index": 0, "delta": {"content": written[at : at + 7]}, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

    async def batches(self, body: Mapping[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        async for chunk in self.stream(body):
            yield [chunk]

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"Answers from sources are streamed: {sorted(body)}")


class Asking:
    """One user's questions."""

    def __init__(self, rag: Any, user: Any) -> None:
        self._principal = user.principal()
        channel = rag._channels[0]  # noqa: SLF001 - the rig's own
        retrieval = RagRetrieval(channel, timeout=30)
        terms = Terms()
        selector = QuoteSelector(terms)
        self._quoted = QuotedAnswer(retrieval, selector, hosts={HOST})
        checking = Checking(terms, RagVectors(channel, timeout=30), seconds=30)
        self._grounded = GroundedAnswer(retrieval, selector, terms, checking=checking, hosts={HOST})

    async def resolved(self, rag: Any, citation_id: str) -> Any:
        set_current_principal(self._principal)
        return await rag.retrieval.ResolveCitation(rag_pb2.ResolveCitationRequest(citation_id=citation_id))

    async def quoted(self, question: str) -> Answered:
        set_current_principal(self._principal)
        return await _answered(self._quoted.pieces(_request(question), Grounding()))

    async def written(self, question: str, writer: Any, grounding: Grounding | None = None) -> Answered:
        set_current_principal(self._principal)
        return await _answered(self._grounded.pieces(_request(question), grounding or Grounding(), writer))


async def together(jobs: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """A few at a time, results in order."""
    gate = asyncio.Semaphore(_AT_A_TIME)

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await job()

    return await asyncio.gather(*(run(job) for job in jobs))


def _request(question: str) -> ChatRequest:
    return parse_request(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": question}]}), stream=True)


async def _answered(items: AsyncGenerator[Any, None]) -> Answered:
    found = Answered(AnswerMode.ABSTAINED, AnswerText(), ())
    async for item in items:
        if isinstance(item, AnswerMode):
            found.mode = item
        elif isinstance(item, Piece):
            found.answer.add(item)
        elif isinstance(item, Ending):
            found.missing = item.missing
    return found
