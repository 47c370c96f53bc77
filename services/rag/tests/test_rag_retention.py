"""Old versions and their files: the row goes first, and whatever happens meanwhile, no version that stays loses its file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from wireroom_common.testing import eventually
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.connections import worker


async def _versions(rag: Any, user: Any, count: int) -> str:
    """The id of a document with so many versions."""
    for number in range(count):
        document = await rag.index(user, "a.txt", f"The pelican dives {number} times.".encode())
    return str(document.id)


async def test_version_that_is_served_again_in_the_moment_it_ends_keeps_its_row_and_file(start_rag: Any) -> None:
    rag = await start_rag(versions_kept=1)
    user = rag.user()
    document_id = await _versions(rag, user, 2)
    before = sorted(rag.blobs())
    # As the index does it: the document's row is held, the version becomes the one that is served, and that is committed.
    async with worker(rag.database, user.tenant_id) as connection:
        values = {"id": document_id}
        await connection.execute(text("SELECT 1 FROM documents WHERE id = :id FOR UPDATE"), values)
        await connection.execute(text("UPDATE document_versions SET updated_at = now() WHERE document_id = :id"), values)
        await connection.execute(text("UPDATE documents SET indexed_version = 1 WHERE id = :id"), values)
        ending = asyncio.create_task(rag.run("rag_cleanup_old_content"))

        async def waits() -> bool:
            async with worker(rag.database, user.tenant_id) as other:
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
                return bool((await other.execute(text(waiting))).scalar_one())

        await eventually(waits, what="the retention waiting for the document")
    await ending
    assert sorted(rag.blobs()) == before
    rows = await rag.rows(user.tenant_id, "SELECT version FROM document_versions ORDER BY version")
    assert [row.version for row in rows] == [1, 2]
    # What is served by the other one again may go.
    await rag.rows(user.tenant_id, "UPDATE documents SET indexed_version = 2 RETURNING id")
    await rag.run("rag_cleanup_old_content")
    assert len(rag.blobs()) == 1


async def test_file_of_a_removed_version_is_deleted_although_the_process_died_before(
    start_rag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag = await start_rag(versions_kept=1)
    user = rag.user()
    await _versions(rag, user, 3)

    async def die(_self: ObjectBlobs, _keys: Sequence[str]) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as faulty:
        faulty.setattr(ObjectBlobs, "delete", die)
        with pytest.raises(asyncio.CancelledError):
            await rag.run("rag_cleanup_old_content")
    assert len(rag.blobs()) == 3
    rows = await rag.rows(user.tenant_id, "SELECT version FROM document_versions")
    assert [row.version for row in rows] == [3]
    await rag.run("rag_purge")
    assert len(rag.blobs()) == 1
    assert await rag.rows(user.tenant_id, "SELECT 1 FROM dropped_files") == []
