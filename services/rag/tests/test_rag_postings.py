"""Postings in blocks: their format, merging and removal, writers at once, and what is left of a word that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool
from test_rag_bm25 import GENERATION, index, prepare, search

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, downgrade, upgrade
from wireroom_common.testing import eventually
from wireroom_rag.adapters import postings_sql, retrieval_sql
from wireroom_rag.adapters.articles_sql import remove_articles
from wireroom_rag.adapters.chunk_rows_sql import delete_rows, settle
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generation_work_sql import GenerationJobs
from wireroom_rag.adapters.generations_sql import GenerationStore, lock_live
from wireroom_rag.adapters.index_sql import IndexWriter, remove_chunks
from wireroom_rag.adapters.postings_format import NARROW, WIDE, Block, blocks, joined, postings_of, without
from wireroom_rag.adapters.postings_sql import put_in, read_blocks, take_out
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.domain.bm25 import Population, Postings, Totals, scored

counts = st.integers(0, 300) | st.just(65_535)
entries = st.dictionaries(st.integers(1, 10**6) | st.integers(1, 10**12), st.tuples(counts, counts), min_size=1, max_size=600)


def made(found: Mapping[int, tuple[int, int]]) -> Postings:
    ids = sorted(found)
    return Postings(
        np.array(ids, dtype=np.int64),
        np.array([found[chunk_id][0] for chunk_id in ids], dtype=np.int64),
        np.array([found[chunk_id][1] for chunk_id in ids], dtype=np.int64),
    )


def read(postings: Postings) -> dict[int, tuple[int, int]]:
    columns = (postings.ids.tolist(), postings.counts.tolist(), postings.title_counts.tolist())
    return {chunk_id: (count, title) for chunk_id, count, title in zip(*columns, strict=True)}


@settings(max_examples=60, deadline=None)
@given(found=entries, dense=st.integers(0, 2_000), data=st.data())
def test_blocks_give_back_what_was_put_in(found: dict[int, tuple[int, int]], dense: int, data: st.DataObject) -> None:
    found |= dict.fromkeys(range(500, 500 + dense), (1, 0))
    parts = list(blocks(made(found)))
    assert read(postings_of(parts)) == found
    for number in (NARROW, WIDE):
        own = [part for part in parts if part.format == number]
        payload = b"".join(part.payload for part in own)
        again = joined(number, [part.first_id for part in own], [part.count for part in own], payload)
        assert read(again) == (read(postings_of(own)) if own else {})
    assert all(part.last_id < later.first_id for part, later in itertools.pairwise(parts))
    assert all(len(part.payload) <= 1_920 for part in parts)
    gone = data.draw(st.sets(st.sampled_from(sorted(found))))
    left = [kept for part in parts if (kept := without(part, np.array(sorted(gone), dtype=np.int64))) is not None]
    rest = {chunk_id: own for chunk_id, own in found.items() if chunk_id not in gone}
    assert (read(postings_of(left)) if left else {}) == rest


def test_frequent_words_take_four_bytes_a_posting() -> None:
    parts = list(blocks(made(dict.fromkeys(range(1, 100_000, 7), (2, 1)))))
    assert {part.format for part in parts} == {NARROW}
    assert len(parts) == -(-len(range(1, 100_000, 7)) // 480)


@settings(max_examples=40, deadline=None)
@given(found=entries, far=st.sampled_from([[], [10**13]]), others=st.sets(st.integers(1, 10**6), max_size=50))
def test_scores_depend_on_no_chunk_that_is_not_scored(
    found: dict[int, tuple[int, int]], far: list[int], others: set[int]
) -> None:
    """Whether ids lie close together or far apart, and whatever else the word stands in."""
    ids = sorted({*found, *others, *far})
    everything = Population(np.array(ids), np.full(len(ids), 120), np.full(len(ids), 5))
    totals = Totals(2 * len(ids), 240 * len(ids), 10 * len(ids))
    whole = scored(everything, totals, [(2, made(found))])
    half = Population(everything.ids[::2], everything.terms[::2], everything.title_terms[::2])
    part = scored(half, totals, [(2, made(found))])
    assert part.scores.tolist() == whole.scores[::2].tolist()
    best = whole.best(20)
    expected = sorted(((-score, chunk_id) for chunk_id, score in zip(ids, whole.scores.tolist(), strict=True) if score > 0))[:20]
    assert best == [(chunk_id, -score) for score, chunk_id in expected]


async def stored(database: Database, tenant_id: UUID) -> dict[str, dict[int, tuple[int, int]]]:
    """All postings of a tenant; asserts that the blocks of a stem are in order."""
    found: dict[str, list[Block]] = defaultdict(list)
    async with worker(database, tenant_id) as connection:
        rows = await connection.execute(
            text("SELECT stem, first_id, last_id, count, format, payload FROM posting_blocks ORDER BY stem, first_id")
        )
        for row in rows:
            found[row.stem].append(Block(row.first_id, row.last_id, row.count, row.format, row.payload))
    for parts in found.values():
        assert all(part.last_id < later.first_id for part, later in itertools.pairwise(parts))
        assert all(part.first_id <= min(read(postings_of([part]))) for part in parts)
        assert all(part.last_id >= max(read(postings_of([part]))) for part in parts)
    return {stem: read(postings_of(parts)) for stem, parts in found.items()}


async def test_blocks_hold_what_a_plain_table_would(rag_database: Database) -> None:
    tenant_id = uuid4()
    random = np.random.default_rng(7)
    expected: dict[str, dict[int, tuple[int, int]]] = {}
    documents: list[tuple[list[str], list[int]]] = []
    free = random.permutation(np.arange(1, 3_000))
    for _ in range(60):
        async with worker(rag_database, tenant_id) as connection:
            if documents and random.random() < 0.4:
                gone = [documents.pop(int(random.integers(len(documents)))) for _ in range(min(2, len(documents)))]
                await take_out(connection, tenant_id, 1, [(stems, np.array(ids, dtype=np.int64)) for stems, ids in gone])
                for stems, ids in gone:
                    for stem in stems:
                        expected[stem] = {chunk_id: own for chunk_id, own in expected[stem].items() if chunk_id not in ids}
            else:
                # Some of them behind everything, some between what is there.
                size = int(random.integers(1, 300))
                ids, free = sorted(free[:size].tolist()), free[size:]
                stems = [f"s{number}" for number in range(int(random.integers(1, 5)))]
                new = {
                    stem: {chunk_id: (int(random.integers(1, 400)), int(random.integers(3))) for chunk_id in ids}
                    for stem in stems
                }
                await put_in(connection, tenant_id, 1, {stem: made(own) for stem, own in new.items()} if ids else {})
                for stem, own in new.items():
                    expected.setdefault(stem, {}).update(own)
                documents += [(stems, ids)] if ids else []
    left = {stem: own for stem, own in expected.items() if own}
    assert await stored(rag_database, tenant_id) == left
    async with worker(rag_database, tenant_id) as connection:
        found = await read_blocks(connection, tenant_id, 1, [*expected, "unknown"], chunks=10, lengths=False)
    assert {stem: read(found.postings(stem)) for stem in left} == left
    assert read(found.postings("unknown")) == {}


async def test_writers_and_deletions_at_once_end_and_leave_what_they_should(rag_database: Database) -> None:
    words = [f"word{number}" for number in range(40)]
    random = np.random.default_rng(3)

    def texts(seed: int) -> list[str]:
        return [" ".join(random.choice(words, 12)) + f" own{seed}x{number}" for number in range(6)]

    scope, first = await index(rag_database, texts(0))
    gone = [UUID(document) for document in list(first)[:4]]

    async def remove(document_ids: Sequence[UUID]) -> None:
        async with worker(rag_database, scope.tenant_id) as connection:
            ids = {"ids": document_ids}
            await connection.execute(text("SELECT 1 FROM documents WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"), ids)
            await remove_chunks(connection, scope.tenant_id, document_ids)

    batches = [await prepare(rag_database, scope.tenant_id, texts(seed)) for seed in range(1, 6)]
    writer = IndexWriter(rag_database)
    async with asyncio.timeout(30):
        writing = [writer.write(scope.tenant_id, batch) for batch in batches]
        await asyncio.gather(*writing, remove(gone[:2]), remove(gone[2:]))
    async with worker(rag_database, scope.tenant_id) as connection:
        rows = (await connection.execute(text("SELECT id, content, terms FROM chunks"))).all()
        totals = (await connection.execute(text("SELECT chunks, terms FROM index_statistics"))).one()
    expected: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    for row in rows:
        expected[""][row.id] = (row.terms, 0)
        for word, count in Counter(row.content.split()).items():
            expected[word][row.id] = (count, 0)
    assert await stored(rag_database, scope.tenant_id) == dict(expected)
    assert tuple(totals) == (32, 32 * 13)


async def test_word_that_only_a_removed_document_had_leaves_no_trace(rag_database: Database) -> None:
    scope, positions = await index(rag_database, ["harbour zanzibarquux", "harbour"], titles=["onlytitle", "pier"])
    document_id = UUID(next(iter(positions)))
    with pytest.raises(Exception, match="indexed_stems"):
        async with worker(rag_database, scope.tenant_id) as connection:
            await connection.execute(text("DELETE FROM documents WHERE id = :id"), {"id": document_id})
    async with worker(rag_database, scope.tenant_id) as connection:
        await remove_chunks(connection, scope.tenant_id, [document_id])
        await connection.execute(text("DELETE FROM documents WHERE id = :id"), {"id": document_id})
    found = await stored(rag_database, scope.tenant_id)
    assert set(found) == {"", "harbour", "pier"}
    assert {len(own) for own in found.values()} == {1}
    async with worker(rag_database, scope.tenant_id) as connection:
        rows = await connection.execute(text("SELECT unnest(stems) FROM indexed_stems"))
        assert set(rows.scalars()) == {"harbour", "pier"}


async def test_article_goes_after_the_writer_that_holds_it(rag_database: Database) -> None:
    """Not half before him: each would wait for the other."""
    scope, positions = await index(rag_database, ["harbour pelican", "harbour crane"])
    ids = [UUID(document_id) for document_id in positions]

    async def remove() -> None:
        async with worker(rag_database, scope.tenant_id) as connection:
            await remove_articles(connection, scope.tenant_id, ids)

    async def waits() -> bool:
        async with rag_database.system() as connection:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
            return bool((await connection.execute(text(waiting))).scalar_one())

    async with worker(rag_database, scope.tenant_id) as connection:
        await connection.execute(text("SELECT 1 FROM documents WHERE id = :id FOR UPDATE"), {"id": ids[0]})
        removing = asyncio.create_task(remove())
        await eventually(waits, what="a removal that waits")
        removed = await delete_rows(connection, scope.tenant_id, ids[:1])
        await settle(connection, scope.tenant_id, removed)
    await removing
    assert await stored(rag_database, scope.tenant_id) == {}


async def test_writers_without_a_pause_let_an_abort_have_its_turn(rag_database: Database) -> None:
    scope, _ = await index(rag_database, ["harbour"])
    store = GenerationStore(rag_database, GENERATION.blueprint)
    await store.start(scope, GENERATION.blueprint)
    held, done = asyncio.Event(), asyncio.Event()

    async def write(first: asyncio.Event, then: asyncio.Event) -> None:
        """Holds the generations until another one does."""
        while not done.is_set():
            await first.wait()
            first.clear()
            async with worker(rag_database, scope.tenant_id) as connection:
                held.set()
                await lock_live(connection, scope.tenant_id)
                then.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await first.wait()

    one, two = asyncio.Event(), asyncio.Event()
    one.set()
    writers = [asyncio.create_task(write(one, two)), asyncio.create_task(write(two, one))]
    try:
        async with asyncio.timeout(10):
            await held.wait()
            await store.abort(scope)
    finally:
        done.set()
        one.set()
        two.set()
        await asyncio.gather(*writers)


async def test_generation_is_dropped_while_one_of_its_documents_is_taken_out(rag_database: Database) -> None:
    """Neither waits for the other in a circle, and nothing is left."""
    scope, positions = await index(rag_database, ["harbour pelican", "harbour crane"])
    document_id = UUID(next(iter(positions)))
    async with worker(rag_database, scope.tenant_id) as connection:
        await connection.execute(
            text("UPDATE generations SET state = 'retired', ended_at = now(), next_attempt_at = '2000-01-01'")
        )
    jobs = GenerationJobs(rag_database, lease_seconds=60)
    task = await jobs.claim()
    assert task is not None
    assert task.tenant_id == scope.tenant_id
    async with worker(rag_database, scope.tenant_id) as connection:
        await connection.execute(text("SELECT 1 FROM documents WHERE id = :id FOR UPDATE"), {"id": document_id})
        removed = await delete_rows(connection, scope.tenant_id, [document_id])
        async with asyncio.timeout(10):
            # Each waits for nothing that this transaction holds, and none takes the rest for all there is.
            assert [await jobs.drop_some(task) for _ in range(3)] == [True, True, True]
            await settle(connection, scope.tenant_id, removed)
    while await jobs.drop_some(task):
        pass
    async with worker(rag_database, scope.tenant_id) as connection:
        for table in ("chunks", "posting_blocks", "indexed_stems", "index_statistics"):
            left = await connection.execute(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - a constant of this test
            assert left.scalar_one() == 0, table


async def test_weak_hits_are_found_behind_many_strong_ones_that_may_not_be_seen(
    rag_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_sql, "_MOST_LOOKED_UP", 30)
    scope, positions = await index(rag_database, [*["harbour"] * 240, *["harbour crane tide night"] * 5])
    async with worker(rag_database, scope.tenant_id) as connection:
        await connection.execute(text("UPDATE chunks SET published_at = '2020-01-01' WHERE content = 'harbour'"))
    since = datetime(2024, 1, 1, tzinfo=UTC)
    for exact_up_to in (0, 20_000):
        reader = IndexReader(rag_database, exact_up_to=exact_up_to)
        found = await reader.search(scope, generation=GENERATION, vector=None, terms={"harbour": 1}, top_k=50, since=since)
        assert {positions[str(passage.document_id)] for passage in found} == set(range(240, 245))
        assert [passage.lexical_rank for passage in found] == [1, 2, 3, 4, 5]


async def _indexed(url: DatabaseUrl) -> list[tuple[int, float]]:
    database = Database(url, "rag")
    try:
        many = [f"harbour crane {number}" for number in range(250)]
        scope, _ = await index(database, ["pelican harbour harbour", *many], titles=["harbour pier", *[""] * 250])
        return [(passage.id, passage.lexical_score) for passage in await search(IndexReader(database), scope, "harbour pier")]
    finally:
        await database.close()


async def _found(url: DatabaseUrl, tenant_id: UUID) -> dict[str, dict[int, tuple[int, int]]]:
    database = Database(url, "rag")
    try:
        return await stored(database, tenant_id)
    finally:
        await database.close()


def _waits(engine: Engine) -> bool:
    with engine.connect() as connection:
        query = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        return connection.execute(query).one_or_none() is not None


def test_migration_turns_rows_into_blocks_and_back(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["rag"])
    upgrade(url, "rag")
    assert asyncio.run(_indexed(url))
    engine = create_engine(url.as_role("rag_owner"), poolclass=NullPool)
    with engine.connect() as connection:
        (tenant_id,) = connection.execute(text("SELECT DISTINCT tenant_id FROM rag.posting_blocks")).scalars().all()
        stems = connection.execute(text("SELECT document_id, stems FROM rag.indexed_stems ORDER BY document_id")).all()
    before = asyncio.run(_found(url, tenant_id))
    downgrade(url, "rag", "0007")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT stem, chunk_id, tf, title_tf, terms, title_terms FROM rag.postings")).all()
    assert {(row.stem, row.chunk_id): (row.tf, row.title_tf) for row in rows} == {
        (stem, chunk_id): own for stem, found in before.items() if stem for chunk_id, own in found.items()
    }
    assert {row.chunk_id: (row.terms, row.title_terms) for row in rows} == before[""]
    # The older code takes a document out meanwhile; its row follows later.
    document_id = stems[0].document_id
    with engine.connect() as older:
        older.execute(text("SELECT 1 FROM rag.documents WHERE id = :id FOR UPDATE"), {"id": document_id})
        gone = set(
            older.execute(text("DELETE FROM rag.chunks WHERE document_id = :id RETURNING id"), {"id": document_id}).scalars()
        )
        upgrading = threading.Thread(target=upgrade, args=(url, "rag"))
        upgrading.start()
        asyncio.run(eventually(lambda: _waits(engine), what="a migration that waits"))
        older.commit()
    upgrading.join()
    assert asyncio.run(_found(url, tenant_id)) == {
        stem: left for stem, found in before.items() if (left := {key: own for key, own in found.items() if key not in gone})
    }
    with engine.connect() as connection:
        again = connection.execute(text("SELECT document_id, stems FROM rag.indexed_stems ORDER BY document_id")).all()
    assert [(row.document_id, sorted(row.stems)) for row in again] == [(row.document_id, sorted(row.stems)) for row in stems[1:]]


def test_downgrade_leaves_nothing_of_an_index_whose_vectors_are_elsewhere(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["rag"])
    upgrade(url, "rag")
    assert asyncio.run(_indexed(url))
    engine = create_engine(url.as_role("rag_owner"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE rag.generations SET store = 'lancedb:x/y'"))
        connection.execute(text("UPDATE rag.chunks SET embedding = NULL"))
    downgrade(url, "rag", "0011")
    with engine.connect() as connection:
        for table in ("chunks", "posting_blocks", "indexed_stems", "index_statistics"):
            left = connection.execute(text(f"SELECT count(*) FROM rag.{table}"))  # noqa: S608 - a constant of this test
            assert left.scalar_one() == 0, table


async def test_query_of_too_many_postings_leaves_out_the_most_frequent_words(
    rag_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = uuid4()
    sizes = {"rare": 3, "medium": 10, "frequent": 40}
    monkeypatch.setattr(postings_sql, "_MOST_READ", 20)
    async with worker(rag_database, tenant_id) as connection:
        await put_in(
            connection, tenant_id, 1, {stem: made(dict.fromkeys(range(1, size + 1), (1, 0))) for stem, size in sizes.items()}
        )
        for asked, expected in (
            (list(sizes), {"rare", "medium"}),
            (["frequent"], {"frequent"}),
            (["frequent", "x"], {"frequent"}),
            (["x", "y"], set()),
        ):
            found = await read_blocks(connection, tenant_id, 1, asked, chunks=40, lengths=False)
            assert set(found.parts) == expected
