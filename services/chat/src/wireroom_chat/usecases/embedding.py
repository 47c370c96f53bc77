"""Embed texts with a provider's model or a built-in one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.catalogue import BUILT_IN_PROVIDER, Route
from wireroom_chat.domain.embeddings import EmbeddingRequest, embedding_list, parse_embedding_request
from wireroom_chat.domain.frames import Info
from wireroom_chat.domain.routing import NotCalledError, ProviderError
from wireroom_chat.ports.generations import Origin
from wireroom_chat.ports.providers import Embeddings, LeftBeforeCallError, ProviderDirectory, ProviderHealth
from wireroom_chat.usecases.completing import PERMISSION
from wireroom_chat.usecases.run import Run, Runs
from wireroom_chat.usecases.usage import prompt_tokens
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.principal import Principal

_MOVE_ON = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED})
# From this many inputs the answer is put together in a thread.
_MANY = 64


class EmbedTexts:
    """`built_in`: models that are not a provider's, by name."""

    def __init__(
        self, directory: ProviderDirectory, health: ProviderHealth, runs: Runs, built_in: Mapping[str, Embeddings] | None = None
    ) -> None:
        self._directory = directory
        self._health = health
        self._runs = runs
        self._built_in = built_in or {}

    async def embed(self, principal: Principal, body: bytes) -> tuple[bytes, Info]:
        """OpenAI's embedding object as JSON."""
        principal.require(PERMISSION)
        request = await asyncio.to_thread(parse_embedding_request, body)
        # Before a row is written: a name that means nothing is no completion.
        route = (
            None if request.model in self._built_in else self._directory.catalogue().embedding(request.model, principal.tenant_id)
        )
        async with self._runs.track(self._runs.generation(principal, request.model, Origin("embedding"))) as run:
            answer = await (
                self._provided(request, route, run) if route else self._local(request, self._built_in[request.model], run)
            )
            await run.row()
            return answer, Info(
                run.completion_id,
                request.model,
                AnswerMode.GENERATED,
                run.provider,
                run.path,
                cost_micros=run.micros(),
                budget_remaining_micros=run.remaining_micros,
            )

    async def _local(self, request: EmbeddingRequest, model: Embeddings, run: Run) -> bytes:
        texts = request.texts()
        if texts is None:
            raise invalid("tokens_not_supported", f"'{request.model}' embeds texts, not tokens.", field="input")
        answer = await model.embed({**request.asked, "model": request.model, "input": texts})
        tokens = _reported(answer)
        run.own_tokens = (prompt_tokens(request.prompt()) if tokens is None else tokens, 0)
        return await _rendered(request, answer, run.own_tokens[0], BUILT_IN_PROVIDER)

    async def _provided(self, request: EmbeddingRequest, route: Route, run: Run) -> bytes:
        asked = {"messages": request.prompt(), "max_completion_tokens": 1}
        inputs = [*request.inputs]
        # One text alone goes as it came: some providers know no lists.
        body = {**request.asked, "input": inputs[0] if len(inputs) == 1 else inputs}
        failure: WireroomError | None = None
        for candidate in self._health.order(route.candidates, route.strategy):
            if self._health.blocked_for(candidate):
                continue
            attempt = await run.begin(candidate, asked)
            self._health.began(candidate)
            try:
                answer = await self._directory.provider(candidate).embed({**body, "model": candidate.model.name})
            except asyncio.CancelledError as left:
                attempt.begun, attempt.status = not isinstance(left, LeftBeforeCallError), "cancelled"
                self._health.released(candidate, alive=False)
                raise
            except WireroomError as error:
                attempt.error_code = error.code
                if error.kind not in _MOVE_ON:
                    self._health.released(candidate, alive=isinstance(error, ProviderError))
                    raise
                failure = error
                if isinstance(error, NotCalledError):
                    self._health.released(candidate, alive=False)
                    continue
                # It was working on the answer: counted as billed, because nothing says that it is not.
                attempt.begun = error.kind is ErrorKind.DEADLINE
                self._health.failed(candidate, error)
                continue
            seconds = run.clock.monotonic() - attempt.began
            attempt.begun, attempt.status, attempt.first_token_after = True, "completed", seconds
            attempt.usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else None
            run.first_token()
            self._health.succeeded(candidate, first_token_seconds=seconds, tokens_out=0, seconds=seconds)
            return await _rendered(request, answer, attempt.tokens()[0], candidate.model.provider)
        raise failure or WireroomError(
            ErrorKind.UNAVAILABLE,
            "providers_unavailable",
            "No provider of this model can be called at the moment: their last calls failed. Try again later.",
            retry_after=min((self._health.blocked_for(candidate) for candidate in route.candidates), default=1.0),
        )


async def _rendered(request: EmbeddingRequest, answer: Mapping[str, Any], tokens: int, provider: str) -> bytes:
    def render() -> bytes:
        return orjson.dumps(embedding_list(request, answer["data"], tokens))

    try:
        return await asyncio.to_thread(render) if len(request.inputs) >= _MANY else render()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "provider_answer_invalid",
            f"The provider '{provider}' did not answer with a vector for each input; try again.",
        ) from None


def _reported(answer: Mapping[str, Any]) -> int | None:
    tokens = (answer.get("usage") or {}).get("prompt_tokens")
    return tokens if isinstance(tokens, int) else None
