"""Generations of the index and the work on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.document import ExtractedText, VersionKey
from wireroom_rag.domain.generation import Blueprint, Generation, GenerationStatus, Task
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.processing import Embeddings


class ServingGeneration(Protocol):
    """Which generation answers a tenant's queries."""

    async def serving(self, tenant_id: UUID) -> Generation | None:
        """None while nothing was ever indexed."""


class LiveGenerations(Protocol):
    """Which generations new documents are written to."""

    async def live(self, tenant_id: UUID) -> Sequence[Generation]:
        """The serving one, made when there is none, and behind it the one that is being built, if one is."""


class GenerationControl(Protocol):
    """What an administrator does with the generations of a tenant."""

    async def statuses(self, scope: Scope) -> Sequence[GenerationStatus]:
        """The newest 20, newest first."""

    async def start(self, scope: Scope, blueprint: Blueprint) -> Generation:
        """Begin to build one. CONFLICT while another is being built."""

    async def abort(self, scope: Scope) -> Generation:
        """Stop building; what was built is dropped in the background. CONFLICT when nothing is being built."""


class GenerationQueue(Protocol):
    """Leases on the work on generations, over all tenants."""

    async def claim(self) -> Task | None:
        """Lease the work that is due for the longest time."""

    async def renew(self, task: Task) -> None:
        """Extend the lease."""

    async def release(self, task: Task, *, seconds: float = 0.0, error: str | None = None) -> None:
        """Give the lease back; due again after `seconds`. An `error` is noted and counted, None ends the count."""


class GenerationWork(Protocol):
    """The steps of building and dropping; each can be repeated."""

    async def missing(self, task: Task, limit: int, *, from_start: bool) -> Sequence[VersionKey]:
        """Served versions that do not stand in the generation: behind its position, or all of them."""

    async def text_of(self, key: VersionKey) -> tuple[ExtractedText, str] | None:
        """Text and title of a version; None when it is gone."""

    async def advance(self, task: Task, document_id: UUID) -> None:
        """Everything up to this document was looked at. LeaseLostError when the work is another worker's, or nobody's."""

    async def switch(self, task: Task, *, keep_seconds: float) -> bool:
        """Serve it from now on, atomically, and drop the one before after `keep_seconds`; False if documents are missing."""

    async def drop_some(self, task: Task) -> bool:
        """Delete a bounded part of a generation that is not read any more; False once nothing was left."""


class Models(Protocol):
    """The models that this installation can embed with."""

    @property
    def default(self) -> Blueprint:
        """What new tenants begin with, and what is built unless somebody asks for another."""

    @property
    def blueprints(self) -> Mapping[str, Blueprint]:
        """By model id."""

    def of(self, blueprint: Blueprint, tenant_id: UUID) -> Embeddings | None:
        """The model's embeddings as the tenant uses them; None when it is no longer set up, or with other dimensions."""
