from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, downgrade, upgrade
from wireroom_common.ids import new_id
from wireroom_rag.adapters.articles_sql import ArticleVersion, receive_article
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.domain.document import Chunk, ExtractedText
from wireroom_rag.domain.generation import Blueprint, Generation, GenerationState
from wireroom_rag.domain.lexicon import K1, TITLE_B, TITLE_WEIGHT, B, Lexicon, query_weight
from wireroom_rag.domain.passage import FoundPassage, IndexEntry, Passages
from wireroom_rag.domain.scope import Scope, SourceKind

WORDS = ("harbour", "harbours", "crane", "pelican", "pier", "night", "tide", "the")
passages = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=8)
titles = st.lists(st.sampled_from(WORDS), min_size=0, max_size=3).map(" ".join)
BLUEPRINT = Blueprint("minilm-l6-v2", 384, "tokens-250")
# What a tenant begins with.
GENERATION = Generation(1, BLUEPRINT, GenerationState.SERVING)
queries = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


def oracle(texts: Sequence[str], query: str, titles: Sequence[str] = ()) -> list[float]:
    lexicon = Lexicon()
    bodies = [lexicon.terms(passage) for passage in texts]
    heads = [lexicon.terms(title) for title in titles] or [Counter[str]()] * len(texts)
    mean = sum(body.total() for body in bodies) / len(bodies)
    mean_head = sum(head.total() for head in heads) / len(heads)
    scores = []
    for body, head in zip(bodies, heads, strict=True):
        score = 0.0
        for term, weight in lexicon.terms(query).items():
            frequency = sum(1 for other, above in zip(bodies, heads, strict=True) if term in other or term in above)
            inverse = math.log(1 + (len(bodies) - frequency + 0.5) / (frequency + 0.5))
            counted = 0.0
            if body[term]:
                counted += body[term] / (1 - B + B * body.total() / mean)
            if head[term]:
                counted += TITLE_WEIGHT * head[term] / (1 - TITLE_B + TITLE_B * head.total() / mean_head)
            score += query_weight(weight) * inverse * counted * (K1 + 1) / (counted + K1)
        scores.append(score)
    return scores


async def prepare(
    database: Database, tenant_id: UUID, texts: Sequence[str], *, seed: int = 0, titles: Sequence[str] = ()
) -> list[IndexEntry]:
    """The texts as articles of one passage each, ready to be written."""
    feed_id = uuid4()
    ids = [new_id() for _ in texts]
    async with worker(database, tenant_id) as connection:
        for article_id in ids:
            await receive_article(connection, ArticleVersion(tenant_id, article_id, 1, feed_id, "t", "", "", None))
    claimed = await JobStore(database, lease_seconds=60).claim(SourceKind.ARTICLE, len(ids))
    jobs = {job.key.document_id: job for job in claimed if job.key.tenant_id == tenant_id}
    lexicon = Lexicon()
    generator = np.random.default_rng(seed)
    entries = []
    (generation,) = await GenerationStore(database, BLUEPRINT).live(tenant_id)
    for article_id, passage, title in zip(ids, texts, titles or [""] * len(texts), strict=True):
        vector = generator.normal(size=(1, 384)).astype(np.float32)
        vector /= np.linalg.norm(vector)
        chunk = Chunk(0, len(passage), 0, passage)
        terms: list[Counter[str]] = [lexicon.terms(passage)]
        made = {generation.number: Passages([chunk], vector, terms, [lexicon.terms(title)])}
        entries.append(IndexEntry(jobs[article_id], made, ExtractedText(passage), "t", ""))
    return entries


async def index(
    database: Database, texts: Sequence[str], *, seed: int = 0, titles: Sequence[str] = ()
) -> tuple[Scope, dict[str, int]]:
    """The texts as one passage each in a tenant of its own; document id → position."""
    scope = Scope(uuid4(), uuid4(), frozenset(SourceKind))
    entries = await prepare(database, scope.tenant_id, texts, seed=seed, titles=titles)
    assert await IndexWriter(database).write(scope.tenant_id, entries) == len(texts)
    return scope, {str(entry.job.key.document_id): number for number, entry in enumerate(entries)}


async def search(reader: IndexReader, scope: Scope, query: str, **options: Any) -> Sequence[FoundPassage]:
    vector = np.zeros(384, dtype=np.float32)
    vector[0] = 1.0
    return await reader.search(
        scope, generation=GENERATION, vector=vector, terms=Lexicon().terms(query), top_k=50, since=None, **options
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(texts=passages, query=queries, data=st.data())
def test_lexical_scores_are_those_of_bm25(fresh_database_url: str, texts: list[str], query: str, data: st.DataObject) -> None:
    heads = data.draw(st.lists(titles, min_size=len(texts), max_size=len(texts)))
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["rag"])
    upgrade(url, "rag")

    async def run() -> tuple[dict[str, int], Sequence[FoundPassage]]:
        database = Database(url, "rag")
        try:
            # Another tenant's terms must not count.
            await index(database, ["pelican pelican pelican", "crane"], titles=["pelican", "pier"])
            scope, positions = await index(database, texts, titles=heads)
            return positions, await search(IndexReader(database), scope, query)
        finally:
            await database.close()

    positions, found = asyncio.run(run())
    expected = oracle(texts, query, heads)
    assert len(found) == len(texts)
    for passage in found:
        assert passage.lexical_score == pytest.approx(expected[positions[str(passage.document_id)]], rel=1e-9, abs=1e-12)
        assert sum(passage.field_scores.values()) == pytest.approx(passage.lexical_score, abs=1e-12)


