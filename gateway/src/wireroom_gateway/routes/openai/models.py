"""`/v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import chat_pb2


def add_model_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """The models that chat completions take. Their schema is OpenAI's."""

    async def models() -> list[chat_pb2.Model]:
        return list((await services.inference.ListModels(chat_pb2.ListModelsRequest(), timeout=timeout)).models)

    @api.get("/v1/models", tags=["openai"])
    @access("llm:invoke")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(model) for model in await models()]}

    # Providers' model names have slashes in them.
    @api.get("/v1/models/{id:path}", tags=["openai"], responses=problem_responses(404))
    @access("llm:invoke")
    async def get_model(id: str) -> dict[str, Any]:  # noqa: A002 - the path's name for it
        for model in await models():
            if model.id == id:
                return _model(model)
        raise WireroomError(
            ErrorKind.NOT_FOUND, "model_not_found", f"The model '{id[:100]}' does not exist here. See GET /v1/models."
        )


def _model(model: chat_pb2.Model) -> dict[str, Any]:
    # `type` is no member of OpenAI's.
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by, "type": model.type or "chat"}
