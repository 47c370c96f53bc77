"""`InferenceService`: protobuf in and out, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from wireroom_chat.domain.frames import End, Info
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import chat_pb2, chat_pb2_grpc


class InferenceServicer(chat_pb2_grpc.InferenceServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, completing: CompleteChat, created: int) -> None:
        self._completing = completing
        self._created = created

    async def ListModels(self, request: chat_pb2.ListModelsRequest, context: Any) -> chat_pb2.ListModelsResponse:  # noqa: N802 - rpc name
        del request, context
        return chat_pb2.ListModelsResponse(
            models=[
                chat_pb2.Model(
                    id=model.id, owned_by=model.owned_by, created=self._created, built_in=model.built_in, type=model.type
                )
                for model in await self._completing.models(current_principal())
            ]
        )

    async def Complete(self, request: chat_pb2.CompleteRequest, context: Any) -> chat_pb2.CompleteResponse:  # noqa: N802 - rpc name
        del context
        body, info = await self._completing.complete(current_principal(), request.body, no_cache=request.no_cache)
        return chat_pb2.CompleteResponse(body=body, info=info_message(info))

    async def StreamComplete(  # noqa: N802 - rpc name
        self, request: chat_pb2.StreamCompleteRequest, context: Any
    ) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        del context
        stream = self._completing.stream_batches(current_principal(), request.body, no_cache=request.no_cache)
        async with aclosing(stream) as batches:
            async for batch in batches:
                (seq, part), *rest = batch
                if isinstance(part, bytes):
                    # Only chunks come together.
                    more = [frame.part for frame in rest if isinstance(frame.part, bytes)]
                    yield chat_pb2.StreamCompleteResponse(data=part, seq=seq, more=more)
                elif isinstance(part, Info):
                    yield chat_pb2.StreamCompleteResponse(info=info_message(part), seq=seq)
                else:
                    raise_for(part)


def info_message(info: Info) -> chat_pb2.CompletionInfo:
    """The message of `info`."""
    return chat_pb2.CompletionInfo(
        completion_id=info.completion_id,
        model=info.model,
        answer_mode=info.answer_mode.value,
        provider=info.provider,
        provider_path=info.path,
        cache=info.cache,
        cost_micros=info.cost_micros,
        budget_remaining_micros=info.budget_remaining_micros,
        retrieval=info.retrieval,
        source_terms=[chat_pb2.SourceTerms(names=names) for names in info.source_terms],
    )


def raise_for(end: End) -> None:
    """The error of a stream that failed."""
    if end.status == "failed":
        raise WireroomError(ErrorKind(end.error_kind), end.error_code, end.error_detail, retry_after=end.retry_after)
