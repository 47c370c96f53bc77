from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prometheus_client import CollectorRegistry

from wireroom_common.clock import SystemClock
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import rag_pb2
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.deletion_sql import DeletionStore
from wireroom_rag.adapters.documents_sql import DocumentStore
from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.adapters.file_upkeep_sql import FileUpkeep
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.lifecycle_metrics import LifecycleMetrics
from wireroom_rag.domain.document import LeaseLostError, RejectedError
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.processing import ExtractionCrashedError
from wireroom_rag.usecases.delete import SweepOrphans

INDEXED = rag_pb2.DOCUMENT_STATE_INDEXED
FAILED = rag_pb2.DOCUMENT_STATE_FAILED
LIMITS = ExtractionLimits(
    wall_seconds=30, cpu_seconds=30, memory_bytes=1_500_000_000, max_pages=10, max_characters=10_000, idle_seconds=30
)


async def _once(data: bytes) -> Any:
    yield data


async def test_killed_extraction_process_raises_and_the_next_file_gets_a_new_one() -> None:
    extractor = ExtractionProcess(LIMITS)
    try:
        assert (await extractor.extract("text/plain", 5, _once(b"first"))).content == "first"
        first = extractor.pid
        assert first is not None

        async def stalled() -> Any:
            yield b"se"
            process = psutil.Process(first)
            os.kill(first, signal.SIGKILL)
            await asyncio.to_thread(process.wait, 10)
            yield b"cond"

        with pytest.raises(ExtractionCrashedError):
            await extractor.extract("text/plain", 6, stalled())
        assert (await extractor.extract("text/plain", 5, _once(b"third"))).content == "third"
        assert extractor.pid not in (None, first)
    finally:
        await extractor.stop()
    assert extractor.pid is None


async def test_file_that_takes_too_long_is_rejected_and_its_process_killed() -> None:
    extractor = ExtractionProcess(ExtractionLimits(0.5, 30, 1_500_000_000, 10, 10_000, 30))

    async def endless() -> Any:
        yield b"a"
        await asyncio.Event().wait()

    with pytest.raises(RejectedError, match="document_too_complex"):
        await extractor.extract("text/plain", 2, endless())
    assert extractor.pid is None


async def test_idle_extraction_process_ends() -> None:
    extractor = ExtractionProcess(ExtractionLimits(30, 30, 1_500_000_000, 10, 10_000, 0.05))
    await extractor.extract("text/plain", 1, _once(b"a"))
    await eventually(lambda: extractor.pid is None, what="no extraction process")
    await extractor.stop()


async def test_document_whose_extraction_is_killed_is_indexed_in_the_end(rag: Any) -> None:
    user = rag.user()
    await rag.index(user, "warm.txt", b"A first document starts the process.")
    children = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "wireroom_rag.extraction.worker" in child.cmdline()
    ]
    assert len(children) == 1
    children[0].suspend()
    document = await rag.upload(user, "second.txt", b"The second document survives it.")
    await eventually(lambda: _attempts(rag, user, 1), what="the second document in work")
    children[0].kill()
    assert (await rag.processed(user, document.id)).state == INDEXED


async def _attempts(rag: Any, user: Any, count: int) -> bool:
    rows = await rag.rows(user.tenant_id, "SELECT attempts FROM document_versions WHERE title = 'second.txt'")
    return bool(rows and rows[0].attempts >= count)


@pytest.mark.parametrize("state", ["received", "extracted", "chunked", "embedded"])
async def test_job_of_a_vanished_worker_is_taken_over_at_every_stage(rag: Any, state: str) -> None:
    user = rag.user()
    document = await rag.index(user, "takeover.txt", b"The ferry to Hollin leaves at nine.")
    # What a worker that was killed at this stage leaves behind: no chunks, its state, and a lease that nobody renews.
    async with worker(rag.database, user.tenant_id) as connection:
        for statement in (
            "DELETE FROM chunks",
            "UPDATE index_statistics SET chunks = 0, terms = 0",
            "UPDATE documents SET indexed_version = NULL",
        ):
            await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql(
            "UPDATE document_versions SET state = %s, content = CASE WHEN %s THEN NULL ELSE content END, attempts = 1,"
            " lease_token = %s, leased_until = now() + interval '0.5 s'",
            (state, state == "received", uuid4()),
        )
    assert (await rag.processed(user, document.id)).state == INDEXED
    assert [passage.text for passage in await rag.retrieve(user, "ferry")] == ["The ferry to Hollin leaves at nine."]
    assert (await rag.rows(user.tenant_id, "SELECT chunks FROM index_statistics")) == [(1,)]


