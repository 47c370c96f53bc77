"""The answer of an assistant: persona, sources, tools; what its policy appends and takes away."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from wireroom_chat.domain.answer import AnswerMode, Begun, Ending, Piece, Retrieved, Searched, ToolEvent
from wireroom_chat.domain.assistant_prompt import assistant_messages, fenced
from wireroom_chat.domain.assistants import AssistantConfig, ChosenAssistant
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.links import LinkGuard
from wireroom_chat.domain.passages import Citation, Passage
from wireroom_chat.domain.prompt import leaks
from wireroom_chat.domain.request import ChatRequest, Grounding, GroundingMode
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.tool_suggestions import suggested_tools
from wireroom_chat.domain.verification import SentenceBuffer, evidence_quotes
from wireroom_chat.ports.providers import Writer
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.tools.contract import Toolbox, ToolCaller
from wireroom_chat.usecases.begun import in_order, shown_before
from wireroom_chat.usecases.checking import Checking, SentenceChecker
from wireroom_chat.usecases.quoting import FIRST_LINE, QuotedAnswer
from wireroom_chat.usecases.searching import Search, lies_with_the_index
from wireroom_chat.usecases.stream_opening import StreamLostError
from wireroom_chat.usecases.tool_loop import Present, PromptState, ToolLoop
from wireroom_common.errors import WireroomError

Item = AnswerMode | Piece | Searched | ToolEvent | Ending

ABSTENTION = "The sources do not answer this question."
NEEDS_MODEL = (
    "This assistant needs a language model, and none can be used at the moment. Its tools can be called at /api/v1/tools."
)
_SEARCHES = frozenset({"search_knowledge", "search_news"})
_MAX_QUOTES = 100
_MAX_PASSAGES = 40
_MAX_UPFRONT_CHARACTERS = 24_000
_NOT_FORWARDED = frozenset(
    {"stream", "stream_options", "n", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "model"}
)


class AssistantAnswer:
    """Answers in the name of an assistant."""

    def __init__(
        self,
        retrieval: Retrieval,
        selector: QuoteSelector,
        terms: Terms,
        *,
        quoted: QuotedAnswer,
        toolbox: Toolbox,
        public_url: str,
        checking: Checking | None = None,
    ) -> None:
        self._retrieval = retrieval
        self._search = Search(retrieval)
        self._selector = selector
        self._checking = checking or Checking(terms)
        self._quoted = quoted
        self._toolbox = toolbox
        self._own_host = urlsplit(public_url).hostname or ""

    def has_effects(self, config: AssistantConfig) -> frozenset[str]:
        """The names of its tools that do more than read and reckon."""
        tools = (self._toolbox.find(name) for name in config.tools)
        return frozenset(tool.name for tool in tools if tool is not None and not tool.safe_on_untrusted)

    async def quoted(
        self, request: ChatRequest, grounding: Grounding, assistant: ChosenAssistant, first_line: str = FIRST_LINE
    ) -> AsyncGenerator[Item, None]:
        """Quotes from the assistant's sources, and its disclaimer: the answer where no model writes one."""
        config = assistant.config
        if not _searches(config):
            yield AnswerMode.ABSTAINED
            yield Piece(NEEDS_MODEL)
            yield disclaimer_of(config)
            yield Ending()
            return
        async with aclosing(self._quoted.pieces(request, grounding, first_line)) as pieces:
            async for item in pieces:
                if isinstance(item, Ending):
                    yield disclaimer_of(config)
                yield item

    async def pieces(
        self,
        request: ChatRequest,
        grounding: Grounding,
        assistant: ChosenAssistant,
        provider: Writer,
        *,
        owner: tuple[UUID, UUID],
        begun: Begun | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Mode, pieces and tool events, then the disclaimer and the ending. `owner`: tenant and user for whom tools run.

        `begun`: another process has begun it, and `provider` goes on after that; UNAVAILABLE `stream_lost` where what was shown rests on
        what a tool found then.
        """
        config = assistant.config
        strict = grounding.mode is GroundingMode.STRICT and _searches(config)
        allowed = {name: tool for name in config.tools if (tool := self._toolbox.find(name)) is not None}
        state = PromptState(tainted=_is_untrusted(request))
        sources = _Sources(
            self._retrieval, self._checking, LinkGuard({*config.output.allowed_hosts, self._own_host} - {""}), grounding
        )

        shown, retrieval = "", Retrieved.COMPLETE
        if config.sources.kinds and config.sources.upfront:
            shown, retrieval, state.terms = await self._upfront(request.search_text(), grounding, sources, begun, strict=strict)
            state.tainted = state.tainted or bool(shown)
        before = await shown_before(begun, sources.ids, sources.verified)
        yield Searched(retrieval, sources.ids, before, state.terms)
        if before:
            yield AnswerMode.GENERATED
        if strict and not shown and not _SEARCHES & allowed.keys():
            yield AnswerMode.ABSTAINED
            yield Piece(ABSTENTION)
            yield disclaimer_of(config)
            yield Ending()
            return
        loop = ToolLoop(
            allowed,
            config.allow_untrusted,
            config.limits,
            ToolCaller(*owner, grounding.kinds, grounding.since, grounding.collections),
            state,
            present=_for_readers(provider, sources, state),
        )
        body = _body(request, config) | {
            "messages": assistant_messages(config.prompt, request.messages, shown, searches=_searches(config), strict=strict)
        }
        said = [piece.text for piece in before]
        ending = Ending()
        async with aclosing(_spoken(loop.run(provider, body), sources, state)) as items:
            async for item in items:
                if isinstance(item, Ending):
                    ending = item
                    continue
                if isinstance(item, Piece):
                    if not said:
                        yield AnswerMode.GENERATED
                    said.append(item.text)
                yield item
        if not "".join(said).strip():
            yield AnswerMode.ABSTAINED
            yield Piece(ABSTENTION)
        for number, suggestion in enumerate(suggested_tools("".join(said), allowed.keys() - loop.called), start=1):
            yield ToolEvent(f"suggestion_{number}", suggestion.name, "suggested", arguments=suggestion.arguments)
        yield disclaimer_of(config)
        yield ending

    async def _upfront(
        self, question: str, grounding: Grounding, sources: _Sources, begun: Begun | None, *, strict: bool
    ) -> tuple[str, Retrieved, SourceTerms]:
        """The passages for the question as they stand in the prompt, and their terms; none where they are too far from it."""
        try:
            found = await self._search.find(question, grounding)
            passages = in_order(found.passages, begun)
            weak = not passages if begun is not None else self._selector.is_weak(question, passages)
            if weak:
                return "", found.retrieval, ANY
            shown = await sources.add(passages, _MAX_UPFRONT_CHARACTERS)
            return shown, found.retrieval, SourceTerms.union(passage.terms for passage in passages)
        except WireroomError as error:
            if strict or not lies_with_the_index(error) or isinstance(error, StreamLostError):
                raise
            return "", Retrieved.FAILED, ANY


def _for_readers(provider: Writer, sources: _Sources, state: PromptState) -> Present:
    """Passages that a tool found, as they stand in the prompt from now on.

    FORBIDDEN `collection_provider_not_allowed` where no provider may read them beside what is there: the answer goes on without them.
    """

    async def present(passages: Sequence[Passage], limit: int) -> str:
        joined = SourceTerms.union((state.terms, *(passage.terms for passage in passages)))
        provider.reading(joined)
        shown = await sources.add(passages, limit)
        state.terms = joined
        return shown

    return present


async def _spoken(
    items: AsyncGenerator[str | ToolEvent | Ending, None], sources: _Sources, state: PromptState
) -> AsyncGenerator[Piece | ToolEvent | Ending, None]:
    """Sentences as they become complete, checked; a tool's event ends what was said before it."""
    buffer = SentenceBuffer()
    async with aclosing(items):
        async for item in items:
            last = not isinstance(item, str)
            for sentence in buffer.rest() if last else buffer.feed(str(item)):
                piece = await sources.checked(sentence, state, last=last)
                if piece is not None:
                    yield piece
            if not isinstance(item, str):
                yield item


class _Sources:
    """The numbered passages of one answer, what of them may be cited, and what of an answer may be shown."""

    def __init__(self, retrieval: Retrieval, checking: Checking, guard: LinkGuard, grounding: Grounding) -> None:
        self._retrieval = retrieval
        self._checking = checking
        self._guard = guard
        self._grounding = grounding
        self._nonce = secrets.token_hex(8)
        self._numbers: dict[str, int] = {}
        self._evidence: dict[int, list[Citation]] = {}
        self._checker = SentenceChecker(checking, {}, grounding)

    async def add(self, passages: Sequence[Passage], limit: int) -> str:
        """The passages numbered and fenced; those that cannot be cited, because nothing of them stands in the stored text, are left out."""
        known = [passage for passage in passages if passage.id in self._numbers]
        fresh = [passage for passage in passages if passage.id not in self._numbers][: _MAX_PASSAGES - len(self._numbers)]
        quotes = evidence_quotes(fresh, _MAX_QUOTES)
        verified = iter(await self._retrieval.verify([quote for group in quotes.values() for quote in group]))
        for position, group in quotes.items():
            citations = [citation for citation in (next(verified) for _ in group) if citation is not None]
            if citations:
                passage = fresh[position - 1]
                number = len(self._numbers) + 1
                self._numbers[passage.id] = number
                self._evidence[number] = citations
                known.append(passage)
                self._guard.allow(passage.url)
        self._checker = SentenceChecker(self._checking, self._evidence, self._grounding)
        return fenced([(self._numbers[passage.id], passage) for passage in known], self._nonce, limit) if known else ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The passages in the order of their numbers."""
        return tuple(self._numbers)

    async def verified(self, sentence: str) -> Piece | None:
        """The sentence with the markers that hold, whatever links are in it."""
        return await self._checker.check(sentence)

    async def checked(self, sentence: str, state: PromptState, *, last: bool = False) -> Piece | None:
        """The sentence as it may be shown; None where nothing of it may."""
        if state.tainted:
            sentence = self._guard.feed(sentence) + (self._guard.rest() if last else "")
        if not sentence or leaks(sentence, self._nonce):
            return None
        return await self._checker.check(sentence)


def _searches(config: AssistantConfig) -> bool:
    return bool(config.sources.kinds) or bool(_SEARCHES & set(config.tools))


def _is_untrusted(request: ChatRequest) -> bool:
    """Whether the conversation may hold text of unknown authors: results of a client's tools, or what sources put into earlier answers.

    Earlier answers may be those of another model or assistant, which saw sources even where this one has none.
    """
    return any(message["role"] in ("assistant", "tool", "function") for message in request.messages)


def disclaimer_of(config: AssistantConfig) -> Piece:
    """What is appended to its answers."""
    return Piece(f"\n\n{config.disclaimer.strip()}")


def _body(request: ChatRequest, config: AssistantConfig) -> dict[str, Any]:
    body = {key: value for key, value in request.raw.items() if key not in _NOT_FORWARDED}
    limit = config.limits.max_tokens
    if limit is not None:
        asked = _asked_tokens(body)
        for name in ("max_tokens", "max_completion_tokens"):
            body.pop(name, None)
        body["max_tokens"] = min(limit, asked) if asked else limit
    return body


def _asked_tokens(body: Mapping[str, Any]) -> int | None:
    asked = [value for name in ("max_tokens", "max_completion_tokens") if isinstance(value := body.get(name), int) and value > 0]
    return min(asked, default=None)
