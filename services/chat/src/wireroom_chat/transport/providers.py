"""`ProviderService`: protobuf in and out, nothing else."""

from __future__ import annotations

from typing import Any, Literal

from wireroom_chat.domain.catalogue import BUILT_IN_NAMES, BUILT_IN_PROVIDER
from wireroom_chat.domain.providers import Alias, ProviderModel
from wireroom_chat.usecases.managing_providers import ManageProviders
from wireroom_chat.usecases.provider_snapshot import ConfiguredProvider, Snapshot
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import providers_pb2, providers_pb2_grpc

_PRICES: tuple[Literal["input_micros", "output_micros", "cached_input_micros"], ...] = (
    "input_micros",
    "output_micros",
    "cached_input_micros",
)


class ProviderServicer(providers_pb2_grpc.ProviderServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, managing: ManageProviders) -> None:
        self._managing = managing

    async def ListProviders(  # noqa: N802 - rpc name
        self, request: providers_pb2.ListProvidersRequest, context: Any
    ) -> providers_pb2.ListProvidersResponse:
        del request, context
        snapshot = await self._managing.snapshot(current_principal())
        return providers_pb2.ListProvidersResponse(providers=[_provider(provider) for provider in snapshot.providers])

    async def GetProvider(  # noqa: N802 - rpc name
        self, request: providers_pb2.GetProviderRequest, context: Any
    ) -> providers_pb2.GetProviderResponse:
        del context
        return providers_pb2.GetProviderResponse(
            provider=_provider(await self._managing.provider(current_principal(), request.name))
        )

    async def PutProvider(  # noqa: N802 - rpc name
        self, request: providers_pb2.PutProviderRequest, context: Any
    ) -> providers_pb2.PutProviderResponse:
        del context
        given = request.provider
        values = {key.name: key.value for key in given.keys if key.value}
        provider = await self._managing.put_provider(current_principal(), given.name, _content(given), values)
        return providers_pb2.PutProviderResponse(provider=_provider(provider))

    async def DeleteProvider(  # noqa: N802 - rpc name
        self, request: providers_pb2.DeleteProviderRequest, context: Any
    ) -> providers_pb2.DeleteProviderResponse:
        del context
        await self._managing.delete_provider(current_principal(), request.name)
        return providers_pb2.DeleteProviderResponse()

    async def TestProvider(  # noqa: N802 - rpc name
        self, request: providers_pb2.TestProviderRequest, context: Any
    ) -> providers_pb2.TestProviderResponse:
        del context
        tests = await self._managing.test(current_principal(), request.name)
        return providers_pb2.TestProviderResponse(
            tests=[
                providers_pb2.ProviderTest(
                    key=test.key,
                    ok=test.ok,
                    error_code=test.error_code,
                    detail=test.detail,
                    milliseconds=test.milliseconds,
                    missing_models=test.missing_models,
                )
                for test in tests
            ]
        )

    async def GetProviderHealth(  # noqa: N802 - rpc name
        self, request: providers_pb2.GetProviderHealthRequest, context: Any
    ) -> providers_pb2.GetProviderHealthResponse:
        del request, context
        return providers_pb2.GetProviderHealthResponse(
            candidates=[
                providers_pb2.CandidateHealth(
                    provider=candidate.model.provider,
                    model=candidate.model.name,
                    key=candidate.key,
                    circuit=circuit.value,
                    blocked_seconds=blocked,
                    first_token_seconds=health.first_token,
                    consecutive_failures=health.consecutive,
                )
                for candidate, health, circuit, blocked in self._managing.health(current_principal())
            ],
            shared=self._managing.shared,
        )

    async def ListOfferedModels(  # noqa: N802 - rpc name
        self, request: providers_pb2.ListOfferedModelsRequest, context: Any
    ) -> providers_pb2.ListOfferedModelsResponse:
        del request, context
        snapshot = await self._managing.snapshot(current_principal())
        catalogue = snapshot.catalogue
        sources = {provider.name: provider.source for provider in snapshot.providers}
        models = [
            providers_pb2.OfferedModel(id=name, owned_by=BUILT_IN_PROVIDER, kind="built_in", source="built_in", health="healthy")
            for name in BUILT_IN_NAMES
        ]
        models += [self._alias(snapshot, alias) for alias in catalogue.aliases()]
        for model in catalogue.models():
            candidates = tuple(candidate for candidate in catalogue.candidates() if candidate.model.id == model.id)
            models.append(
                providers_pb2.OfferedModel(
                    id=model.id,
                    owned_by=model.provider,
                    kind="model",
                    source=sources[model.provider],
                    model=_model(model),
                    health=self._managing.condition(candidates),
                )
            )
        return providers_pb2.ListOfferedModelsResponse(models=models, problems=snapshot.problems)

    async def PutAlias(  # noqa: N802 - rpc name
        self, request: providers_pb2.PutAliasRequest, context: Any
    ) -> providers_pb2.PutAliasResponse:
        del context
        content = {
            "strategy": request.strategy or "ordered",
            "candidates": [{"model": item.model, "key": item.key, "weight": item.weight} for item in request.candidates],
            "tenants": list(request.tenant_ids),
        }
        snapshot = await self._managing.put_alias(current_principal(), request.name, content)
        alias = next(alias for alias in snapshot.catalogue.aliases() if alias.name == request.name)
        return providers_pb2.PutAliasResponse(alias=self._alias(snapshot, alias))

    async def DeleteAlias(  # noqa: N802 - rpc name
        self, request: providers_pb2.DeleteAliasRequest, context: Any
    ) -> providers_pb2.DeleteAliasResponse:
        del context
        await self._managing.delete_alias(current_principal(), request.name)
        return providers_pb2.DeleteAliasResponse()

    def _alias(self, snapshot: Snapshot, alias: Alias) -> providers_pb2.OfferedModel:
        return providers_pb2.OfferedModel(
            id=alias.name,
            owned_by=BUILT_IN_PROVIDER,
            kind="alias",
            source=snapshot.alias_sources.get(alias.name, ""),
            strategy=alias.strategy.value,
            candidates=[
                providers_pb2.AliasCandidate(model=item.model.id, key=item.key, weight=item.weight) for item in alias.candidates
            ],
            tenant_ids=sorted(alias.tenants),
            health=self._managing.condition(alias.candidates),
        )


