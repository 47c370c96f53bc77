"""Answer a chat completion request: whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Any

import orjson

from wireroom_chat.domain.answer import AnswerMode, AnswerText, Ending, Piece
from wireroom_chat.domain.catalogue import ListedModel, Route
from wireroom_chat.domain.continuation import can_continue
from wireroom_chat.domain.request import ChatRequest, Grounding, parse_request
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.domain.wire import EXTRACTIVE_FINGERPRINT, ChunkWriter, Links, annotation_objects, completion_object
from wireroom_chat.ports import Generation, Origin, ProviderDirectory
from wireroom_chat.usecases.forwarding import forward, forward_stream
from wireroom_chat.usecases.generating import Generator, Plan
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import NO_PROVIDER, OUT_OF_BUDGET, QuotedAnswer
from wireroom_chat.usecases.run import Run, Runs
from wireroom_chat.usecases.streams import Frame, Info, Opening, Streams
from wireroom_chat.usecases.usage import prompt_tokens
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal

PERMISSION = "llm:invoke"
_NOT_OF_THE_REQUEST = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED})


class Degrade(StrEnum):
    """When quotes from the sources stand in for an answer that no provider could write or no budget pays for."""

    NEVER = "never"
    # Only for requests that asked for sources anyway.
    GROUNDED = "grounded"
    ALWAYS = "always"


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
        degrade: Degrade = Degrade.ALWAYS,
    ) -> None:
        self._directory = directory
        self._generator = generator
        self._quoted = quoted
        self._grounded = grounded
        self._runs = runs
        self._streams = streams
        self._links = links
        self._degrade = degrade

    def models(self, principal: Principal) -> list[ListedModel]:
        """The models on offer."""
        principal.require(PERMISSION)
        return self._directory.catalogue().listed(principal.tenant_id)

    async def complete(self, principal: Principal, body: bytes) -> tuple[bytes, Info]:
        """The chat completion object as JSON."""
        principal.require(PERMISSION)
        return await self.answer(principal, parse_request(body, stream=False), Origin())

    async def stream(self, principal: Principal, body: bytes) -> AsyncGenerator[Frame, None]:
        """Frames: `Info`, then chunks as JSON, then `End`. Errors before the first frame are raised."""
        principal.require(PERMISSION)
        request = parse_request(body, stream=True)
        async with aclosing(self.answer_stream(principal, request, Origin(), grace=0)) as frames:
            async for frame in frames:
                yield frame

    async def answer(self, principal: Principal, request: ChatRequest, origin: Origin) -> tuple[bytes, Info]:
        """The whole answer to a request that is permitted."""
        route = self._route(principal, request)
        async with self._runs.track(self._runs.generation(principal, request.model, origin)) as run:
            if route.candidates and route.grounding is None:
                try:
                    answer = await forward(request, self._generator.bound(_plan(request, route), run), run)
                except WireroomError as error:
                    quotes = await self._quotes_instead(request, route, error)
                    if quotes is None:
                        raise
                    answer = self._rendered(request, quotes, run)
            else:
                answer = self._rendered(request, [item async for item in self._pieces(request, route, run)], run)
            await run.row()
            return answer, _info(run)

    async def answer_stream(
        self, principal: Principal, request: ChatRequest, origin: Origin, *, grace: float
    ) -> AsyncGenerator[Frame, None]:
        """The streamed answer to a request that is permitted; it lives on for `grace` seconds without a caller."""
        route = self._route(principal, request)
        generation = self._runs.generation(principal, request.model, origin)
        opening = Opening(principal, generation, grace, _checkpoint(request, route))
        async with aclosing(self._streams.deliver(opening, self._produce(request, route, generation))) as frames:
            async for frame in frames:
                yield frame

    async def take_up(self, opening: Opening, path: Sequence[str], chunks: Sequence[bytes]) -> AsyncGenerator[Info | bytes, None]:
        """Go on with a streamed answer whose process is gone: `Info`, then the chunks after `chunks`.

        `path` is that of the last `Info`. UNAVAILABLE `stream_lost` where the answer cannot be joined on; it is settled in any case.
        """
        checkpoint = opening.checkpoint
        request = parse_request(orjson.dumps(checkpoint["request"]), stream=True)
        written, ended = _text_of(chunks)
        async with self._runs.track(opening.generation, adopted=True) as run:
            route = self._directory.catalogue().route(request.model, request.grounding, opening.principal.tenant_id)
            last = next((item for item in route.candidates if path and item.label == path[-1]), None)
            if last is not None:
                run.inherit(last, request.raw, written)
            if run.kept:
                run.text.append(written)
            if ended:
                # Only the last words on usage were not sent.
                run.finish_reason = ended
                return
            if not (checkpoint["continuable"] and route.candidates and can_continue(request.raw)):
                raise WireroomError(
                    ErrorKind.UNAVAILABLE,
                    "stream_lost",
                    "The process that wrote this answer is gone, and its rest cannot be joined on. Ask again.",
                )
            yield _info(run)
            provider = self._generator.bound(_plan(request, route), run, written)
            async with aclosing(forward_stream(request, provider, run)) as rest:
                async for chunk in rest:
                    yield chunk

    async def _produce(self, request: ChatRequest, route: Route, generation: Generation) -> AsyncGenerator[Info | bytes, None]:
        async with self._runs.track(generation) as run:
            begun = ""
            async with aclosing(self._chunks(request, route, run)) as chunks:
                async for chunk in chunks:
                    if not begun:
                        await run.row()
                    if begun != run.provider:
                        begun = run.provider
                        yield _info(run)
                    yield chunk

    def _route(self, principal: Principal, request: ChatRequest) -> Route:
        route = self._directory.catalogue().route(request.model, request.grounding, principal.tenant_id)
        if route.grounding is not None:
            request.refuse_for_quotes()
        return route

    async def _chunks(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[bytes, None]:
        if not route.candidates or route.grounding is not None:
            async with aclosing(self._written(request, self._pieces(request, route, run), run)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        begun = False
        try:
            async with aclosing(forward_stream(request, self._generator.bound(_plan(request, route), run), run)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
        except WireroomError as error:
            quotes = None if begun else await self._quotes_instead(request, route, error)
            if quotes is None:
                raise
        else:
            return
        async with aclosing(self._written(request, _each(quotes), run)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _pieces(self, request: ChatRequest, route: Route, run: Run) -> AsyncGenerator[AnswerMode | Piece | Ending, None]:
        """The pieces of an answer from sources; when no provider can write it, quotes from the same sources."""
        grounding = route.grounding or Grounding()
        if not route.candidates:
            async with aclosing(self._quoted.pieces(request, grounding)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        begun = False
        try:
            async with aclosing(
                self._grounded.pieces(request, grounding, self._generator.bound(_plan(request, route), run))
            ) as pieces:
                async for piece in pieces:
                    begun = True
                    yield piece
        except WireroomError as error:
            quotes = None if begun else await self._quotes_instead(request, route, error)
            if quotes is None:
                raise
        else:
            return
        for piece in quotes:
            yield piece

    async def _quotes_instead(
        self, request: ChatRequest, route: Route, error: WireroomError
    ) -> list[AnswerMode | Piece | Ending] | None:
        """Quotes that answer the request in place of a provider that could not; None when there are none or they are not wanted."""
        wanted = self._degrade is Degrade.ALWAYS or (self._degrade is Degrade.GROUNDED and route.grounding is not None)
        if error.kind not in _NOT_OF_THE_REQUEST or not (wanted and request.fallback and request.can_be_quoted()):
            return None
        first_line = OUT_OF_BUDGET if error.code == "insufficient_quota" else NO_PROVIDER
        try:
            quotes = [item async for item in self._quoted.pieces(request, route.grounding or Grounding(), first_line)]
        except WireroomError:
            # The caller learns why there is no answer, not why there is no substitute for it.
            return None
        return quotes if AnswerMode.EXTRACTIVE in quotes else None

    def _rendered(self, request: ChatRequest, pieces: list[AnswerMode | Piece | Ending], run: Run) -> bytes:
        answer = AnswerText()
        ending = Ending()
        for item in pieces:
            if isinstance(item, Piece):
                run.first_token()
                answer.add(item)
            elif isinstance(item, Ending):
                ending = item
            else:
                run.mode = item
        self._finished(request, answer, ending, run)
        return completion_object(
            completion_id=run.completion_id,
            created=run.created,
            model=run.model,
            text=answer.text,
            finish_reason=ending.finish_reason,
            annotations=answer.annotations,
            links=self._links,
            tokens=run.tokens(),
            fingerprint=_fingerprint(run),
        )

    async def _written(
        self, request: ChatRequest, pieces: AsyncGenerator[AnswerMode | Piece | Ending, None], run: Run
    ) -> AsyncGenerator[bytes, None]:
        """Quoted answers are known as a whole, so their last sentence carries the annotations; generated ones end with an empty piece."""
        writer: ChunkWriter | None = None
        answer = AnswerText()
        ending = Ending()
        held = ""
        async with aclosing(pieces):
            async for item in pieces:
                if isinstance(item, Piece):
                    run.first_token()
                    answer.add(item)
                    run.citations = len(answer.annotations)
                    if writer is None:
                        raise RuntimeError("an answer begins with its mode")
                    if run.mode is AnswerMode.GENERATED:
                        yield writer.content(item.text)
                        continue
                    if held:
                        yield writer.content(held)
                    held = item.text
                elif isinstance(item, Ending):
                    ending = item
                else:
                    run.mode = item
                    writer = ChunkWriter(
                        completion_id=run.completion_id,
                        created=run.created,
                        model=run.model,
                        fingerprint=_fingerprint(run),
                        include_usage=request.include_usage,
                    )
                    yield writer.role()
        if writer is None:
            raise RuntimeError("an answer has a mode")
        self._finished(request, answer, ending, run)
        if held or run.annotations:
            yield writer.content(held, list(run.annotations) or None)
        yield writer.finish(ending.finish_reason)
        if request.include_usage:
            yield writer.usage(*run.tokens())

    def _finished(self, request: ChatRequest, answer: AnswerText, ending: Ending, run: Run) -> None:
        run.citations = len(answer.annotations)
        run.annotations = annotation_objects(answer.annotations, self._links)
        run.finish_reason = ending.finish_reason
        run.own_tokens = (prompt_tokens(request.messages), count_tokens(answer.text))
        if run.kept:
            run.text = [answer.text]
            run.message = {"role": "assistant", "content": answer.text, "annotations": run.annotations}


async def _each(items: list[AnswerMode | Piece | Ending]) -> AsyncGenerator[AnswerMode | Piece | Ending, None]:
    for item in items:
        yield item


def _plan(request: ChatRequest, route: Route) -> Plan:
    return Plan(route.candidates, route.strategy, fallback=request.fallback)


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
    )


def _checkpoint(request: ChatRequest, route: Route) -> Mapping[str, Any]:
    """What another process needs to go on with the answer."""
    return {
        "request": {**request.raw, "disable_fallback": not request.fallback},
        "continuable": bool(route.candidates) and route.grounding is None and request.fallback,
    }


def _text_of(chunks: Sequence[bytes]) -> tuple[str, str]:
    """The text of a stream's chunks and its finish reason, if it has one."""
    parts, ended = [], ""
    for chunk in chunks:
        for choice in orjson.loads(chunk)["choices"]:
            parts.append(choice["delta"].get("content") or "")
            ended = choice.get("finish_reason") or ended
    return "".join(parts), ended


def _fingerprint(run: Run) -> str | None:
    return EXTRACTIVE_FINGERPRINT if run.mode is not AnswerMode.GENERATED and not run.attempts else None
