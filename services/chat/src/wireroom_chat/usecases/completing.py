"""Answer a chat completion request: whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from wireroom_chat.domain.answer import AnswerMode, AnswerText, Ending, Piece
from wireroom_chat.domain.models import BUILT_IN_PROVIDER, ListedModel, ModelCatalogue, ProviderModel, Route
from wireroom_chat.domain.request import ChatRequest, parse_request
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.domain.wire import EXTRACTIVE_FINGERPRINT, ChunkWriter, Links, annotation_objects, completion_object
from wireroom_chat.ports import ChatProvider
from wireroom_chat.usecases.forwarding import forward, forward_stream
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_chat.usecases.run import Run, Runs
from wireroom_chat.usecases.usage import prompt_tokens
from wireroom_common.principal import Principal

PERMISSION = "llm:invoke"


@dataclass(frozen=True)
class Info:
    """What is known of an answer when it begins."""

    completion_id: str
    model: str
    answer_mode: AnswerMode
    provider: str


def _info(run: Run) -> Info:
    return Info(run.completion_id, run.model, run.mode, run.provider)


class CompleteChat:
    """The service's main job."""

    def __init__(
        self,
        *,
        catalogue: ModelCatalogue,
        providers: Mapping[str, ChatProvider],
        quoted: QuotedAnswer,
        grounded: GroundedAnswer,
        runs: Runs,
        links: Links,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._quoted = quoted
        self._grounded = grounded
        self._runs = runs
        self._links = links

    def models(self, principal: Principal) -> list[ListedModel]:
        """The models on offer."""
        principal.require(PERMISSION)
        return self._catalogue.listed()

    async def complete(self, principal: Principal, body: bytes) -> tuple[bytes, Info]:
        """The chat completion object as JSON."""
        request, route = self._checked(principal, body, stream=False)
        provider_name = route.generator.provider if route.generator else BUILT_IN_PROVIDER
        async with self._runs.track(
            tenant_id=principal.tenant(), user_id=principal.user_id(), model=request.model, provider=provider_name
        ) as (run, row):
            if route.grounding is None and route.generator is not None:
                answer = await forward(request, self._providers[route.generator.provider], route.generator.name, run)
            else:
                answer = await self._whole(request, route, run)
            await row
            return answer, _info(run)

    async def stream(self, principal: Principal, body: bytes) -> AsyncGenerator[Info | bytes, None]:
        """`Info` first, then chunks as JSON. Errors before the first chunk come before `Info`."""
        request, route = self._checked(principal, body, stream=True)
        provider_name = route.generator.provider if route.generator else BUILT_IN_PROVIDER
        async with self._runs.track(
            tenant_id=principal.tenant(), user_id=principal.user_id(), model=request.model, provider=provider_name
        ) as (run, row):
            if route.grounding is None and route.generator is not None:
                chunks = forward_stream(request, self._providers[route.generator.provider], route.generator.name, run)
            else:
                chunks = self._chunks(request, route, run)
            begun = False
            async with aclosing(chunks):
                async for chunk in chunks:
                    if not begun:
                        await row
                        yield _info(run)
                        begun = True
                    yield chunk

    def _checked(self, principal: Principal, body: bytes, *, stream: bool) -> tuple[ChatRequest, Route]:
        principal.require(PERMISSION)
        request = parse_request(body, stream=stream)
        route = self._catalogue.route(request.model, request.grounding)
        if route.grounding is not None:
            request.refuse_for_quotes()
        return request, route

    def _pieces(self, request: ChatRequest, route: Route) -> AsyncGenerator[AnswerMode | Piece | Ending, None]:
        if route.grounding is None:
            msg = "A route without grounding is forwarded."
            raise RuntimeError(msg)
        if route.generator is None:
            return self._quoted.pieces(request, route.grounding)
        return self._grounded.pieces(request, route.grounding, self._providers[route.generator.provider], route.generator.name)

    async def _whole(self, request: ChatRequest, route: Route, run: Run) -> bytes:
        answer = AnswerText()
        ending = Ending()
        async with aclosing(self._pieces(request, route)) as pieces:
            async for item in pieces:
                if isinstance(item, Piece):
                    run.first_token()
                    answer.add(item)
                elif isinstance(item, Ending):
                    ending = item
                else:
                    run.mode = item
        _count(run, request, ending, answer.text)
        run.citations = len(answer.annotations)
        return completion_object(
            completion_id=run.completion_id,
            created=run.created,
            model=run.model,
            text=answer.text,
            finish_reason=ending.finish_reason,
            annotations=answer.annotations,
            links=self._links,
            tokens=(run.tokens_in, run.tokens_out),
            fingerprint=_fingerprint(route.generator),
        )

    async def _chunks(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[bytes, None]:
        """Quoted answers are known as a whole, so their last sentence carries the annotations; generated ones end with an empty piece."""
        writer = ChunkWriter(
            completion_id=run.completion_id,
            created=run.created,
            model=run.model,
            fingerprint=_fingerprint(route.generator),
            include_usage=request.include_usage,
        )
        answer = AnswerText()
        ending = Ending()
        held = ""
        async with aclosing(self._pieces(request, route)) as pieces:
            async for item in pieces:
                if isinstance(item, Piece):
                    run.first_token()
                    answer.add(item)
                    run.tokens_out += count_tokens(item.text)
                    run.citations = len(answer.annotations)
                    if route.generator is not None:
                        yield writer.content(item.text)
                        continue
                    if held:
                        yield writer.content(held)
                    held = item.text
                elif isinstance(item, Ending):
                    ending = item
                else:
                    run.mode = item
                    yield writer.role()
        annotations = annotation_objects(answer.annotations, self._links)
        if held or annotations:
            yield writer.content(held, annotations or None)
        _count(run, request, ending, answer.text)
        yield writer.finish(ending.finish_reason)
        if request.include_usage:
            yield writer.usage(run.tokens_in, run.tokens_out)


def _fingerprint(generator: ProviderModel | None) -> str | None:
    return EXTRACTIVE_FINGERPRINT if generator is None else None


def _count(run: Run, request: ChatRequest, ending: Ending, text: str) -> None:
    run.tokens_in = ending.tokens_in if ending.tokens_in >= 0 else prompt_tokens(request.messages)
    run.tokens_out = ending.tokens_out if ending.tokens_out >= 0 else count_tokens(text)
