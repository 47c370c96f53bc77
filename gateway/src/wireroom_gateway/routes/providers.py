"""Providers of language models, aliases, and their health: for operators of the installation."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import providers_pb2

_NEED = "providers:manage"
_TAGS: list[str | Enum] = ["administration"]
# A test may have to wait for a provider through several keys.
_TEST_SECONDS = 120.0
_NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
_MODEL = r"^[^\s\x00-\x1f\x7f]{1,200}$"
_PRINTABLE = r"^[\x21-\x7e]*$"
_MICROS = 10**12

_Name = Annotated[str, Field(pattern=_NAME)]
_Micros = Annotated[int | None, Field(ge=0, le=_MICROS)]
_Wire = Literal["openai", "anthropic"]
_Strategy = Literal["ordered", "weighted", "cheapest", "lowest_latency"]


class ProviderKeyInput(Input):
    """A key. Without `value` the stored one is kept; it is never shown again."""

    name: _Name = "default"
    value: Annotated[str, Field(max_length=4096, pattern=_PRINTABLE, json_schema_extra={"writeOnly": True})] = ""
    weight: Annotated[int, Field(ge=0, le=1000)] = 1


class ProviderModelInput(Input):
    """A model by the provider's name. Prices are micro-units (millionths of the currency unit) for a million tokens."""

    name: Annotated[str, Field(pattern=_MODEL)]
    input_micros: _Micros = None
    output_micros: _Micros = None
    cached_input_micros: _Micros = None
    price_version: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] = ""
    context_tokens: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    max_output_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    prefill: bool = False
    purposes: list[Literal["chat", "embeddings"]] = Field(default_factory=list, max_length=2)


class ProviderTimeoutsInput(Input):
    """Seconds; 0 is the service's default."""

    connect: Annotated[float, Field(ge=0, le=60)] = 0
    first_token: Annotated[float, Field(ge=0, le=600)] = 0
    idle: Annotated[float, Field(ge=0, le=600)] = 0
    total: Annotated[float, Field(ge=0, le=3600)] = 0


class ProviderInput(Input):
    """A provider. `preset` (openai, groq, openrouter, huggingface, anthropic, ollama, vllm) fills in what is left out.

    `local`: it keeps what it is told inside the house; texts of collections that name `local` may go to it.
    """

    preset: Annotated[str, Field(max_length=40, pattern=r"^[a-z]*$")] = ""
    wire: _Wire | None = None
    base_url: Annotated[str, Field(max_length=500, pattern=_PRINTABLE)] = ""
    keys: list[ProviderKeyInput] = Field(default_factory=list, max_length=20)
    models: Annotated[list[ProviderModelInput], Field(min_length=1, max_length=500)]
    timeouts: ProviderTimeoutsInput = ProviderTimeoutsInput()
    enabled: bool = True
    local: bool = False


class ProviderKeyOutput(Output):
    """A key by its name. `source`: "environment", "file", "database" or "settings"."""

    name: str
    weight: int
    source: str


class ProviderModelOutput(Output):
    """A model and its price; null where it is not known."""

    name: str
    input_micros: int | None
    output_micros: int | None
    cached_input_micros: int | None
    price_version: str
    context_tokens: int
    max_output_tokens: int
    prefill: bool
    purposes: list[str]


class ProviderTimeoutsOutput(Output):
    """Seconds, as they are in force."""

    connect: float
    first_token: float
    idle: float
    total: float


class ProviderOutput(Output):
    """A provider. `source`: "settings", "file" or "database"; `problem`: why it is not in use."""

    name: str
    preset: str
    wire: str
    base_url: str
    keys: list[ProviderKeyOutput]
    models: list[ProviderModelOutput]
    timeouts: ProviderTimeoutsOutput
    enabled: bool
    local: bool
    source: str
    problem: str


class ProvidersOutput(Output):
    """All providers."""

    providers: list[ProviderOutput]


class ProviderTestOutput(Output):
    """How a call through one key went."""

    key: str
    ok: bool
    error_code: str
    detail: str
    milliseconds: int
    missing_models: list[str]


class ProviderTestsOutput(Output):
    """One entry per key."""

    tests: list[ProviderTestOutput]


class CandidateHealthOutput(Output):
    """A model through a key. `circuit`: "closed", "open" or "half_open"."""

    provider: str
    model: str
    key: str
    circuit: str
    blocked_seconds: float
    first_token_seconds: float
    consecutive_failures: int


