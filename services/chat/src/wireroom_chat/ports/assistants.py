"""The assistants of tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from wireroom_chat.domain.assistants import Assistant, AssistantConfig, AssistantVersion


class AssistantStore(Protocol):
    """The assistants of tenants. Each call is one transaction; changes are audited in it."""

    async def all(self, tenant_id: UUID) -> list[Assistant]:
        """All of them with their active versions."""

    async def find(self, tenant_id: UUID, name: str) -> Assistant | None:
        """One of them with its newest versions and all active ones."""

    async def version(self, tenant_id: UUID, name: str, number: int) -> AssistantVersion | None:
        """One version."""

    async def add_version(
        self,
        tenant_id: UUID,
        user_id: UUID,
        name: str,
        config: AssistantConfig,
        *,
        weights: Mapping[int, int] | None,
        create: bool,
    ) -> AssistantVersion:
        """The next version; `weights` for an assistant that is not there yet: None stands for this version alone.

        `create`: CONFLICT `assistant_exists` if it is there. Otherwise it is made or extended.
        """

    async def set_weights(self, tenant_id: UUID, user_id: UUID, name: str, weights: Mapping[int, int], *, built_in: bool) -> None:
        """Give the versions their shares. `built_in`: make the row of an assistant that is shipped, if there is none."""

    async def delete(self, tenant_id: UUID, user_id: UUID, name: str) -> bool:
        """Whether it was there."""
