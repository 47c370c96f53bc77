"""The service with its vectors in LanceDB, and what only a store beside the database can do wrong."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rag_object_front import ObjectFront
from rag_servers import ObjectServer
from rag_vector_rig import BLUEPRINT, DIMENSION, EVERYTHING, Indexed, clustered, lance
from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.rag.v1 import generations_pb2, rag_pb2
from wireroom_rag.adapters import vectors_lancedb
from wireroom_rag.adapters.blobs import BucketAccess
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generation_work_sql import GenerationJobs
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.vector_place import NAME_FILE, VectorPlace
from wireroom_rag.adapters.vector_removals_sql import VectorRemovalRows
from wireroom_rag.adapters.vectors_lancedb import LanceVectors
from wireroom_rag.domain.erasure import Tombstone
from wireroom_rag.domain.generation import POSTGRESQL, Generation, GenerationState, Task
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.ports.vectors import NewVectors, Sought, VectorStoreError
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.vector_upkeep import RemoveVectors, TidyVectors
from wireroom_rag.vector_wiring import VectorStore

MANAGER = frozenset({"docs:read", "docs:write", "news:read", "collections:manage", "collections:manage:own"})


@pytest.fixture(scope="module")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    server = ObjectServer(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


def folder(rag: Any) -> Path:
    return rag.folder / "rag" / "vectors"


async def stored(rag: Any, tenant_id: UUID) -> int:
    """Vectors of the serving generation, as another process sees them."""
    generation = await GenerationStore(rag.database, BLUEPRINT).serving(tenant_id)
    assert generation is not None
    view = lance(folder(rag))
    count = await view.count(tenant_id, generation)
    await view.stop()
    return count


async def removals(rag: Any, tenant_id: UUID) -> int:
    return len(await rag.rows(tenant_id, "SELECT 1 FROM vector_removals"))


def new_vectors(ids: list[int], vectors: Any) -> NewVectors:
    return NewVectors(ids, [uuid4()] * len(ids), [SourceKind.ARTICLE] * len(ids), [None] * len(ids), vectors)


async def test_document_from_upload_to_deletion_with_its_vectors_in_lancedb(start_rag: Any) -> None:
    rag = await start_rag(vectors="lancedb")
    owner = rag.user()
    colleague, stranger = rag.user(tenant_id=owner.tenant_id), rag.user()
    document = await rag.index(
        owner, "harbour.txt", b"The harbour master records every ship.", access=rag_pb2.DOCUMENT_ACCESS_PRIVATE
    )
    await rag.index(stranger, "ships.txt", b"Ships of somebody else call at the port.")
    (row,) = await rag.rows(owner.tenant_id, "SELECT embedding IS NULL AS outside FROM chunks")
    assert row.outside
    # No word in common: the vectors find it.
    (found,) = await rag.retrieve(owner, "vessels in a seaport", explain=True)
    assert (found.document_id, found.explanation.dense_rank) == (document.id, 1)
    assert found.explanation.dense_score > 0.2
    assert await rag.retrieve(colleague, "vessels in a seaport") == []
    (other,) = await rag.retrieve(stranger, "vessels in a seaport", diversity=0.3)
    assert other.title == "ships.txt"

    await rag.index(owner, "harbour.txt", b"The lighthouse keeper lights a lamp.", access=rag_pb2.DOCUMENT_ACCESS_PRIVATE)
    (found,) = await rag.retrieve(owner, "beacon on the coast")
    assert (found.document_id, found.version) == (document.id, 2)
    await rag.run("rag_vector_removals")
    assert (await stored(rag, owner.tenant_id), await removals(rag, owner.tenant_id)) == (1, 0)

    await rag.delete(owner, document.id)
    assert await rag.retrieve(owner, "beacon on the coast") == []
    assert (await stored(rag, owner.tenant_id), await removals(rag, owner.tenant_id)) == (0, 0)
    assert await stored(rag, stranger.tenant_id) == 1


async def test_store_that_is_away_costs_the_vectors_only_and_no_receipt_says_otherwise(start_rag: Any) -> None:
    rag = await start_rag(vectors="lancedb")
    user = rag.user()
    document = await rag.index(user, "harbour.txt", b"The harbour master records every ship.")
    away = folder(rag).rename(rag.folder / "away")
    set_current_principal(user.principal())
    answer = await rag.retrieval.Retrieve(rag_pb2.RetrieveRequest(query="harbour"))
    assert ([passage.document_id for passage in answer.passages], list(answer.degraded)) == ([document.id], ["lexical"])
    waiting = await rag.upload(user, "lighthouse.txt", b"The lighthouse keeper lights a lamp.")

    event = events_pb2.PrivacyErasureRequested(erasure_id=str(uuid4()))
    await rag.deliver(user.tenant_id, event, consumer="rag.erasure")
    await rag.run("rag_purge")
    assert await rag.retrieve(user, "harbour") == []
    (erasure,) = await rag.rows(user.tenant_id, "SELECT completed_at FROM erasures")
    assert erasure.completed_at is None

    # Somebody made an empty folder where the store should be: that is not the store.
    folder(rag).mkdir(exist_ok=True)
    (folder(rag) / NAME_FILE).write_text("lancedb:another")
    await rag.run("rag_purge")
    assert (await rag.rows(user.tenant_id, "SELECT completed_at FROM erasures"))[0].completed_at is None
    for left in folder(rag).iterdir():
        left.unlink()
    folder(rag).rmdir()
    away.rename(folder(rag))

    async def completed() -> bool:
        await rag.run("rag_purge")
        rows = await rag.rows(user.tenant_id, "SELECT completed_at FROM erasures")
        return rows[0].completed_at is not None

    await eventually(completed, what="the receipt")
    assert (await stored(rag, user.tenant_id), await removals(rag, user.tenant_id)) == (0, 0)
    with pytest.raises(WireroomError):
        await rag.get(user, waiting.id)


async def test_index_moves_to_lancedb_survives_its_loss_and_moves_back_by_being_rebuilt(start_rag: Any) -> None:
    rag = await start_rag()
    user = rag.user(permissions=MANAGER)
    document = await rag.index(user, "harbour.txt", b"The harbour master records every ship.")
    place = f"file://{folder(rag)}"

    async def rebuilt(service: Any, number: int) -> Generation:
        set_current_principal(user.principal())
        await service.generations.StartReindex(generations_pb2.StartReindexRequest(model=""))

        async def served() -> Generation | None:
            found = await GenerationStore(rag.database, BLUEPRINT).serving(user.tenant_id)
            return found if found is not None and found.number == number else None

        return await eventually(served, within=30, what="the rebuilt index")

    await rag.stop()
    outside = {"vectors": "lancedb"}
    for number, settings in ((2, outside), (3, outside), (4, {"vectors": "postgresql", "vectors_at": place})):
        if number == 3:
            # All is lost but the name: the index is made anew from the database.
            for table in folder(rag).glob("*.lance"):
                shutil.rmtree(table)
        service = await start_rag(**settings)
        generation = await rebuilt(service, number)
        assert (generation.store == POSTGRESQL) == (settings["vectors"] == "postgresql")
        (found,) = await service.retrieve(user, "vessels in a seaport", explain=True)
        assert (found.document_id, found.explanation.dense_rank) == (document.id, 1)
        await service.stop()


async def test_vectors_of_a_writer_that_died_go_and_hold_up_a_receipt_until_then(rag_database: Database, tmp_path: Path) -> None:
    indexed = Indexed(rag_database, lance(tmp_path / "vectors"))
    assert indexed.outside is not None
    tenant_id, article_id = uuid4(), new_id()
    vectors = clustered(3)
    jobs = await indexed.received(tenant_id, [article_id])
    entries = await indexed.entries(jobs, [vectors])
    # Between the two stores: the vectors are there, nothing else is.
    written = asyncio.create_task(indexed.writer.write(tenant_id, entries))
    async with worker(rag_database, tenant_id) as connection:
        await connection.execute(
            text("SELECT 1 FROM document_versions WHERE tenant_id = :tenant_id FOR UPDATE"), {"tenant_id": tenant_id}
        )

        async def there() -> bool:
            return await indexed.stored(tenant_id) == 3

        await eventually(there, what="the vectors")
        written.cancel()
        await asyncio.gather(written, return_exceptions=True)
    tombstone = Tombstone(tenant_id, article_id)
    remove = RemoveVectors(VectorRemovalRows(rag_database), indexed.outside)
    async with worker(rag_database, tenant_id) as connection:
        await connection.execute(text("UPDATE vector_removals SET due_at = now() + interval '5 minutes'"))
    with pytest.raises(WireroomError) as held_up:
        await remove.of_document(tombstone)
    assert (held_up.value.kind, held_up.value.code) == (ErrorKind.UNAVAILABLE, "vectors_being_written")
    assert await remove() == 0
    async with worker(rag_database, tenant_id) as connection:
        await connection.execute(text("UPDATE vector_removals SET due_at = now() - interval '2 minutes'"))
    assert await VectorRemovalRows(rag_database).left_over() == 3
    await remove.of_document(tombstone)
    assert (await indexed.stored(tenant_id), await VectorRemovalRows(rag_database).left_over()) == (0, 0)
    await indexed.outside.stop()


async def test_vectors_without_a_chunk_hide_nothing(rag_database: Database, tmp_path: Path) -> None:
    indexed = Indexed(rag_database, lance(tmp_path / "vectors"), exact_up_to=0)
    assert indexed.outside is not None
    tenant_id = uuid4()
    vectors = clustered(40)
    await indexed.index(tenant_id, [vectors])
    generation = await indexed.generation(tenant_id)
    # All of them nearer than anything else.
    near = (vectors[0] + 0.001 * clustered(400, seed=5)).astype("float32")
    await indexed.outside.add(tenant_id, generation, new_vectors(list(range(10**9, 10**9 + 400)), near))
    found = await indexed.search(tenant_id, vectors[0], top_k=5)
    assert [passage.start // 10 for passage in found] == (-(vectors @ vectors[0])).argsort(kind="stable")[:5].tolist()
    await indexed.outside.stop()


async def _dropped(jobs: GenerationJobs, task: Task) -> None:
    while await jobs.drop_some(task):
        pass


async def test_generation_keeps_its_rows_until_its_vectors_are_gone(rag_database: Database, tmp_path: Path) -> None:
    """By them it is known what an erasure has to wait for."""
    indexed = Indexed(rag_database, lance(tmp_path / "vectors"))
    assert indexed.outside is not None
    tenant_id = uuid4()
    (article_id, _) = await indexed.index(tenant_id, [clustered(3), clustered(2, seed=1)])
    async with worker(rag_database, tenant_id) as connection:
        await connection.execute(
            text("UPDATE generations SET state = 'retired', ended_at = now(), next_attempt_at = '2000-01-01'")
        )
    jobs = GenerationJobs(rag_database, lease_seconds=60, outside=indexed.outside)
    task = await jobs.claim()
    assert task is not None
    (tmp_path / "vectors").rename(tmp_path / "away")
    with pytest.raises(VectorStoreError):
        await _dropped(jobs, task)
    await indexed.removed(tenant_id, [article_id])
    (removal,) = await VectorRemovalRows(rag_database).of_document(Tombstone(tenant_id, article_id), 10)
    assert len(removal.chunk_ids) == 3
    (tmp_path / "away").rename(tmp_path / "vectors")
    await _dropped(jobs, task)
    assert await indexed.drained() == 1
    async with worker(rag_database, tenant_id) as connection:
        left = await connection.execute(text("SELECT count(*) FROM chunks"))
        assert left.scalar_one() == 0
    await indexed.outside.stop()


async def test_generation_is_tidied_by_one_process_however_long_it_takes(rag_database: Database, tmp_path: Path) -> None:
    store = lance(tmp_path / "vectors")
    tenant_id = uuid4()
    await Indexed(rag_database, store).index(tenant_id, [clustered(3)])
    rows = VectorRemovalRows(rag_database)
    waits: list[float] = []

    async def wait() -> float:
        async with worker(rag_database, tenant_id) as connection:
            left = await connection.execute(text("SELECT CAST(extract(epoch FROM upkeep_at - now()) AS float8) FROM generations"))
            return float(left.scalar_one())

    class Watched:
        async def tidy(self, tenant_id: UUID, generation: Generation) -> None:
            waits.append(await wait())
            await store.tidy(tenant_id, generation)

    assert await TidyVectors(rows, Watched(), most_seconds=3_600)() == 1
    assert await TidyVectors(rows, Watched(), most_seconds=3_600)() == 0
    assert len(waits) == 1
    assert waits[0] > 3_600
    assert 0 < await wait() <= 600
    await store.stop()


async def test_query_waits_for_its_turn_no_longer_than_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All turns are taken by queries of a store that hangs.
    monkeypatch.setattr(vectors_lancedb, "_SEARCHES_AT_ONCE", 0)
    store = lance(tmp_path / "vectors", seconds=0.2)
    generation = Generation(1, BLUEPRINT, GenerationState.SERVING, "lancedb:x/y")
    async with asyncio.timeout(10):
        with pytest.raises(VectorStoreError) as slow:
            await store.nearest(Sought(Scope(uuid4(), uuid4(), EVERYTHING), generation, clustered(1)[0]), 10)
    assert slow.value.kind is ErrorKind.DEADLINE
    await store.stop()


async def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    """Two views of it, as two processes have: what one writes, removes or drops is so for the other."""
    one, two = lance(tmp_path / "vectors", exact_up_to=100), lance(tmp_path / "vectors", exact_up_to=100)
    tenant_id = uuid4()
    names = await asyncio.gather(*(view.begin(tenant_id, DIMENSION) for view in (one, two, one, two)))
    assert len(set(names)) == 4
    assert len({name.partition("/")[0] for name in names}) == 1
    generation = Generation(1, BLUEPRINT, GenerationState.SERVING, names[0])
    vectors = clustered(200)

    async def write(view: LanceVectors, start: int) -> None:
        await view.add(tenant_id, generation, new_vectors(list(range(start, start + 20)), vectors[start : start + 20]))
        await view.remove(tenant_id, generation, [start])

    writes = [write((one, two)[place % 2], 20 * place) for place in range(10)]
    await asyncio.gather(*writes, one.tidy(tenant_id, generation), two.tidy(tenant_id, generation))
    assert await one.count(tenant_id, generation) == await two.count(tenant_id, generation) == 190
    # Repeated, as after a time limit: once each in what is found.
    await two.add(tenant_id, generation, new_vectors([1, 2], vectors[1:3]))
    found = await one.nearest(Sought(Scope(tenant_id, uuid4(), EVERYTHING), generation, vectors[1]), 50)
    assert found[0][0] == 1
    assert len({chunk_id for chunk_id, _ in found}) == len(found) == 50
    await one.tidy(tenant_id, generation)
    await two.drop(tenant_id, generation)
    assert (await one.count(tenant_id, generation), await one.vectors(tenant_id, generation, [1])) == (0, {})
    with pytest.raises(VectorStoreError):
        await one.add(tenant_id, generation, new_vectors([1], vectors[:1]))
    await one.remove(tenant_id, generation, [1])
    with pytest.raises(AssertionError):
        await one.count(uuid4(), generation)
    for view in (one, two):
        await view.stop()


async def test_vectors_live_in_a_bucket_that_several_processes_use(object_server: ObjectServer) -> None:
    async with ObjectFront(object_server) as front:
        access = BucketAccess(front.endpoint, "", object_server.access_key, object_server.secret_key, 10.0)

        def view(seconds: float = 30.0) -> LanceVectors:
            place = VectorPlace.at(f"s3://{object_server.bucket}/vectors", Path(), access)
            return LanceVectors(place, seconds=seconds, tidy_seconds=60.0, exact_up_to=100)

        one, two = view(), view()
        tenant_id = uuid4()
        names = await asyncio.gather(one.begin(tenant_id, DIMENSION), two.begin(tenant_id, DIMENSION))
        assert len({name.partition("/")[0] for name in names}) == 1
        generation = Generation(1, BLUEPRINT, GenerationState.SERVING, names[0])
        vectors = clustered(150)
        await asyncio.gather(
            *(
                (one, two)[start % 20 // 10].add(
                    tenant_id, generation, new_vectors(list(range(start, start + 10)), vectors[start : start + 10])
                )
                for start in range(0, 150, 10)
            )
        )
        await one.remove(tenant_id, generation, [3])
        await two.tidy(tenant_id, generation)
        found = await one.nearest(Sought(Scope(tenant_id, uuid4(), EVERYTHING), generation, vectors[4]), 5)
        assert found[0][0] == 4
        assert await one.count(tenant_id, generation) == 149
        # They did get in each other's way, and the bucket let only one of them through at a time.
        assert front.refused > 0
        await one.drop(tenant_id, generation)
        assert await two.count(tenant_id, generation) == 0
        await one.stop()
        await two.stop()
    with pytest.raises(VectorStoreError):
        await view(1.0).begin(tenant_id, DIMENSION)


def test_lancedb_is_imported_only_where_it_is_chosen() -> None:
    program = "import sys, wireroom_rag.app; print([name for name in sys.modules if name in ('lancedb', 'pyarrow')])"
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == "[]"


def test_lancedb_that_is_not_installed_is_told_in_a_sentence(
    rag_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    VectorStore(RagSettings(), rag_database, tmp_path)
    for settings in (RagSettings(vectors="lancedb"), RagSettings(vectors_at="s3://bucket/vectors")):
        with pytest.raises(OperatorError, match="not installed: run `make lancedb`"):
            VectorStore(settings, rag_database, tmp_path)


def test_place_of_the_vectors_must_be_one(rag_database: Database, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="WIREROOM_RAG_VECTORS_AT is 'ftp://x'"):
        VectorStore(RagSettings(vectors_at="ftp://x"), rag_database, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="see WIREROOM_RAG_VECTORS_AT"):
        VectorStore(RagSettings(vectors_at=f"file://{tmp_path}/file/vectors"), rag_database, tmp_path)