async def test_fusion_ranks_by_reciprocal_ranks_of_both_legs(rag_database: Database) -> None:
    texts = ["harbour crane", "harbour", "pelican", "tide", "night pier harbour tide crane"]
    scope, _ = await index(rag_database, texts)
    found = await search(IndexReader(rag_database), scope, "harbour")
    by_dense = sorted(found, key=lambda passage: -passage.dense_score)
    by_lexical = sorted((passage for passage in found if passage.lexical_score), key=lambda passage: -passage.lexical_score)
    for passage in found:
        expected = 1 / (61 + by_dense.index(passage))
        if passage in by_lexical:
            expected += 1 / (61 + by_lexical.index(passage))
        assert passage.score == pytest.approx(expected)
    assert [passage.score for passage in found] == sorted((passage.score for passage in found), reverse=True)


async def test_graph_search_of_a_small_tenant_among_many_rows_finds_what_the_exact_scan_finds(rag_database: Database) -> None:
    await index(rag_database, [f"tide {number}" for number in range(600)], seed=1)
    scope, _ = await index(rag_database, [f"harbour {number}" for number in range(30)], seed=2)
    exact = await search(IndexReader(rag_database), scope, "nothing")
    graph = await search(IndexReader(rag_database, exact_up_to=0), scope, "nothing")
    assert len(exact) == 30
    assert [passage.id for passage in graph] == [passage.id for passage in exact]


async def test_index_of_an_empty_tenant_answers_with_nothing(rag_database: Database) -> None:
    scope = Scope(uuid4(), uuid4(), frozenset(SourceKind))
    await GenerationStore(rag_database, BLUEPRINT).live(scope.tenant_id)
    assert await search(IndexReader(rag_database), scope, "harbour") == []


async def test_version_of_many_chunks_is_written_whole_and_counted_once(rag_database: Database) -> None:
    tenant_id, article_id = uuid4(), new_id()
    async with worker(rag_database, tenant_id) as connection:
        await receive_article(connection, ArticleVersion(tenant_id, article_id, 1, uuid4(), "t", "", "", None))
    (job,) = await JobStore(rag_database, lease_seconds=60).claim(SourceKind.ARTICLE, 1)
    chunks = [Chunk(2 * number, 2 * number + 1, 0, "a") for number in range(450)]
    vectors = np.random.default_rng(0).normal(size=(450, 384)).astype(np.float32)
    (generation,) = await GenerationStore(rag_database, BLUEPRINT).live(tenant_id)
    terms = [Counter({"a": 1, "b": 2})] * 450
    made = {generation.number: Passages(chunks, vectors, terms, [Counter[str]()] * 450)}
    entry = IndexEntry(job, made, ExtractedText("a " * 450), "t", "")
    assert await IndexWriter(rag_database).write(tenant_id, [entry]) == 1
    async with worker(rag_database, tenant_id) as connection:
        counts = await connection.execute(
            text(
                "SELECT (SELECT count(*) FROM chunks), (SELECT CAST(sum(count) AS bigint) FROM posting_blocks WHERE stem <> ''),"
                " chunks, terms FROM index_statistics"
            )
        )
        assert tuple(counts.one()) == (450, 900, 450, 1350)
    # Written again by a worker that is late: the lease is gone, nothing changes.
    assert await IndexWriter(rag_database).write(tenant_id, [entry]) == 0


async def _filled(url: DatabaseUrl) -> None:
    database = Database(url, "rag")
    try:
        await index(database, ["harbour crane", "pelican"], titles=["pier", ""])
    finally:
        await database.close()


def test_migration_can_be_taken_back_and_applied_again(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["rag"])
    engine = create_engine(url.as_role("rag_owner"), poolclass=NullPool)
    tables = text("SELECT count(*) FROM pg_tables WHERE schemaname = 'rag' AND tablename <> 'alembic_version'")
    found = []
    for step in (upgrade, downgrade, upgrade):
        step(url, "rag")
        if step is upgrade:
            asyncio.run(_filled(url))
        with engine.connect() as connection:
            found.append(connection.execute(tables).scalar_one())
    assert found[0] == found[2] > found[1] == 0


def test_migration_is_not_taken_back_where_it_would_open_private_documents(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["rag"])
    upgrade(url, "rag")
    asyncio.run(_filled(url))
    with create_engine(url.as_role("rag_owner"), poolclass=NullPool).begin() as connection:
        closed = connection.execute(text("UPDATE rag.documents SET access = 'private' RETURNING id")).all()
    with pytest.raises(DBAPIError, match="not everybody in their tenant may read"):
        downgrade(url, "rag")
    upgrade(url, "rag")
    with create_engine(url.as_role("rag_owner"), poolclass=NullPool).begin() as connection:
        found = connection.execute(text("SELECT id FROM rag.documents WHERE access = 'private'")).all()
    assert sorted(found) == sorted(closed) != []


async def test_each_leg_can_be_asked_alone(rag_database: Database) -> None:
    scope, positions = await index(rag_database, ["harbour crane", "pelican", "harbour"], seed=3)
    reader = IndexReader(rag_database)
    lexical = await reader.search(
        scope, generation=GENERATION, vector=None, terms=Lexicon().terms("harbour"), top_k=50, since=None
    )
    assert [positions[str(passage.document_id)] for passage in lexical] == [2, 0]
    assert {passage.dense_score for passage in lexical} == {0.0}
    dense = await search(reader, scope, "the")
    assert [passage.dense_score for passage in dense] == sorted((passage.dense_score for passage in dense), reverse=True)
    assert (len(dense), {passage.lexical_score for passage in dense}) == (3, {0.0})
    assert await reader.search(scope, generation=GENERATION, vector=None, terms={}, top_k=50, since=None) == []