def _content(given: providers_pb2.Provider) -> dict[str, Any]:
    """The document; what is empty is left out."""
    content: dict[str, Any] = {
        "models": {model.name: _model_content(model) for model in given.models},
        "keys": {key.name: {"weight": key.weight} for key in given.keys},
        "enabled": given.enabled,
        "local": given.local,
        "timeouts": {
            name: getattr(given.timeouts, name)
            for name in ("connect", "first_token", "idle", "total")
            if getattr(given.timeouts, name)
        },
    }
    return content | {name: getattr(given, name) for name in ("preset", "wire", "base_url") if getattr(given, name)}


def _model_content(model: providers_pb2.ProviderModelEntry) -> dict[str, Any]:
    content: dict[str, Any] = {name: getattr(model, name) for name in _PRICES if model.HasField(name)}
    content |= {
        "price_version": model.price_version,
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "prefill": model.prefill,
    }
    return content | ({"purposes": list(model.purposes)} if model.purposes else {})


def _provider(provider: ConfiguredProvider) -> providers_pb2.Provider:
    timeouts = provider.timeouts
    return providers_pb2.Provider(
        name=provider.name,
        preset=provider.preset,
        wire=provider.wire.value,
        base_url=provider.base_url,
        keys=[
            providers_pb2.ProviderKey(name=key.name, weight=key.weight, source=key.source)
            for key in provider.keys
            if key.secret is not None
        ],
        models=[_model(model) for model in provider.models],
        timeouts=providers_pb2.ProviderTimeouts(
            connect=timeouts.connect, first_token=timeouts.first_byte, idle=timeouts.idle, total=timeouts.total
        ),
        enabled=provider.enabled,
        source=provider.source,
        problem=provider.problem,
        local=provider.local,
    )


def _model(model: ProviderModel) -> providers_pb2.ProviderModelEntry:
    entry = providers_pb2.ProviderModelEntry(
        name=model.name,
        price_version=model.price.version if model.price else "",
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        prefill=model.prefill,
        purposes=sorted(model.purposes),
    )
    if model.price is not None:
        entry.input_micros = model.price.input_micros
        entry.output_micros = model.price.output_micros
        if model.price.cached_input_micros is not None:
            entry.cached_input_micros = model.price.cached_input_micros
    return entry
