"""Generations of the index: what one model and one way of cutting texts made of a tenant's documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

POSTGRESQL = "postgresql"


class GenerationState(StrEnum):
    """`building → serving → retired → dropped`, or `building → aborted → dropped`."""

    BUILDING = "building"
    SERVING = "serving"
    RETIRED = "retired"
    ABORTED = "aborted"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Blueprint:
    """What a generation is made with: the model's id, the length of its vectors, the version of the chunker."""

    model: str
    dimension: int
    chunker: str


@dataclass(frozen=True)
class Generation:
    """One generation of a tenant; numbers count up from 1.

    `store`: where its vectors are, `POSTGRESQL` or the name that another store goes by; all else is always in PostgreSQL.
    """

    number: int
    blueprint: Blueprint
    state: GenerationState
    store: str = POSTGRESQL


@dataclass(frozen=True)
class GenerationStatus:
    """A generation and how far it is: documents that stand in it, of those that are served. `error` is the last one, for people."""

    generation: Generation
    documents: int
    documents_total: int
    chunks: int
    error: str
    started_at: datetime
    switched_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Task:
    """Leased work on a generation: building it, or dropping what nobody reads any more."""

    tenant_id: UUID
    generation: Generation
    lease_token: UUID
    attempts: int


class GenerationChangedError(Exception):
    """Another generation serves by now: the query has to be embedded with its model."""
