"""Vectors that were made before are not made again: of passages from the database, of queries from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from wireroom_common.cache import Cache, Key, Namespace
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.ports.processing import Embeddings

# Raise it when a model of the same id gives other vectors.
_VERSION = 1
MODEL_BYTES = 16
# Passages that are looked up, embedded and kept at once: what a process that dies has embedded up to then is not lost.
_BATCH = 256
# The index holds half precision; queries are given to others, too.
_PASSAGE, _QUERY = np.dtype("<f2"), np.dtype("<f4")


def passage_vectors(seconds: float) -> Namespace:
    """Asked for once per processing, in bulk: memory and Redis would only be filled with what nobody asks for again."""
    return Namespace("rag.passages", seconds=seconds, memory_entries=0, redis=False, immutable=True)


def query_vectors(seconds: float) -> Namespace:
    """In memory alone: what people ask leaves the process sealed or not at all, and this service holds no key."""
    return Namespace(
        "rag.queries", seconds=seconds, memory_entries=5_000, memory_bytes=12 * 1024 * 1024, redis=False, immutable=True
    )


def model_digest(blueprint: Blueprint) -> bytes:
    """What a vector depends on beside its text."""
    return hashlib.sha256(f"{_VERSION}\x00{blueprint.model}\x00{blueprint.dimension}".encode()).digest()[:MODEL_BYTES]


def passage_key(tenant_id: UUID, blueprint: Blueprint, passage: str) -> Key:
    """Of the text and the model, in two parts that can be told from each other."""
    return Key(tenant_id, hashlib.sha256(passage.encode()).digest() + model_digest(blueprint))


@dataclass(frozen=True)
class KeptVectors:
    """The two caches; None keeps no passages."""

    passages: Cache[bytes] | None
    queries: Cache[bytes]

    def of(self, tenant_id: UUID, blueprint: Blueprint, embeddings: Embeddings) -> Embeddings:
        """`embeddings` as the tenant uses them."""
        return KeptEmbeddings(self, tenant_id, blueprint, embeddings)


@dataclass(frozen=True)
class KeptEmbeddings:
    """Implements `Embeddings` for one tenant; a text's vector is the same whether it was kept or not."""

    kept: KeptVectors
    tenant_id: UUID
    blueprint: Blueprint
    embeddings: Embeddings

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """In order; equal texts are embedded once."""
        cache = self.kept.passages
        if cache is None:
            return await self.embeddings.passages(texts)
        vectors = np.empty((len(texts), self.blueprint.dimension), dtype=np.float32)
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            keys = [passage_key(self.tenant_id, self.blueprint, item) for item in batch]
            look = await cache.look_up(keys)
            found = {
                key: value for key, value in look.found.items() if len(value) == self.blueprint.dimension * _PASSAGE.itemsize
            }
            missing = {key: item for key, item in zip(keys, batch, strict=True) if key not in found}
            if missing:
                made = await self.embeddings.passages(list(missing.values()))
                new = dict(zip(missing, _encoded(made), strict=True))
                await cache.set_many(new, look)
                found |= new
            vectors[first : first + _BATCH] = [_decoded(found[key], _PASSAGE) for key in keys]
        return vectors

    async def query(self, windows: Sequence[str]) -> Vectors:
        """Callers that ask for the same query at once cause one run of the model."""

        async def make() -> bytes:
            return (await self.embeddings.query(windows)).astype(_QUERY).tobytes()

        key = Key.of(self.tenant_id, model_digest(self.blueprint), list(windows))
        return _decoded(await self.kept.queries.get_or_make(key, make), _QUERY)


def _encoded(vectors: Vectors) -> list[bytes]:
    return [row.tobytes() for row in vectors.astype(_PASSAGE)]


def _decoded(value: bytes, kind: np.dtype[Any]) -> Vectors:
    return np.frombuffer(value, dtype=kind).astype(np.float32)
