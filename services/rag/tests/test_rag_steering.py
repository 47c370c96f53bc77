"""What people do while a document is processed, and what time does."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from uuid import UUID

import psutil
import pytest
from rag_files import workbook

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import access_pb2, processing_pb2, rag_pb2
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.domain.document import LeaseLostError
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.usecases.overdue import EndOverdueJobs

INDEXED, FAILED, RECEIVED = rag_pb2.DOCUMENT_STATE_INDEXED, rag_pb2.DOCUMENT_STATE_FAILED, rag_pb2.DOCUMENT_STATE_RECEIVED


async def retry(rag: Any, user: Any, document_id: str) -> rag_pb2.Document:
    set_current_principal(user.principal())
    return (await rag.processing.RetryDocument(processing_pb2.RetryDocumentRequest(id=document_id))).document


async def cancel(rag: Any, user: Any, document_id: str) -> rag_pb2.Document:
    set_current_principal(user.principal())
    return (await rag.processing.CancelDocument(processing_pb2.CancelDocumentRequest(id=document_id))).document


async def chunks(rag: Any, user: Any, document_id: str, **request: Any) -> processing_pb2.ListChunksResponse:
    set_current_principal(user.principal())
    return await rag.processing.ListChunks(processing_pb2.ListChunksRequest(id=document_id, **request))


async def alter(rag: Any, user: Any, statement: str, *values: object) -> None:
    async with worker(rag.database, user.tenant_id) as connection:
        await connection.exec_driver_sql(statement, values)


def extraction_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "wireroom_rag.extraction.worker" in child.cmdline()
    ]


async def stalled(rag: Any, user: Any) -> rag_pb2.Document:
    """A document that is being read by a process that has been stopped."""
    await rag.index(user, "warm.txt", b"A first document starts the process.")
    for process in extraction_processes():
        process.suspend()
    document = await rag.upload(user, "stuck.txt", b"The stork waits on the chimney.")

    async def begun() -> bool:
        rows = await rag.rows(
            user.tenant_id, "SELECT 1 FROM document_versions WHERE title = 'stuck.txt' AND lease_token IS NOT NULL"
        )
        return bool(rows)

    await eventually(begun, what="the document in work")
    return document


async def test_cancelled_document_fails_at_once_its_process_ends_and_a_retry_indexes_it(start_rag: Any) -> None:
    rag = await start_rag(heartbeat_seconds=0.1)
    user = rag.user()
    document = await stalled(rag, user)
    busy = extraction_processes()
    cancelled = await cancel(rag, user, document.id)
    assert (cancelled.state, cancelled.reason_code) == (FAILED, "document_cancelled")
    await eventually(
        lambda: not any(process.is_running() and process in extraction_processes() for process in busy), what="its end"
    )
    with pytest.raises(WireroomError) as ended:
        await cancel(rag, user, document.id)
    assert (ended.value.kind, ended.value.code) == (ErrorKind.CONFLICT, "document_not_in_work")
    assert (await retry(rag, user, document.id)).state == RECEIVED
    assert (await rag.processed(user, document.id)).state == INDEXED
    with pytest.raises(WireroomError) as done:
        await retry(rag, user, document.id)
    assert done.value.code == "document_not_failed"
    assert (await rag.events())[-3:] == ["rag.document.failed", "rag.document.retried", "rag.document.indexed"]


async def test_only_owners_and_managers_steer_and_only_the_tenant_sees(rag: Any) -> None:
    owner, stranger = rag.user(), rag.user()
    colleague = rag.user(tenant_id=owner.tenant_id)
    manager = rag.user(tenant_id=owner.tenant_id, permissions=owner.permissions | {"collections:manage"})
    reader = rag.user(tenant_id=owner.tenant_id, permissions=frozenset({"docs:read"}))
    document = await rag.index(owner, "blank.txt", b" \n ")
    for steer in (retry, cancel):
        with pytest.raises(WireroomError) as refused:
            await steer(rag, colleague, document.id)
        assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "document_not_owned")
        with pytest.raises(WireroomError) as powerless:
            await steer(rag, reader, document.id)
        assert powerless.value.code == "permission_missing"
        with pytest.raises(WireroomError) as hidden:
            await steer(rag, stranger, document.id)
        assert hidden.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(WireroomError) as unseen:
        await chunks(rag, stranger, document.id)
    assert unseen.value.kind is ErrorKind.NOT_FOUND
    set_current_principal(stranger.principal())
    with pytest.raises(WireroomError) as unwatched:
        _ = [entry async for entry in rag.processing.WatchDocument(processing_pb2.WatchDocumentRequest(id=document.id))]
    assert unwatched.value.kind is ErrorKind.NOT_FOUND
    assert (await retry(rag, manager, document.id)).state == RECEIVED


async def test_watcher_sees_changes_until_the_final_state(start_rag: Any) -> None:
    rag = await start_rag(heartbeat_seconds=0.1)
    user = rag.user()
    document = await stalled(rag, user)
    seen: list[rag_pb2.Document] = []

    async def watch() -> None:
        set_current_principal(user.principal())
        async for entry in rag.processing.WatchDocument(processing_pb2.WatchDocumentRequest(id=document.id)):
            seen.append(entry.document)  # noqa: PERF401 - the test looks at it meanwhile

    watching = asyncio.create_task(watch())
    await eventually(lambda: bool(seen), what="the first state")
    for process in extraction_processes():
        process.resume()
    await asyncio.wait_for(watching, 30)
    states = [entry.state for entry in seen]
    assert (states[0], states[-1], seen[-1].chunks) == (RECEIVED, INDEXED, 1)
    assert all(before != after for before, after in itertools.pairwise(seen))
    await asyncio.wait_for(watch(), 10)
    assert seen[-1].state == INDEXED


async def test_chunks_are_paged_in_the_order_of_the_text(rag: Any) -> None:
    user = rag.user()
    document = await rag.index(user, "ferries.xlsx", workbook())
    assert (document.state, document.pages, document.chunks) == (INDEXED, 2, 2)
    first = await chunks(rag, user, document.id, page_size=1)
    second = await chunks(rag, user, document.id, page_size=1, page_token=first.next_page_token)
    assert [first.version, second.version, second.next_page_token] == [1, 1, ""]
    assert [(chunk.page, chunk.text.splitlines()[0]) for chunk in (*first.chunks, *second.chunks)] == [
        (1, "# Ferries"),
        (2, "# Crew"),
    ]
    assert second.chunks[0].start > first.chunks[0].end
    with pytest.raises(WireroomError) as malformed:
        await chunks(rag, user, document.id, page_token="x")
    assert malformed.value.code == "page_token_malformed"


@pytest.mark.parametrize(("state", "seconds"), [("received", 200), ("scanned", 200), ("extracted", 20), ("embedded", 20)])
async def test_job_that_stands_too_long_in_any_state_fails_even_if_a_worker_holds_it(
    start_rag: Any, state: str, seconds: int
) -> None:
    rag = await start_rag()
    user = rag.user()
    await rag.service.stop()
    document = await rag.upload(user, "slow.txt", b"It takes for ever.")
    jobs = JobStore(rag.database, lease_seconds=600)
    (job,) = await jobs.claim(SourceKind.DOCUMENT, 1)
    overdue = EndOverdueJobs(jobs, waiting_seconds=100, stage_seconds=10)
    async with rag.database.system() as connection:
        assert (await connection.exec_driver_sql("SELECT state_at > now() - interval '1 min' FROM document_versions")).scalar()
    await alter(rag, user, "UPDATE document_versions SET state = %s", state)
    assert await overdue() == 0
    await alter(rag, user, "UPDATE document_versions SET state_at = now() - make_interval(secs => %s)", seconds)
    assert await overdue() == 1
    failed = await rag.get(user, document.id)
    assert (failed.state, failed.reason_code) == (FAILED, "processing_overdue")
    assert state in failed.reason
    with pytest.raises(LeaseLostError):
        await jobs.chunked(job, 1)
    assert await jobs.renew(job.lease_token) is False


async def test_tenants_take_turns_and_small_files_need_not_wait_for_large_ones(rag_database: Any, start_rag: Any) -> None:
    rag = await start_rag()
    await rag.service.stop()
    busy, quiet = rag.user(), rag.user()
    for number in range(3):
        await rag.upload(busy, f"busy {number}.txt", b"x" * (1_100_000 if number == 0 else 100))
    await rag.upload(quiet, "quiet.txt", b"one")
    jobs = JobStore(rag_database, lease_seconds=60)
    order = []
    for _ in range(3):
        order += [(job.key.tenant_id, job.title) for job in await jobs.claim(SourceKind.DOCUMENT, 1)]
    assert order == [(busy.tenant_id, "busy 0.txt"), (quiet.tenant_id, "quiet.txt"), (busy.tenant_id, "busy 1.txt")]
    await alter(rag, busy, "UPDATE document_versions SET lease_token = NULL, leased_until = NULL")
    (small,) = await jobs.claim(SourceKind.DOCUMENT, 1, max_size=1_000_000)
    assert small.title == "busy 1.txt"
    assert isinstance(small.key.tenant_id, UUID)


async def followed(rag: Any, user: Any, document_id: str, ending: Any) -> WireroomError:
    """How following a document ends after what `ending` does, once its first state was told."""
    set_current_principal(user.principal())
    try:
        async with asyncio.timeout(10):
            async for entry in rag.processing.WatchDocument(processing_pb2.WatchDocumentRequest(id=document_id)):
                assert entry.document.state == RECEIVED
                await ending()
    except WireroomError as ended:
        return ended
    raise AssertionError(document_id)


async def test_following_ends_when_the_document_may_not_be_read_any_more_or_the_process_stops(rag: Any) -> None:
    owner = rag.user()
    colleague = rag.user(tenant_id=owner.tenant_id)
    document = await stalled(rag, owner)
    try:

        async def close() -> None:
            request = access_pb2.SetDocumentAccessRequest(document_id=document.id, access=rag_pb2.DOCUMENT_ACCESS_PRIVATE)
            set_current_principal(owner.principal())
            await rag.access.SetDocumentAccess(request)

        async def drain() -> None:
            rag.infra.told_to_stop = True

        assert (await followed(rag, colleague, document.id, close)).kind is ErrorKind.NOT_FOUND
        stopped = await followed(rag, owner, document.id, drain)
        assert (stopped.kind, stopped.code) == (ErrorKind.UNAVAILABLE, "service_stopping")
    finally:
        for process in extraction_processes():
            process.kill()
