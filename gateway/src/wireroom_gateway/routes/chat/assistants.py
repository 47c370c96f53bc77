"""The assistants on offer, and their management."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import Body, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import assistants_pb2 as messages

_MANAGE = "assistants:manage"
_PATH = "/api/v1/admin/assistants"
_Name = Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[a-z0-9][a-z0-9-]*$")]
# Checked where assistants answer: there is one place that knows the members.
_Config = Annotated[
    dict[str, Any],
    Field(
        description="`title`, `prompt`, `disclaimer`; optional `description`, `model`, `sources` {kinds, top_k, mode, upfront}, `tools`,"
        " `allow_untrusted`, `limits` {rounds, parallel_calls, tool_seconds, result_characters, max_tokens}, `output` {allowed_hosts}."
    ),
]
_Weight = Annotated[int, Field(ge=0, le=10_000)]
_Number = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]


class OfferedAssistantOutput(Output):
    """An assistant as its users see it; `model` is the name to ask for it."""

    name: str
    model: str
    title: str
    description: str
    disclaimer: str
    built_in: bool


class OfferedAssistantsOutput(Output):
    """All that are active."""

    assistants: list[OfferedAssistantOutput]


class VersionOutput(Output):
    """A version, which never changes; number 0 is the one that is shipped."""

    number: int
    config: dict[str, Any]
    created_at: datetime | None
    created_by: str


class AssistantOutput(Output):
    """An assistant with its newest versions. `weights`: share of the users by version number; others get none."""

    name: str
    built_in: bool
    weights: dict[str, int]
    versions: list[VersionOutput]


class AssistantSummaryOutput(Output):
    """An assistant without its versions."""

    name: str
    built_in: bool
    weights: dict[str, int]


class AssistantsOutput(Output):
    """All of the tenant, and those that are built in."""

    assistants: list[AssistantSummaryOutput]


class CreateAssistantInput(Input):
    """A new assistant; its configuration becomes version 1."""

    name: _Name
    config: _Config


class CreateVersionInput(Input):
    """A new version; it gets no users until it is given a weight."""

    config: _Config


class WeightsInput(Input):
    """Weights by version number, relative to each other; versions that are not named get no users."""

    weights: Annotated[dict[_Number, _Weight], Field(min_length=1, max_length=100)]


def add_assistant_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/assistants` and `/api/v1/admin/assistants`."""

    @api.get("/api/v1/assistants", tags=["assistants"])
    @access("chat:use")
    async def list_assistants() -> OfferedAssistantsOutput:
        answer = await services.assistants.ListOfferedAssistants(messages.ListOfferedAssistantsRequest(), timeout=timeout)
        return OfferedAssistantsOutput(
            assistants=[
                OfferedAssistantOutput(
                    name=entry.name,
                    model=entry.model,
                    title=entry.title,
                    description=entry.description,
                    disclaimer=entry.disclaimer,
                    built_in=entry.built_in,
                )
                for entry in answer.assistants
            ]
        )

    @api.get(_PATH, tags=["administration"])
    @access(_MANAGE)
    async def list_managed_assistants() -> AssistantsOutput:
        answer = await services.assistants.ListAssistants(messages.ListAssistantsRequest(), timeout=timeout)
        return AssistantsOutput(
            assistants=[
                AssistantSummaryOutput(name=entry.name, built_in=entry.built_in, weights=_weights(entry))
                for entry in answer.assistants
            ]
        )

    @api.post(_PATH, status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access(_MANAGE, body=Body.CHAT)
    async def create_assistant(body: CreateAssistantInput) -> AssistantOutput:
        request = messages.CreateAssistantRequest(name=body.name, config=orjson.dumps(body.config))
        return _assistant((await services.assistants.CreateAssistant(request, timeout=timeout)).assistant)

    @api.get(f"{_PATH}/{{name}}", tags=["administration"], responses=problem_responses(404))
    @access(_MANAGE)
    async def get_assistant(name: str) -> AssistantOutput:
        answer = await services.assistants.GetAssistant(messages.GetAssistantRequest(name=name), timeout=timeout)
        return _assistant(answer.assistant)

    @api.delete(f"{_PATH}/{{name}}", status_code=204, tags=["administration"], responses=problem_responses(404))
    @access(_MANAGE)
    async def delete_assistant(name: str) -> Response:
        await services.assistants.DeleteAssistant(messages.DeleteAssistantRequest(name=name), timeout=timeout)
        return Response(status_code=204)

    @api.post(f"{_PATH}/{{name}}/versions", status_code=201, tags=["administration"], responses=problem_responses(404, 409, 415))
    @access(_MANAGE, body=Body.CHAT)
    async def create_assistant_version(name: str, body: CreateVersionInput) -> VersionOutput:
        request = messages.CreateAssistantVersionRequest(name=name, config=orjson.dumps(body.config))
        return _version((await services.assistants.CreateAssistantVersion(request, timeout=timeout)).version)

    @api.put(f"{_PATH}/{{name}}/weights", tags=["administration"], responses=problem_responses(404, 415))
    @access(_MANAGE)
    async def set_assistant_weights(name: str, body: WeightsInput) -> AssistantOutput:
        weights = {int(number): weight for number, weight in body.weights.items()}
        request = messages.SetAssistantWeightsRequest(name=name, weights=weights)
        return _assistant((await services.assistants.SetAssistantWeights(request, timeout=timeout)).assistant)


def _weights(assistant: messages.Assistant) -> dict[str, int]:
    return {str(number): weight for number, weight in sorted(assistant.weights.items())}


def _assistant(assistant: messages.Assistant) -> AssistantOutput:
    return AssistantOutput(
        name=assistant.name,
        built_in=assistant.built_in,
        weights=_weights(assistant),
        versions=[_version(version) for version in assistant.versions],
    )


def _version(version: messages.AssistantVersion) -> VersionOutput:
    return VersionOutput(
        number=version.number,
        config=orjson.loads(version.config),
        created_at=moment(version, "created_at"),
        created_by=version.created_by,
    )
