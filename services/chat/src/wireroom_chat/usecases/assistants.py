"""Which assistants there are, who gets which version, and their management."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any
from uuid import UUID

import yaml

from wireroom_chat.domain.assistants import (
    BUILT_IN_VERSION,
    MAX_ACTIVE,
    Assistant,
    AssistantConfig,
    AssistantVersion,
    ChosenAssistant,
    check_name,
    check_tools,
    check_weights,
    parse_config,
    parse_model,
    unknown,
)
from wireroom_chat.ports.assistants import AssistantStore
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal

USE, MANAGE = "chat:use", "assistants:manage"
_MAX_TENANTS = 1_000


def built_in_assistants() -> dict[str, AssistantConfig]:
    """Those that are shipped, from the YAML files of the package."""
    folder = files("wireroom_chat.assistants")
    return {
        entry.name.removesuffix(".yaml"): parse_config(yaml.safe_load(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


class Assistants:
    """Reads are cached for `cache_seconds`: so long another replica may answer with versions that were replaced."""

    def __init__(
        self,
        store: AssistantStore,
        built_in: Mapping[str, AssistantConfig],
        tools: Sequence[str],
        clock: Clock,
        *,
        cache_seconds: float,
    ) -> None:
        for config in built_in.values():
            check_tools(config, tools)
        self._store = store
        self._built_in = built_in
        self._tools = tuple(tools)
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._cache: OrderedDict[UUID, tuple[float, dict[str, Assistant]]] = OrderedDict()

    async def offered(self, principal: Principal) -> list[tuple[Assistant, AssistantConfig]]:
        """All that are active, with the configuration that the caller gets."""
        principal.require(USE)
        return await self._offered(principal)

    async def names(self, principal: Principal) -> list[str]:
        """The names of all that are active, for the list of models."""
        return [assistant.name for assistant, _ in await self._offered(principal)]

    async def choose(self, principal: Principal, model: str) -> ChosenAssistant:
        """The version that answers the caller under this model name; NOT_FOUND `model_not_found`.

        A version that is named (`assistant/x@3`) is answered to those who manage assistants, others get it where it is active.
        """
        name, number = parse_model(model)
        assistant = (await self._of(principal.tenant())).get(name)
        if assistant is None:
            raise unknown(model)
        if number is None:
            version = assistant.version_for(principal.tenant(), principal.user_id())
            return ChosenAssistant(name, version.number, version.config)
        found = assistant.versions.get(number)
        active = found is not None and assistant.weights.get(number, 0) > 0
        if not active:
            if MANAGE not in principal.permissions:
                raise unknown(model)
            found = found or await self._store.version(principal.tenant(), name, number)
        if found is None:
            raise unknown(model)
        return ChosenAssistant(name, found.number, found.config)

    async def require(self, tenant_id: UUID, name: str) -> None:
        """NOT_FOUND `assistant_not_found` when the tenant has none of that name."""
        if name not in await self._of(tenant_id):
            raise not_found("assistant")

    async def everything(self, principal: Principal) -> list[Assistant]:
        """All of the tenant, and those that are shipped."""
        principal.require(MANAGE)
        known = self._with_built_in(await self._store.all(principal.tenant()))
        return [known[name] for name in sorted(known)]

    async def get(self, principal: Principal, name: str) -> Assistant:
        """One with its versions; NOT_FOUND `assistant_not_found`."""
        principal.require(MANAGE)
        found = await self._store.find(principal.tenant(), name)
        known = self._with_built_in([found] if found is not None else [])
        if name not in known:
            raise not_found("assistant")
        return known[name]

    async def create(self, principal: Principal, name: str, config: Any) -> Assistant:
        """A new assistant with its first version, which everybody gets; CONFLICT `assistant_exists`."""
        principal.require(MANAGE)
        check_name(name)
        if name in self._built_in:
            raise WireroomError(
                ErrorKind.CONFLICT,
                "assistant_exists",
                f"'{name}' is built in: add a version to it and give that a weight instead.",
            )
        await self._store.add_version(
            principal.tenant(), principal.user_id(), name, self._checked(config), weights=None, create=True
        )
        self._forget(principal)
        return await self.get(principal, name)

    async def add_version(self, principal: Principal, name: str, config: Any) -> AssistantVersion:
        """The next version, which nobody gets yet."""
        principal.require(MANAGE)
        checked = self._checked(config)
        await self.get(principal, name)
        version = await self._store.add_version(
            principal.tenant(), principal.user_id(), name, checked, weights={BUILT_IN_VERSION: 1}, create=False
        )
        self._forget(principal)
        return version

    async def set_weights(self, principal: Principal, name: str, weights: Mapping[int, int]) -> Assistant:
        """Share the users out among versions."""
        principal.require(MANAGE)
        assistant = await self.get(principal, name)
        older = [number for number in sorted(weights)[:MAX_ACTIVE] if number not in assistant.versions]
        found = [number for number in older if await self._store.version(principal.tenant(), name, number) is not None]
        active = check_weights(weights, [*assistant.versions, *found])
        await self._store.set_weights(principal.tenant(), principal.user_id(), name, active, built_in=name in self._built_in)
        self._forget(principal)
        return await self.get(principal, name)

    async def delete(self, principal: Principal, name: str) -> None:
        """Take it away; of one that is built in, what the tenant made of it. NOT_FOUND where there is nothing to take."""
        principal.require(MANAGE)
        if not await self._store.delete(principal.tenant(), principal.user_id(), name):
            raise not_found("assistant")
        self._forget(principal)

    def _checked(self, config: Any) -> AssistantConfig:
        checked = parse_config(config)
        check_tools(checked, self._tools)
        return checked

    async def _offered(self, principal: Principal) -> list[tuple[Assistant, AssistantConfig]]:
        known = await self._of(principal.tenant())
        return [
            (known[name], known[name].version_for(principal.tenant(), principal.user_id()).config)
            for name in sorted(known)
            if any(number in known[name].versions for number in known[name].weights)
        ]

    async def _of(self, tenant_id: UUID) -> dict[str, Assistant]:
        now = self._clock.monotonic()
        cached = self._cache.get(tenant_id)
        if cached is not None and now - cached[0] < self._cache_seconds:
            return cached[1]
        found = self._with_built_in(await self._store.all(tenant_id))
        self._cache[tenant_id] = (now, found)
        self._cache.move_to_end(tenant_id)
        while len(self._cache) > _MAX_TENANTS:
            self._cache.popitem(last=False)
        return found

    def _forget(self, principal: Principal) -> None:
        self._cache.pop(principal.tenant(), None)

    def _with_built_in(self, own: Sequence[Assistant]) -> dict[str, Assistant]:
        known = {assistant.name: assistant for assistant in own}
        for name, config in self._built_in.items():
            shipped = AssistantVersion(BUILT_IN_VERSION, config)
            assistant = known.get(name)
            if assistant is None:
                known[name] = Assistant(name, built_in=True, weights={BUILT_IN_VERSION: 1}, versions={BUILT_IN_VERSION: shipped})
            else:
                known[name] = replace(assistant, built_in=True, versions={**assistant.versions, BUILT_IN_VERSION: shipped})
        return known
