"""Operators look at providers, change them and try them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from wireroom_chat.domain.providers import Candidate
from wireroom_chat.domain.routing import Circuit, Health
from wireroom_chat.usecases.provider_documents import (
    MAX_ALIASES,
    MAX_PROVIDERS,
    AliasDocument,
    ProviderDocument,
    check_alias_name,
    check_key,
    check_provider_name,
)
from wireroom_chat.usecases.provider_snapshot import ConfigStore, ConfiguredProvider, HealthView, ManagedDirectory, Snapshot
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError, invalid, not_found
from wireroom_common.principal import Principal

PERMISSION = "providers:manage"


@dataclass(frozen=True)
class ProviderTest:
    """How one key of a provider fared."""

    key: str
    ok: bool
    milliseconds: int
    error_code: str = ""
    detail: str = ""
    missing_models: tuple[str, ...] = ()


class ManageProviders:
    """Everything here needs `providers:manage`."""

    def __init__(self, directory: ManagedDirectory, store: ConfigStore, health: HealthView, clock: Clock) -> None:
        self._directory = directory
        self._store = store
        self._health = health
        self._clock = clock

    async def snapshot(self, principal: Principal) -> Snapshot:
        """The configuration in force, newest as far as the database answers."""
        principal.require(PERMISSION)
        await self._directory.poll()
        return self._directory.snapshot()

    async def provider(self, principal: Principal, name: str) -> ConfiguredProvider:
        """One provider; NOT_FOUND if there is none."""
        for provider in (await self.snapshot(principal)).providers:
            if provider.name == name:
                return provider
        raise not_found("provider")

    async def put_provider(
        self, principal: Principal, name: str, content: Mapping[str, Any], values: Mapping[str, str]
    ) -> ConfiguredProvider:
        """Create or replace a provider. `values` are keys to be kept, by name; a key without one keeps what is stored."""
        before = await self.snapshot(principal)
        existing = next((provider for provider in before.providers if provider.name == name), None)
        self._free(existing.source if existing else "", f"provider '{name}'")
        if existing is None and len(before.providers) >= MAX_PROVIDERS:
            raise invalid("too_many_providers", f"There can be {MAX_PROVIDERS} providers; delete one first.")
        document: ProviderDocument = _validated(ProviderDocument, content)
        try:
            check_provider_name(name)
            for value in values.values():
                check_key(value)
        except ValueError as error:
            raise invalid("provider_invalid", f"{error}.") from None
        self._keys_known(document, values, existing)
        await self._store.put_provider(name, _dumped(document), values, principal.subject)
        return await self.provider(principal, name)

    async def delete_provider(self, principal: Principal, name: str) -> None:
        """Take a provider away with its keys."""
        existing = await self.provider(principal, name)
        self._free(existing.source, f"provider '{name}'")
        await self._store.delete_provider(name, principal.subject)
        await self._directory.poll()

    async def put_alias(self, principal: Principal, name: str, content: Mapping[str, Any]) -> Snapshot:
        """Create or replace an alias."""
        before = await self.snapshot(principal)
        source = before.alias_sources.get(name, "")
        self._free(source, f"alias '{name}'")
        if not source and len(before.alias_sources) >= MAX_ALIASES:
            raise invalid("too_many_aliases", f"There can be {MAX_ALIASES} aliases; delete one first.")
        document: AliasDocument = _validated(AliasDocument, content)
        by_id: dict[str, list[Candidate]] = {}
        for candidate in before.catalogue.candidates():
            by_id.setdefault(candidate.model.id, []).append(candidate)
        try:
            check_alias_name(name)
            document.alias(name, by_id)
        except ValueError as error:
            raise invalid("alias_invalid", f"{error}.") from None
        await self._store.put_alias(name, _dumped(document), principal.subject)
        await self._directory.poll()
        return self._directory.snapshot()

    async def delete_alias(self, principal: Principal, name: str) -> None:
        """Take an alias away."""
        source = (await self.snapshot(principal)).alias_sources.get(name, "")
        self._free(source, f"alias '{name}'")
        await self._store.delete_alias(name, principal.subject)
        await self._directory.poll()

    async def test(self, principal: Principal, name: str) -> list[ProviderTest]:
        """Call the provider through each of its keys: its list of models, or a tiny completion where it has none."""
        provider = await self.provider(principal, name)
        return [await self._try(provider, key.name) for key in provider.keys]

    def health(self, principal: Principal) -> list[tuple[Candidate, Health, Circuit, float]]:
        """All candidates with what is known of them."""
        principal.require(PERMISSION)
        return [(candidate, *self._health.health(candidate)) for candidate in self._directory.snapshot().catalogue.candidates()]

    @property
    def shared(self) -> bool:
        """Whether the replicas exchange what they know of health."""
        return self._health.shared

    def condition(self, candidates: tuple[Candidate, ...]) -> str:
        """What can be called now: all of them ("healthy"), some ("degraded"), or none ("down")."""
        usable = sum(1 for candidate in candidates if self._health.health(candidate)[1] is Circuit.CLOSED)
        return "healthy" if usable == len(candidates) else "degraded" if usable else "down"

    def _free(self, source: str, what: str) -> None:
        if source not in ("", "database"):
            where = "setting WIREROOM_CHAT_PROVIDERS" if source == "settings" else "file of providers"
            raise WireroomError(
                ErrorKind.CONFLICT, "configured_elsewhere", f"The {what} is defined in the {where}; change it there."
            )

    def _keys_known(self, document: ProviderDocument, values: Mapping[str, str], existing: ConfiguredProvider | None) -> None:
        stored = {key.name for key in existing.keys if key.source == "database"} if existing else set()
        if existing is not None and (existing.base_url, existing.wire) != (document.address, document.speaks):
            # A key that cannot be read must not be sent somewhere else either.
            stored = set()
        for key in document.keys:
            if key not in values and key not in stored:
                detail = f"Give the value of the key '{key}': there is none stored for this address."
                raise WireroomError(
                    ErrorKind.INVALID, "provider_key_needed", detail, fields=[FieldProblem(f"keys.{key}", detail)]
                )

    async def _try(self, provider: ConfiguredProvider, key: str) -> ProviderTest:
        began = self._clock.monotonic()
        missing: tuple[str, ...] = ()
        error: WireroomError | None = None
        try:
            client = self._directory.provider(Candidate(provider.models[0], key))
            try:
                listed = set(await client.models())
                missing = tuple(model.name for model in provider.models if model.name not in listed) if listed else ()
            except WireroomError as failure:
                chat = next((model for model in provider.models if "chat" in model.purposes), None)
                if failure.code not in ("provider_misconfigured", "provider_invalid") or chat is None:
                    raise
                question = [{"role": "user", "content": "Say yes."}]
                await client.complete({"model": chat.name, "messages": question, "max_tokens": 1})
        except WireroomError as failure:
            error = failure
        milliseconds = round((self._clock.monotonic() - began) * 1000)
        if error is not None:
            return ProviderTest(key, ok=False, milliseconds=milliseconds, error_code=error.code, detail=error.detail)
        return ProviderTest(key, ok=True, milliseconds=milliseconds, missing_models=missing)


def _validated(kind: Any, content: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [
            FieldProblem(".".join(map(str, entry["loc"])) or "body", str(entry["msg"]).removeprefix("Value error, "))
            for entry in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
        raise WireroomError(ErrorKind.INVALID, "request_invalid", detail, fields=problems) from None


def _dumped(document: ProviderDocument | AliasDocument) -> dict[str, Any]:
    content: dict[str, Any] = document.model_dump(mode="json", exclude_none=True)
    return content
