"""Answer a chat completion request: whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from wireroom_chat.domain.answer import AnswerMode, Begun, Degrade, Piece, Retrieved, Searched
from wireroom_chat.domain.assistants import PREFIX, is_assistant, narrowed, unknown
from wireroom_chat.domain.catalogue import BUILT_IN_PROVIDER, ListedModel, Route
from wireroom_chat.domain.checkpoint import checkpoint_of
from wireroom_chat.domain.followup import search_query
from wireroom_chat.domain.frames import Frame, Info
from wireroom_chat.domain.request import CacheMode, ChatRequest, Grounding, Unsupported, parse_request, text_of
from wireroom_chat.domain.source_terms import NOT_ALLOWED
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.wire import Links
from wireroom_chat.ports.generations import Generation, Origin
from wireroom_chat.ports.providers import ProviderDirectory, Writer
from wireroom_chat.usecases.answer_cache import AnswerCache, KeptAnswer
from wireroom_chat.usecases.assistants import Assistants
from wireroom_chat.usecases.assisting import AssistantAnswer, disclaimer_of
from wireroom_chat.usecases.forwarding import forward, forward_stream
from wireroom_chat.usecases.generating import Generator, Plan
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import FIRST_LINE, NO_PROVIDER, NOT_READABLE, OUT_OF_BUDGET, QuotedAnswer
from wireroom_chat.usecases.rendering import Item, Rendering
from wireroom_chat.usecases.run import Run, Runs
from wireroom_chat.usecases.searching import SourcesUnavailableError
from wireroom_chat.usecases.stream_opening import Opening, Part
from wireroom_chat.usecases.streams import Streams
from wireroom_chat.usecases.taking_up import TakingUp
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal

PERMISSION = "llm:invoke"
_NOT_OF_THE_REQUEST = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED})
_FIRST_LINES = {"insufficient_quota": OUT_OF_BUDGET, NOT_ALLOWED: NOT_READABLE}


class CompleteChat:
    """The service's main job."""

    def __init__(
        self,
        *,
        directory: ProviderDirectory,
        generator: Generator,
        quoted: QuotedAnswer,
        grounded: GroundedAnswer,
        runs: Runs,
        streams: Streams,
        links: Links,
        terms: Terms,
        cache: AnswerCache | None = None,
        degrade: Degrade = Degrade.ALWAYS,
        assistants: Assistants | None = None,
        assisting: AssistantAnswer | None = None,
        embedding_models: Sequence[str] = (),
        unsupported: Mapping[str, Unsupported] | None = None,
    ) -> None:
        self._directory = directory
        self._generator = generator
        self._quoted = quoted
        self._grounded = grounded
        self._runs = runs
        self._streams = streams
        self._rendering = Rendering(links)
        self._terms = terms
        self._cache = cache
        self._degrade = degrade
        self._assistants = assistants
        self._assisting = assisting
        self._embedding_models = embedding_models
        self._unsupported = unsupported or {}

    async def models(self, principal: Principal) -> list[ListedModel]:
        """The models on offer: those of the catalogue, our own embedding models, the assistants."""
        principal.require(PERMISSION)
        names = await self._assistants.names(principal) if self._assistants is not None and principal.tenant_id else []
        return [
            *self._directory.catalogue().listed(principal.tenant_id),
            *(ListedModel(name, BUILT_IN_PROVIDER, built_in=True, type="embedding") for name in self._embedding_models),
            *(ListedModel(f"{PREFIX}{name}", BUILT_IN_PROVIDER, built_in=True) for name in names),
        ]

    async def complete(self, principal: Principal, body: bytes, *, no_cache: bool = False) -> tuple[bytes, Info]:
        """The chat completion object as JSON. `no_cache`: no kept answer, whatever the body says."""
        principal.require(PERMISSION)
        request = parse_request(body, stream=False)
        return await self.answer(principal, replace(request, cache=CacheMode.OFF) if no_cache else request, Origin())

    async def stream(self, principal: Principal, body: bytes, *, no_cache: bool = False) -> AsyncGenerator[Frame, None]:
        """Frames: `Info`, then chunks as JSON, then `End`. Errors before the first frame are raised."""
        async with aclosing(self.stream_batches(principal, body, no_cache=no_cache)) as batches:
            async for batch in batches:
                for frame in batch:
                    yield frame

    async def stream_batches(
        self, principal: Principal, body: bytes, *, no_cache: bool = False
    ) -> AsyncGenerator[list[Frame], None]:
        """The frames of `stream`, those together that are there at the same moment."""
        principal.require(PERMISSION)
        request = parse_request(body, stream=True)
        if no_cache:
            request = replace(request, cache=CacheMode.OFF)
        opening, produce = await self._opened(principal, request, Origin(), grace=0)
        async with aclosing(self._streams.deliver_batches(opening, produce)) as batches:
            async for batch in batches:
                yield batch

    async def answer(self, principal: Principal, request: ChatRequest, origin: Origin) -> tuple[bytes, Info]:
        """The whole answer to a request that is permitted."""
        request, route = await self.resolved(principal, request)
        async with (
            self._runs.track(self._runs.generation(principal, request.model, origin)) as run,
            self._kept_answer(principal, request, route, run) as kept,
        ):
            if kept is not None:
                answer = self._rendering.kept(kept, run)
            elif route.candidates and route.grounding is None:
                try:
                    answer = await forward(request, self._writer(request, route, run), run)
                except WireroomError as error:
                    quotes = await self._quotes_instead(request, route, error)
                    if quotes is None:
                        raise
                    answer = self._rendering.whole(request, quotes, run)
            else:
                answer = self._rendering.whole(request, [item async for item in self.pieces(request, route, run)], run)
            await run.row()
            return answer, _info(run)

    async def answer_stream(
        self, principal: Principal, request: ChatRequest, origin: Origin, *, grace: float
    ) -> AsyncGenerator[Frame, None]:
        """The streamed answer to a request that is permitted; it lives on for `grace` seconds without a caller."""
        opening, produce = await self._opened(principal, request, origin, grace=grace)
        async with aclosing(self._streams.deliver(opening, produce)) as frames:
            async for frame in frames:
                yield frame

    async def _opened(
        self, principal: Principal, request: ChatRequest, origin: Origin, *, grace: float
    ) -> tuple[Opening, AsyncGenerator[Part, None]]:
        request, route = await self.resolved(principal, request)
        generation = self._runs.generation(principal, request.model, origin)
        checkpoint = _checkpoint(request, route)
        opening = Opening(principal, generation, grace, checkpoint)
        return opening, self._produce(principal, request, route, generation, checkpoint)

    def take_up(self, opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        """Go on with a streamed answer whose process is gone, as `TakingUp` does."""
        return TakingUp(self, self._directory, self._rendering, self._runs).go_on(opening, info, chunks)

    async def _produce(
        self, principal: Principal, request: ChatRequest, route: Route, generation: Generation, checkpoint: dict[str, Any]
    ) -> AsyncGenerator[Part, None]:
        async with self._runs.track(generation) as run, self._kept_answer(principal, request, route, run) as kept:
            # How many calls of providers have been told of; each that yields is told.
            told = -1
            source: AsyncGenerator[bytes | list[bytes], None] = (
                self._chunks(request, route, run) if kept is None else self._rendering.kept_chunks(kept, request, run)
            )
            async with aclosing(source) as chunks:
                async for chunk in chunks:
                    if told < 0:
                        await run.row()
                        _note(checkpoint, run)
                    if told != len(run.attempts):
                        told = len(run.attempts)
                        yield _info(run)
                    yield chunk

    @asynccontextmanager
    async def _kept_answer(
        self, principal: Principal, request: ChatRequest, route: Route, run: Run
    ) -> AsyncGenerator[KeptAnswer | None, None]:
        """An answer that was given before; else what is made inside the block is kept, if it ended well and by its own."""
        slot = self._cache.slot(principal, request, route) if self._cache is not None else None
        # What tools found or made is of its moment.
        if self._cache is None or slot is None or route.assistant is not None:
            yield None
            return
        async with self._cache.turn(slot) as found:
            if found is not None:
                answer, run.cache = found
                yield answer
                return
            run.cache, run.kept = "miss", True
            yield None
            whole = run.finish_reason == "stop" and run.retrieval is Retrieved.COMPLETE
            if whole and run.mode in _kept_modes(route):
                tokens_in, tokens_out = run.tokens()
                message = run.message or {"role": "assistant", "content": "".join(run.text), "refusal": None}
                answer = KeptAnswer(
                    message=dict(message),
                    citations=[dict(item) for item in run.citation_list],
                    spans=list(run.spans),
                    finish_reason=run.finish_reason,
                    mode=run.mode.value,
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                    remarks=dict(run.remarks),
                    terms=[list(names) for names in run.terms.written()],
                )
                await self._cache.keep(slot, answer)

    async def resolved(self, principal: Principal, request: ChatRequest) -> tuple[ChatRequest, Route]:
        """The request under the name that is recorded, and its route; an assistant's name stands for a version of it."""
        if not is_assistant(request.model):
            route = self._route(principal, request)
            return (request if route.grounding is None else self._with_topic(request)), route
        if self._assistants is None:
            raise unknown(request.model)
        assistant = await self._assistants.choose(principal, request.model)
        request.refuse_for_quotes()
        route = self._directory.catalogue().route(assistant.config.model or "grounded", None, principal.tenant_id)
        return (
            replace(self._with_topic(request), model=assistant.model),
            replace(
                route,
                grounding=self._with_policy(principal, narrowed(assistant.config, request.grounding)),
                assistant=assistant,
            ),
        )

    def _with_policy(self, principal: Principal, grounding: Grounding) -> Grounding:
        """The tenant's policy for sentences without support, or the installation's, where the request has none."""
        if grounding.unsupported is not None:
            return grounding
        return replace(grounding, unsupported=self._unsupported.get(str(principal.tenant_id), self._unsupported.get("*")))

    def _with_topic(self, request: ChatRequest) -> ChatRequest:
        """The request with what to look for, where its question leans on earlier ones."""
        if request.search:
            return request
        earlier = [text_of(message.get("content")) for message in request.messages if message["role"] == "user"][:-1]
        return replace(request, search=search_query(request.question(), earlier, self._terms)) if earlier else request

    def _route(self, principal: Principal, request: ChatRequest) -> Route:
        route = self._directory.catalogue().route(request.model, request.grounding, principal.tenant_id)
        if route.grounding is None:
            return route
        request.refuse_for_quotes()
        return replace(route, grounding=self._with_policy(principal, route.grounding))

    async def _chunks(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[bytes | list[bytes], None]:
        if not route.candidates or route.grounding is not None:
            async with aclosing(self._rendering.chunks(request, self.pieces(request, route, run), run)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        begun = False
        try:
            async with aclosing(forward_stream(request, self._writer(request, route, run), run)) as chunks:
                async for part in chunks:
                    begun = True
                    yield part
        except WireroomError as error:
            quotes = None if begun else await self._quotes_instead(request, route, error)
            if quotes is None:
                raise
        else:
            return
        async with aclosing(self._rendering.chunks(request, _each(quotes), run)) as chunks:
            async for chunk in chunks:
                yield chunk

    def quotes(self, request: ChatRequest, route: Route, first_line: str = FIRST_LINE) -> AsyncGenerator[Item, None]:
        grounding = route.grounding or Grounding()
        if route.assistant is not None and self._assisting is not None:
            return self._assisting.quoted(request, grounding, route.assistant, first_line)
        return self._quoted.pieces(request, grounding, first_line)

    def generated(self, request: ChatRequest, route: Route, run: Run, begun: Begun | None = None) -> AsyncGenerator[Item, None]:
        """An answer that a provider writes from sources or in the name of an assistant, after what was begun of it."""
        grounding = route.grounding or Grounding()
        provider = self._writer(request, route, run, "".join(begun.pieces) if begun is not None else "")
        if route.assistant is not None and self._assisting is not None:
            owner = (run.generation.tenant_id, run.generation.user_id)
            return self._assisting.pieces(request, grounding, route.assistant, provider, owner=owner, begun=begun)
        return self._grounded.pieces(request, grounding, provider, begun)

    def forwarded(self, request: ChatRequest, route: Route, run: Run, written: str) -> AsyncGenerator[list[bytes], None]:
        """The chunks of a provider's answer after `written`."""
        return forward_stream(request, self._writer(request, route, run, written), run)

    def _writer(self, request: ChatRequest, route: Route, run: Run, written: str = "") -> Writer:
        """Who may write the answer: of the route's candidates those that may be told what stands in the messages."""
        plan = Plan(route.candidates, route.strategy, fallback=request.fallback)
        return self._generator.bound(plan, run, written).reading(request.terms)

    def disclaimer(self, route: Route) -> list[Piece]:
        """What is appended to the answer."""
        return [disclaimer_of(route.assistant.config)] if route.assistant is not None else []

    def has_effects(self, route: Route) -> frozenset[str]:
        """The names of the tools at hand that do more than read and reckon."""
        if route.assistant is None or self._assisting is None:
            return frozenset()
        return self._assisting.has_effects(route.assistant.config)

    def info(self, run: Run) -> Info:
        """What is known of the answer now."""
        return _info(run)

    async def pieces(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[Item, None]:
        """The pieces of an answer from sources; when no provider can write it, quotes from the same sources."""
        if not route.candidates:
            async with aclosing(self.quotes(request, route)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        begun = False
        try:
            async with aclosing(self.generated(request, route, run)) as pieces:
                async for piece in pieces:
                    begun = begun or not isinstance(piece, Searched)
                    yield piece
        except WireroomError as error:
            quotes = (
                None if begun or isinstance(error, SourcesUnavailableError) else await self._quotes_instead(request, route, error)
            )
            if quotes is None:
                raise
        else:
            return
        for piece in quotes:
            yield piece

    async def _quotes_instead(self, request: ChatRequest, route: Route, error: WireroomError) -> list[Item] | None:
        """Quotes that answer the request in place of a provider that could not; None when there are none or they are not wanted."""
        wanted = self._degrade is Degrade.ALWAYS or (self._degrade is Degrade.GROUNDED and route.grounding is not None)
        instead = error.kind in _NOT_OF_THE_REQUEST or error.code in _FIRST_LINES
        if not (instead and wanted and request.fallback and request.can_be_quoted()):
            return None
        first_line = _FIRST_LINES.get(error.code, NO_PROVIDER)
        try:
            quotes = [item async for item in self.quotes(request, route, first_line)]
        except WireroomError:
            # The caller learns why there is no answer, not why there is no substitute for it.
            return None
        return quotes if AnswerMode.EXTRACTIVE in quotes else None


async def _each(
    items: list[Item],
) -> AsyncGenerator[Item, None]:
    for item in items:
        yield item


def _info(run: Run) -> Info:
    return Info(
        completion_id=run.completion_id,
        model=run.model,
        answer_mode=run.mode,
        provider=run.provider,
        path=run.path,
        cache=run.cache,
        cost_micros=run.micros(),
        budget_remaining_micros=run.remaining_micros,
        retrieval=run.retrieval.value,
        source_terms=run.terms.written(),
    )


def _checkpoint(request: ChatRequest, route: Route) -> dict[str, Any]:
    """What another process needs to go on with the answer."""
    return checkpoint_of(request, route.grounding, continuable=request.fallback)


def _note(checkpoint: dict[str, Any], run: Run) -> None:
    """Add what is known at the first word: before it nobody looks at the checkpoint."""
    if run.sources:
        checkpoint["sources"] = run.sources
    if run.attempts:
        checkpoint["prompt_tokens"] = run.attempts[-1].prompt_tokens


def _kept_modes(route: Route) -> frozenset[AnswerMode]:
    """How an answer must have come about to be kept: quotes that stood in for a provider are not the answer."""
    if route.candidates:
        return frozenset({AnswerMode.GENERATED, AnswerMode.ABSTAINED})
    return frozenset({AnswerMode.EXTRACTIVE, AnswerMode.ABSTAINED})