async def test_leased_job_is_nobody_elses_and_a_lost_lease_cannot_write(rag_database: Any, start_rag: Any) -> None:
    rag = await start_rag(poll_seconds=30)
    user = rag.user()
    await rag.service.stop()
    await rag.upload(user, "leased.txt", b"Only one may have it.")
    first, second = JobStore(rag_database, lease_seconds=60), JobStore(rag_database, lease_seconds=60)
    (job,) = await first.claim(SourceKind.DOCUMENT, 5)
    assert await second.claim(SourceKind.DOCUMENT, 5) == []
    async with worker(rag_database, user.tenant_id) as connection:
        await connection.exec_driver_sql("UPDATE document_versions SET leased_until = now() - interval '1 s'")
    (taken,) = await second.claim(SourceKind.DOCUMENT, 5)
    assert (taken.key, taken.attempts) == (job.key, 2)
    with pytest.raises(LeaseLostError):
        await first.chunked(job, 1)
    await second.chunked(taken, 1)


async def test_job_that_takes_its_workers_down_ends_as_failed_and_runs_again_when_uploaded_again(rag: Any) -> None:
    user = rag.user()
    document = await rag.index(user, "poison.txt", b"Harmless in the end.")
    async with worker(rag.database, user.tenant_id) as connection:
        await connection.exec_driver_sql("UPDATE document_versions SET state = 'received', attempts = 5")
    failed = await rag.processed(user, document.id)
    assert (failed.state, failed.reason_code) == (FAILED, "processing_failed")
    again = await rag.index(user, "poison.txt", b"Harmless in the end.")
    assert (again.id, again.version) == (document.id, 1)
    assert "rag.document.failed" in await rag.events()


async def test_file_that_disappeared_fails_with_that_reason(rag: Any) -> None:
    user = rag.user()
    document = await rag.index(user, "lost.txt", b"Soon lost.")
    for path in rag.blobs():
        path.unlink()
    async with worker(rag.database, user.tenant_id) as connection:
        await connection.exec_driver_sql("UPDATE document_versions SET state = 'received', content = NULL")
    assert (await rag.processed(user, document.id)).reason_code == "document_file_missing"


async def test_sweep_deletes_files_without_a_document_and_no_others(rag: Any) -> None:
    user = rag.user()
    await rag.index(user, "kept.txt", b"Kept.")
    (kept,) = rag.blobs()
    for _ in range(50):
        orphan: Path = kept.with_name(str(uuid4()))
        orphan.write_bytes(b"left behind")  # noqa: ASYNC240 - nothing else runs here
    blobs = ObjectBlobs.in_folder(rag.folder / "rag" / "blobs", SystemClock())
    upkeep = FileUpkeep(rag.database)
    stores = (DocumentStore(rag.database), DeletionStore(rag.database), blobs, upkeep, LifecycleMetrics(CollectorRegistry()))
    assert await SweepOrphans(*stores, age=timedelta(hours=1))() == 0
    # A run looks at twenty parts; the next one, of whichever process, goes on where it stopped.
    deleted = await SweepOrphans(*stores, age=timedelta(0), at_once=2)()
    assert 39 <= deleted <= 40
    assert await upkeep.position("orphans") != ""
    assert deleted + await SweepOrphans(*stores, age=timedelta(0), at_once=2)() == 50
    assert await upkeep.position("orphans") == ""
    assert rag.blobs() == [kept]