class ProviderHealthOutput(Output):
    """All candidates. `shared` false: the replicas cannot exchange what they know."""

    candidates: list[CandidateHealthOutput]
    shared: bool


class AliasCandidateInput(Input):
    """A model as `provider/model`; without `key`, through all keys of its provider."""

    model: Annotated[str, Field(min_length=3, max_length=250, pattern=r"^[^/\s\x00]+/[^\s\x00]+$")]
    key: Annotated[str, Field(max_length=40, pattern=r"^[a-z0-9._-]*$")] = ""
    weight: Annotated[int, Field(ge=0, le=1000)] = 1


class AliasInput(Input):
    """A name for several models. Without `tenant_ids` it is offered to all tenants."""

    candidates: Annotated[list[AliasCandidateInput], Field(min_length=1, max_length=50)]
    strategy: _Strategy = "ordered"
    tenant_ids: list[Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")]] = Field(default_factory=list, max_length=1000)


class AliasCandidateOutput(Output):
    """One candidate of an alias."""

    model: str
    key: str
    weight: int


class OfferedModelOutput(Output):
    """`kind`: "built_in", "alias" or "model"; `health`: "healthy", "degraded" or "down"."""

    id: str
    owned_by: str
    kind: str
    source: str
    health: str
    model: ProviderModelOutput | None
    strategy: str
    candidates: list[AliasCandidateOutput]
    tenant_ids: list[str]


class OfferedModelsOutput(Output):
    """All models and aliases of the installation, and what is configured but cannot be used."""

    models: list[OfferedModelOutput]
    problems: list[str]


def add_provider_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/providers` and their health."""

    @api.get("/api/v1/admin/providers", tags=_TAGS, responses=problem_responses())
    @access(_NEED)
    async def list_providers() -> ProvidersOutput:
        answer = await services.providers.ListProviders(providers_pb2.ListProvidersRequest(), timeout=timeout)
        return ProvidersOutput(providers=[_provider(entry) for entry in answer.providers])

    @api.get("/api/v1/admin/providers/{name}", tags=_TAGS, responses=problem_responses(404))
    @access(_NEED)
    async def get_provider(name: str) -> ProviderOutput:
        answer = await services.providers.GetProvider(providers_pb2.GetProviderRequest(name=name), timeout=timeout)
        return _provider(answer.provider)

    @api.put("/api/v1/admin/providers/{name}", tags=_TAGS, responses=problem_responses(409, 415))
    @access(_NEED)
    async def put_provider(name: str, body: ProviderInput) -> ProviderOutput:
        request = providers_pb2.PutProviderRequest(provider=_message(name, body))
        answer = await services.providers.PutProvider(request, timeout=timeout)
        return _provider(answer.provider)

    @api.delete("/api/v1/admin/providers/{name}", status_code=204, tags=_TAGS, responses=problem_responses(404, 409))
    @access(_NEED)
    async def delete_provider(name: str) -> Response:
        await services.providers.DeleteProvider(providers_pb2.DeleteProviderRequest(name=name), timeout=timeout)
        return Response(status_code=204)

    @api.post("/api/v1/admin/providers/{name}/test", tags=_TAGS, responses=problem_responses(404))
    @access(_NEED)
    async def test_provider(name: str) -> ProviderTestsOutput:
        answer = await services.providers.TestProvider(providers_pb2.TestProviderRequest(name=name), timeout=_TEST_SECONDS)
        return ProviderTestsOutput(
            tests=[
                ProviderTestOutput(
                    key=test.key,
                    ok=test.ok,
                    error_code=test.error_code,
                    detail=test.detail,
                    milliseconds=test.milliseconds,
                    missing_models=list(test.missing_models),
                )
                for test in answer.tests
            ]
        )

    @api.get("/api/v1/admin/provider-health", tags=_TAGS, responses=problem_responses())
    @access(_NEED)
    async def get_provider_health() -> ProviderHealthOutput:
        answer = await services.providers.GetProviderHealth(providers_pb2.GetProviderHealthRequest(), timeout=timeout)
        return ProviderHealthOutput(
            candidates=[
                CandidateHealthOutput(
                    provider=entry.provider,
                    model=entry.model,
                    key=entry.key,
                    circuit=entry.circuit,
                    blocked_seconds=entry.blocked_seconds,
                    first_token_seconds=entry.first_token_seconds,
                    consecutive_failures=entry.consecutive_failures,
                )
                for entry in answer.candidates
            ],
            shared=answer.shared,
        )


def add_offered_model_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/models`."""

    @api.get("/api/v1/admin/models", tags=_TAGS, responses=problem_responses())
    @access(_NEED)
    async def list_offered_models() -> OfferedModelsOutput:
        answer = await services.providers.ListOfferedModels(providers_pb2.ListOfferedModelsRequest(), timeout=timeout)
        return OfferedModelsOutput(models=[_offered(entry) for entry in answer.models], problems=list(answer.problems))

    @api.put("/api/v1/admin/models/{name}", tags=_TAGS, responses=problem_responses(409, 415))
    @access(_NEED)
    async def put_model_alias(name: str, body: AliasInput) -> OfferedModelOutput:
        request = providers_pb2.PutAliasRequest(
            name=name,
            strategy=body.strategy,
            candidates=[
                providers_pb2.AliasCandidate(model=entry.model, key=entry.key, weight=entry.weight) for entry in body.candidates
            ],
            tenant_ids=body.tenant_ids,
        )
        answer = await services.providers.PutAlias(request, timeout=timeout)
        return _offered(answer.alias)

    @api.delete("/api/v1/admin/models/{name}", status_code=204, tags=_TAGS, responses=problem_responses(404, 409))
    @access(_NEED)
    async def delete_model_alias(name: str) -> Response:
        await services.providers.DeleteAlias(providers_pb2.DeleteAliasRequest(name=name), timeout=timeout)
        return Response(status_code=204)


def _message(name: str, body: ProviderInput) -> providers_pb2.Provider:
    return providers_pb2.Provider(
        name=name,
        preset=body.preset,
        wire=body.wire or "",
        base_url=body.base_url,
        keys=[providers_pb2.ProviderKey(name=key.name, value=key.value, weight=key.weight) for key in body.keys],
        models=[
            providers_pb2.ProviderModelEntry(
                name=model.name,
                input_micros=model.input_micros,
                output_micros=model.output_micros,
                cached_input_micros=model.cached_input_micros,
                price_version=model.price_version,
                context_tokens=model.context_tokens,
                max_output_tokens=model.max_output_tokens,
                prefill=model.prefill,
                purposes=model.purposes,
            )
            for model in body.models
        ],
        timeouts=providers_pb2.ProviderTimeouts(
            connect=body.timeouts.connect,
            first_token=body.timeouts.first_token,
            idle=body.timeouts.idle,
            total=body.timeouts.total,
        ),
        enabled=body.enabled,
        local=body.local,
    )


def _provider(entry: providers_pb2.Provider) -> ProviderOutput:
    return ProviderOutput(
        name=entry.name,
        preset=entry.preset,
        wire=entry.wire,
        base_url=entry.base_url,
        keys=[ProviderKeyOutput(name=key.name, weight=key.weight, source=key.source) for key in entry.keys],
        models=[_model(model) for model in entry.models],
        timeouts=ProviderTimeoutsOutput(
            connect=entry.timeouts.connect,
            first_token=entry.timeouts.first_token,
            idle=entry.timeouts.idle,
            total=entry.timeouts.total,
        ),
        enabled=entry.enabled,
        local=entry.local,
        source=entry.source,
        problem=entry.problem,
    )


def _model(entry: providers_pb2.ProviderModelEntry) -> ProviderModelOutput:
    return ProviderModelOutput(
        name=entry.name,
        input_micros=entry.input_micros if entry.HasField("input_micros") else None,
        output_micros=entry.output_micros if entry.HasField("output_micros") else None,
        cached_input_micros=entry.cached_input_micros if entry.HasField("cached_input_micros") else None,
        price_version=entry.price_version,
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
        prefill=entry.prefill,
        purposes=list(entry.purposes),
    )


def _offered(entry: providers_pb2.OfferedModel) -> OfferedModelOutput:
    return OfferedModelOutput(
        id=entry.id,
        owned_by=entry.owned_by,
        kind=entry.kind,
        source=entry.source,
        health=entry.health,
        model=_model(entry.model) if entry.HasField("model") else None,
        strategy=entry.strategy,
        candidates=[AliasCandidateOutput(model=item.model, key=item.key, weight=item.weight) for item in entry.candidates],
        tenant_ids=list(entry.tenant_ids),
    )
