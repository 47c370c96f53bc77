"""The index over one store of vectors or another: writing, searching, and what stands in the store, without a service around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_rag.adapters.articles_sql import ArticleVersion, receive_article, remove_articles
from wireroom_rag.adapters.blobs import BucketAccess
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.adapters.vector_place import VectorPlace
from wireroom_rag.adapters.vector_removals_sql import VectorRemovalRows
from wireroom_rag.adapters.vectors_lancedb import LanceVectors
from wireroom_rag.domain.document import Chunk, ExtractedText, Job
from wireroom_rag.domain.generation import Blueprint, Generation
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import FoundPassage, IndexEntry, Passages, Vectors
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.usecases.vector_upkeep import RemoveVectors

DIMENSION = 384
BLUEPRINT = Blueprint("minilm-l6-v2", DIMENSION, "tokens-250")
EVERYTHING = frozenset(SourceKind)


def clustered(count: int, *, seed: int = 0) -> Vectors:
    """Unit vectors in some sixty bunches, as those of texts are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(60, DIMENSION))
    vectors = centres[generator.integers(0, 60, count)] + generator.normal(size=(count, DIMENSION))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def lance(folder: Path, *, exact_up_to: int = 20_000, seconds: float = 30.0) -> LanceVectors:
    """One process's view of a store in a folder."""
    place = VectorPlace.at(f"file://{folder}", folder, BucketAccess())
    return LanceVectors(place, seconds=seconds, tidy_seconds=120.0, exact_up_to=exact_up_to)


@dataclass
class Indexed:
    """The index of a test. `outside` None: vectors stand in PostgreSQL."""

    database: Database
    outside: LanceVectors | None
    exact_up_to: int = 20_000
    feed_id: UUID = field(default_factory=uuid4)

    @property
    def writer(self) -> IndexWriter:
        return IndexWriter(self.database, outside=self.outside)

    @property
    def reader(self) -> IndexReader:
        return IndexReader(self.database, outside=self.outside, exact_up_to=self.exact_up_to)

    async def generation(self, tenant_id: UUID) -> Generation:
        (generation,) = await GenerationStore(self.database, BLUEPRINT, tables=self.outside).live(tenant_id)
        return generation

    async def received(
        self, tenant_id: UUID, ids: Sequence[UUID], *, version: int = 1, published: datetime | None = None
    ) -> list[Job]:
        """Leased jobs for a version of each article."""
        async with worker(self.database, tenant_id) as connection:
            for article_id in ids:
                article = ArticleVersion(tenant_id, article_id, version, self.feed_id, "t", "", "", published)
                await receive_article(connection, article)
        claimed = await JobStore(self.database, lease_seconds=60).claim(SourceKind.ARTICLE, len(ids))
        return sorted((job for job in claimed if job.key.tenant_id == tenant_id), key=lambda job: ids.index(job.key.document_id))

    async def entries(self, jobs: Sequence[Job], vectors: Sequence[Vectors], word: str = "harbour") -> list[IndexEntry]:
        """One passage for each vector; all with the same words, so that vectors decide."""
        generation = await self.generation(jobs[0].key.tenant_id)
        lexicon = Lexicon()
        made = []
        for job, own in zip(jobs, vectors, strict=True):
            chunks = [Chunk(10 * place, 10 * place + len(word), 0, word) for place in range(len(own))]
            terms: list[Counter[str]] = [lexicon.terms(word) for _ in own]
            passages = Passages(chunks, own, terms, [Counter() for _ in own])
            made.append(IndexEntry(job, {generation.number: passages}, ExtractedText(word.ljust(10) * len(own)), "t", ""))
        return made

    async def index(
        self, tenant_id: UUID, vectors: Sequence[Vectors], *, published: datetime | None = None, word: str = "harbour"
    ) -> list[UUID]:
        """An article for each array of vectors."""
        ids = [new_id() for _ in vectors]
        jobs = await self.received(tenant_id, ids, published=published)
        assert await self.writer.write(tenant_id, await self.entries(jobs, vectors, word)) == len(ids)
        return ids

    async def search(
        self,
        tenant_id: UUID,
        vector: Vectors,
        *,
        top_k: int = 10,
        since: datetime | None = None,
        kinds: frozenset[SourceKind] = EVERYTHING,
        with_vectors: bool = False,
    ) -> Sequence[FoundPassage]:
        return await self.reader.search(
            Scope(tenant_id, uuid4(), kinds),
            generation=await self.generation(tenant_id),
            vector=vector,
            terms={},
            top_k=top_k,
            since=since,
            with_vectors=with_vectors,
        )

    async def removed(self, tenant_id: UUID, ids: list[UUID]) -> None:
        async with worker(self.database, tenant_id) as connection:
            await remove_articles(connection, tenant_id, ids)

    async def drained(self) -> int:
        """Remove what is due."""
        return await RemoveVectors(VectorRemovalRows(self.database), self.outside)()

    async def stored(self, tenant_id: UUID) -> int:
        """Vectors of the tenant in the store, with a chunk or without."""
        if self.outside is not None:
            return await self.outside.count(tenant_id, await self.generation(tenant_id))
        async with worker(self.database, tenant_id) as connection:
            counted = await connection.execute(
                text("SELECT count(embedding) FROM chunks WHERE tenant_id = :tenant_id"), {"tenant_id": tenant_id}
            )
            count: int = counted.scalar_one()
            return count
