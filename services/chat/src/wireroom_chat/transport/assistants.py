"""`AssistantService`."""

from __future__ import annotations

import json
from typing import Any

from wireroom_chat.domain.assistants import PREFIX, Assistant, AssistantVersion
from wireroom_chat.usecases.assistants import Assistants
from wireroom_common.errors import invalid
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import assistants_pb2 as messages
from wireroom_protos.chat.v1 import assistants_pb2_grpc

_MAX_CONFIG = 200_000


class AssistantServicer(assistants_pb2_grpc.AssistantServiceServicer):
    """The use cases check the permissions."""

    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    async def ListOfferedAssistants(  # noqa: N802 - rpc name
        self, request: messages.ListOfferedAssistantsRequest, context: Any
    ) -> messages.ListOfferedAssistantsResponse:
        del request, context
        return messages.ListOfferedAssistantsResponse(
            assistants=[
                messages.OfferedAssistant(
                    name=assistant.name,
                    model=f"{PREFIX}{assistant.name}",
                    title=config.title,
                    description=config.description,
                    disclaimer=config.disclaimer.strip(),
                    built_in=assistant.built_in,
                )
                for assistant, config in await self._assistants.offered(current_principal())
            ]
        )

    async def ListAssistants(self, request: messages.ListAssistantsRequest, context: Any) -> messages.ListAssistantsResponse:  # noqa: N802 - rpc name
        del request, context
        found = await self._assistants.everything(current_principal())
        return messages.ListAssistantsResponse(assistants=[_assistant(assistant, versions=False) for assistant in found])

    async def CreateAssistant(self, request: messages.CreateAssistantRequest, context: Any) -> messages.CreateAssistantResponse:  # noqa: N802 - rpc name
        del context
        created = await self._assistants.create(current_principal(), request.name, _config(request.config))
        return messages.CreateAssistantResponse(assistant=_assistant(created))

    async def GetAssistant(self, request: messages.GetAssistantRequest, context: Any) -> messages.GetAssistantResponse:  # noqa: N802 - rpc name
        del context
        return messages.GetAssistantResponse(assistant=_assistant(await self._assistants.get(current_principal(), request.name)))

    async def DeleteAssistant(self, request: messages.DeleteAssistantRequest, context: Any) -> messages.DeleteAssistantResponse:  # noqa: N802 - rpc name
        del context
        await self._assistants.delete(current_principal(), request.name)
        return messages.DeleteAssistantResponse()

    async def CreateAssistantVersion(  # noqa: N802 - rpc name
        self, request: messages.CreateAssistantVersionRequest, context: Any
    ) -> messages.CreateAssistantVersionResponse:
        del context
        version = await self._assistants.add_version(current_principal(), request.name, _config(request.config))
        return messages.CreateAssistantVersionResponse(version=_version(version))

    async def SetAssistantWeights(  # noqa: N802 - rpc name
        self, request: messages.SetAssistantWeightsRequest, context: Any
    ) -> messages.SetAssistantWeightsResponse:
        del context
        changed = await self._assistants.set_weights(current_principal(), request.name, dict(request.weights))
        return messages.SetAssistantWeightsResponse(assistant=_assistant(changed))


def _config(data: bytes) -> Any:
    try:
        return json.loads(data[: _MAX_CONFIG + 1])
    except ValueError:
        raise invalid("assistant_config_invalid", "The configuration is not valid JSON, or too long.", field="config") from None


def _assistant(assistant: Assistant, *, versions: bool = True) -> messages.Assistant:
    shown = sorted(assistant.versions.values(), key=lambda version: -version.number) if versions else []
    return messages.Assistant(
        name=assistant.name,
        built_in=assistant.built_in,
        weights=dict(assistant.weights),
        versions=[_version(version) for version in shown],
    )


def _version(version: AssistantVersion) -> messages.AssistantVersion:
    message = messages.AssistantVersion(
        number=version.number, config=version.config.model_dump_json().encode(), created_by=version.created_by
    )
    if version.created_at is not None:
        message.created_at.FromDatetime(version.created_at)
    return message
