"""Going on with a streamed answer whose process is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from wireroom_chat.domain.answer import AnswerMode, Begun, Ending, Piece, Retrieved
from wireroom_chat.domain.catalogue import Route
from wireroom_chat.domain.checkpoint import DivergedError, Splice, Written, request_of
from wireroom_chat.domain.continuation import can_continue
from wireroom_chat.domain.frames import Info
from wireroom_chat.domain.request import ChatRequest
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.ports.providers import ProviderDirectory
from wireroom_chat.usecases.grounding import ABSTENTION
from wireroom_chat.usecases.quoting import FIRST_LINE, NO_PROVIDER, NOT_READABLE, OUT_OF_BUDGET
from wireroom_chat.usecases.rendering import Item, Rendering
from wireroom_chat.usecases.run import Run, Runs
from wireroom_chat.usecases.stream_opening import Opening, Part, lost
from wireroom_common.principal import Principal

# The only surface whose chunks tell of tools.
_NATIVE = "session"
_EFFECTS = "A tool that changes something may have been running for this answer: look at what it left, then ask again."


class Answering(Protocol):
    """How answers are made: what `CompleteChat` is to those who take one up."""

    async def resolved(self, principal: Principal, request: ChatRequest) -> tuple[ChatRequest, Route]:
        """The request and its route."""

    def forwarded(self, request: ChatRequest, route: Route, run: Run, written: str) -> AsyncGenerator[list[bytes], None]:
        """Chunks of a provider's answer after `written`."""

    def generated(self, request: ChatRequest, route: Route, run: Run, begun: Begun | None) -> AsyncGenerator[Item, None]:
        """An answer from sources or of an assistant, after what was begun of it."""

    def pieces(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[Item, None]:
        """The same from its beginning, or quotes instead."""

    def quotes(self, request: ChatRequest, route: Route, first_line: str) -> AsyncGenerator[Item, None]:
        """Quotes only."""

    def disclaimer(self, route: Route) -> list[Piece]:
        """What is appended to the answer."""

    def has_effects(self, route: Route) -> frozenset[str]:
        """The names of the tools at hand that do more than read and reckon."""

    def info(self, run: Run) -> Info:
        """What is known of the answer now."""


class TakingUp:
    """`Revive` for chat completions."""

    def __init__(self, answering: Answering, directory: ProviderDirectory, rendering: Rendering, runs: Runs) -> None:
        self._answering = answering
        self._directory = directory
        self._rendering = rendering
        self._runs = runs

    async def go_on(self, opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        """`Info`, then the chunks after `chunks`; `info` is the last one that was sent.

        UNAVAILABLE `stream_lost` where the answer cannot be joined on; it is settled in any case.
        """
        written = Written.of(chunks)
        async with self._runs.track(opening.generation, adopted=True) as run:
            self._inherit(opening, info, written, run)
            if written.finish_reason:
                # Only the last words on usage were not sent.
                run.finish_reason = written.finish_reason
                return
            if not opening.checkpoint.get("continuable"):
                raise lost()
            told = -1
            async with aclosing(self._rest(opening, written, run)) as rest:
                async for part in rest:
                    if told != len(run.attempts):
                        told = len(run.attempts)
                        yield self._answering.info(run)
                    yield part

    def _inherit(self, opening: Opening, info: Info | None, written: Written, run: Run) -> None:
        if run.kept:
            run.text = [written.text]
            run.annotations = written.annotations or ()
        run.terms = SourceTerms.read(opening.checkpoint.get("terms"))
        if info is None:
            return
        run.terms = SourceTerms.union((run.terms, SourceTerms.read(info.source_terms)))
        run.mode, run.retrieval, run.cache = info.answer_mode, Retrieved(info.retrieval), info.cache
        label = info.path[-1] if info.path else ""
        last = next((item for item in self._directory.catalogue().candidates() if item.label == label), None)
        if last is not None:
            request = opening.checkpoint["request"]
            run.inherit(last, request, written.tokens, prompt_tokens=opening.checkpoint.get("prompt_tokens"))

    async def _rest(self, opening: Opening, written: Written, run: Run) -> AsyncGenerator[bytes | list[bytes], None]:
        request, route = await self._answering.resolved(opening.principal, request_of(opening.checkpoint))
        # What was written may come from what a tool found.
        request = replace(request, terms=run.terms)
        if route.grounding is not None and opening.checkpoint.get("attended") is False:
            # Sources are read with the signature of whoever may read them, and nobody is there.
            raise lost()
        effects = self._answering.has_effects(route)
        # Elsewhere nobody can tell whether one was called.
        if effects and (opening.generation.origin.kind != _NATIVE or effects & written.called):
            raise lost(_EFFECTS)
        if route.grounding is None and run.mode is AnswerMode.GENERATED:
            if not (route.candidates and can_continue(request.raw)):
                raise lost()
            source: AsyncGenerator[bytes | list[bytes], None] = self._each(
                self._answering.forwarded(request, route, run, written.text)
            )
        elif written.annotations is not None or self._is_whole(route, written):
            source = self._rendering.ending(request, written, run)
        elif run.mode is AnswerMode.GENERATED and written.texts:
            begun = Begun(tuple(written.texts), tuple(opening.checkpoint.get("sources") or ()))
            source = self._each(
                self._rendering.chunks(request, self._answering.generated(request, route, run, begun), run, opened=True)
            )
        else:
            source = self._made_again(request, route, written, run)
        async with aclosing(source) as parts:
            async for part in parts:
                yield part

    def _is_whole(self, route: Route, written: Written) -> bool:
        """Whether the disclaimer has been sent, which is the last piece of an assistant's answer. Its annotations are lost then."""
        return bool(written.texts) and [written.texts[-1]] == [piece.text for piece in self._answering.disclaimer(route)]

    async def _made_again(
        self, request: ChatRequest, route: Route, written: Written, run: Run
    ) -> AsyncGenerator[bytes | list[bytes], None]:
        """An answer whose words are the same each time, or of which nothing has been said."""
        splice = Splice(written)
        items = self._again(request, route, written.text, run)
        try:
            async with aclosing(self._rendering.chunks(request, items, run)) as chunks:
                async for chunk in chunks:
                    for rest in splice.rest(chunk):
                        yield rest
        except DivergedError:
            raise lost() from None

    def _again(self, request: ChatRequest, route: Route, text: str, run: Run) -> AsyncGenerator[Item, None]:
        line = next((line for line in (FIRST_LINE, NO_PROVIDER, NOT_READABLE, OUT_OF_BUDGET) if text.startswith(line)), None)
        if line is not None or not route.candidates:
            return self._answering.quotes(request, route, line or FIRST_LINE)
        if text.startswith(ABSTENTION):
            # It is sent in one piece; then comes the disclaimer.
            added = [piece for piece in self._answering.disclaimer(route) if not text.endswith(piece.text)]
            return _each_of([AnswerMode.ABSTAINED, Piece(text), *added, Ending()])
        if text:
            raise lost()
        return self._answering.pieces(request, route, run)

    async def _each(
        self, source: AsyncGenerator[bytes, None] | AsyncGenerator[list[bytes], None]
    ) -> AsyncGenerator[bytes | list[bytes], None]:
        async with aclosing(source) as parts:
            async for part in parts:
                yield part


async def _each_of(items: Sequence[Item]) -> AsyncGenerator[Item, None]:
    for item in items:
        yield item
