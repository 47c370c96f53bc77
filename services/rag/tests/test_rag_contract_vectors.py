"""What the index promises, whichever store has its vectors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import pytest_asyncio
from rag_vector_rig import Indexed, clustered, lance

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_rag.domain.generation import POSTGRESQL
from wireroom_rag.domain.passage import FoundPassage
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.vectors import VectorStoreError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest_asyncio.fixture(params=["postgresql", "lancedb"])
async def indexed(request: pytest.FixtureRequest, rag_database: Database, tmp_path: Path) -> AsyncIterator[Indexed]:
    if request.param == "postgresql":
        yield Indexed(rag_database, None)
        return
    # So small that the graph is built in these tests, too.
    store = lance(tmp_path / "vectors", exact_up_to=1_000)
    yield Indexed(rag_database, store)
    await store.stop()


def places(found: list[FoundPassage] | tuple[FoundPassage, ...]) -> list[int]:
    return [passage.start // 10 for passage in found]


async def test_what_was_written_is_found_nearest_first(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = clustered(200)
    await indexed.index(tenant_id, [vectors])
    for query in (3, 77):
        found = list(await indexed.search(tenant_id, vectors[query], with_vectors=True))
        similarities = vectors @ vectors[query]
        assert places(found) == np.argsort(-similarities, kind="stable")[:10].tolist()
        assert [passage.dense_score for passage in found] == pytest.approx(np.sort(similarities)[::-1][:10].tolist(), abs=2e-3)
        assert found[0].vector is not None
        assert np.array_equal(found[0].vector, vectors[query].astype(np.float16))
        # The same again, to the last digit.
        assert [(passage.id, passage.score) for passage in found] == [
            (passage.id, passage.score) for passage in await indexed.search(tenant_id, vectors[query])
        ]


async def test_equal_vectors_come_in_the_order_of_their_ids(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = np.repeat(clustered(1), 30, axis=0)
    await indexed.index(tenant_id, [vectors])
    ids = [passage.id for passage in await indexed.search(tenant_id, vectors[0], top_k=30)]
    assert len(ids) == 30
    assert ids == sorted(ids)


async def test_the_scope_limits_what_is_searched(indexed: Indexed) -> None:
    tenant_id = uuid4()
    old, new, undated = clustered(3)
    await indexed.index(tenant_id, [old[None]], published=NOW - timedelta(days=30), word="old")
    await indexed.index(tenant_id, [new[None]], published=NOW, word="new")
    await indexed.index(tenant_id, [undated[None]], word="undated")
    # Both as a small scope, that is read whole, and as a large one.
    for exact_up_to in (20_000, 0):
        indexed.exact_up_to = exact_up_to
        recent = await indexed.search(tenant_id, old, since=NOW - timedelta(days=1))
        assert sorted(passage.text for passage in recent) == ["new", "undated"]
        everything = await indexed.search(tenant_id, old)
        assert next(passage.text for passage in everything) == "old"
        assert len(everything) == 3
        assert not await indexed.search(tenant_id, old, kinds=frozenset({SourceKind.DOCUMENT}))


async def test_tenants_see_nothing_of_each_other(indexed: Indexed) -> None:
    mine, theirs, nobody = uuid4(), uuid4(), uuid4()
    vectors = clustered(20)
    await indexed.index(mine, [vectors[:10]], word="mine")
    await indexed.index(theirs, [vectors[10:]], word="theirs")
    for exact_up_to in (20_000, 0):
        indexed.exact_up_to = exact_up_to
        for query in vectors:
            assert {passage.text for passage in await indexed.search(mine, query, top_k=50)} == {"mine"}
            assert {passage.text for passage in await indexed.search(theirs, query, top_k=50)} == {"theirs"}
            assert not await indexed.search(nobody, query)
    assert await indexed.stored(mine) == await indexed.stored(theirs) == 10


async def test_a_new_version_takes_the_place_of_the_old_one(indexed: Indexed) -> None:
    tenant_id = uuid4()
    first, second, other = clustered(3)
    (article_id,) = await indexed.index(tenant_id, [np.vstack([first, other])], word="first")
    jobs = await indexed.received(tenant_id, [article_id], version=2)
    assert await indexed.writer.write(tenant_id, await indexed.entries(jobs, [second[None]], "second")) == 1
    for query in (first, second, other):
        assert [passage.text for passage in await indexed.search(tenant_id, query)] == ["second"]
    await indexed.drained()
    assert await indexed.stored(tenant_id) == 1


async def test_what_is_removed_is_gone_at_once_and_from_the_store(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = clustered(6)
    ids = await indexed.index(tenant_id, [vectors[:3], vectors[3:]])
    await indexed.removed(tenant_id, ids[:1])
    assert {passage.document_id for passage in await indexed.search(tenant_id, vectors[0])} == {ids[1]}
    await indexed.drained()
    assert await indexed.stored(tenant_id) == 3
    # Nothing is left to do, and doing it again is harmless.
    assert await indexed.drained() == 0


async def test_a_writer_without_its_lease_leaves_nothing(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = clustered(4)
    await indexed.index(tenant_id, [vectors[:1]])
    (job,) = await indexed.received(tenant_id, [new_id()])
    entries = await indexed.entries([job], [vectors[1:]])
    lost = [
        type(entry)(type(job)(**{**vars(job), "lease_token": uuid4()}), entry.made, entry.found, "t", "") for entry in entries
    ]
    assert await indexed.writer.write(tenant_id, lost) == 0
    assert len(await indexed.search(tenant_id, vectors[1])) == 1
    await indexed.drained()
    assert await indexed.stored(tenant_id) == 1


async def test_writers_at_the_same_time_lose_nothing(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = clustered(60)
    jobs = await indexed.received(tenant_id, [new_id() for _ in range(6)])
    entries = [await indexed.entries([job], [vectors[10 * place : 10 * place + 10]]) for place, job in enumerate(jobs)]
    counts = await asyncio.gather(*(indexed.writer.write(tenant_id, each) for each in entries))
    assert counts == [1] * 6
    assert await indexed.stored(tenant_id) == 60
    for place in (0, 25, 59):
        assert (await indexed.search(tenant_id, vectors[place]))[0].start // 10 == place % 10


async def test_recall_of_the_graph_with_and_without_a_filter(indexed: Indexed) -> None:
    """Beside an exact search, on vectors that come in bunches; a tenth of them is recent."""
    tenant_id = uuid4()
    vectors = clustered(2_000)
    old, recent = vectors[:1_800], vectors[1_800:]
    for start in range(0, 1_800, 600):
        await indexed.index(tenant_id, [old[start : start + 600]], published=NOW - timedelta(days=30), word=str(start))
    await indexed.index(tenant_id, [recent], published=NOW, word="1800")
    generation = await indexed.generation(tenant_id)
    if indexed.outside is not None:
        await indexed.outside.tidy(tenant_id, generation)
    indexed.exact_up_to = 0
    queries = clustered(15, seed=0) + 0.02 * clustered(15, seed=1)
    for since, first in ((None, 0), (NOW, 1_800)):
        hits = 0
        for query in queries:
            found = await indexed.search(tenant_id, query, since=since)
            exact = set((np.argsort(-(vectors[first:] @ query))[:10] + first).tolist())
            hits += len(exact & {int(passage.text) + passage.start // 10 for passage in found})
        assert hits / (10 * len(queries)) >= 0.95


async def test_an_index_in_a_store_that_is_not_set_up_says_so(indexed: Indexed) -> None:
    tenant_id = uuid4()
    vectors = clustered(2)
    await indexed.index(tenant_id, [vectors[:1]])
    if (await indexed.generation(tenant_id)).store == POSTGRESQL:
        assert len(await indexed.search(tenant_id, vectors[0])) == 1
        return
    jobs = await indexed.received(tenant_id, [new_id()])
    entries = await indexed.entries(jobs, [vectors[1:]])
    without = Indexed(indexed.database, None)
    with pytest.raises(VectorStoreError) as caught:
        await without.search(tenant_id, vectors[0])
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "vector_store_not_set_up")
    with pytest.raises(WireroomError) as refused:
        await without.writer.write(tenant_id, entries)
    assert refused.value.code == "vector_store_not_set_up"
    assert await indexed.stored(tenant_id) == 1
