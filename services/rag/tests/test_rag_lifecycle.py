"""Quotas, versions, deletion in steps, erasure with a receipt, retention."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from rag_rig import ALL_PERMISSIONS, Rag, StartRag, User
from sqlalchemy import text

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.rag.v1 import access_pb2, collections_pb2, rag_pb2
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.deletion_sql import DeletionStore
from wireroom_rag.adapters.index_sql import remove_chunks
from wireroom_rag.domain.erasure import item_hash, items_digest
from wireroom_rag.domain.quota import Quota, Stored, require_room

EDITOR = ALL_PERMISSIONS | {"collections:manage:own", "acl:manage:own"}
MARKER = "kingfisherxq7"
TEXT = f"The {MARKER} dives into the river.".encode()


async def _collection(rag: Rag, user: User, **request: Any) -> str:
    set_current_principal(user.principal())
    made = await rag.collections.CreateCollection(collections_pb2.CreateCollectionRequest(name="birds", **request))
    return str(made.collection.id)


async def _limit(rag: Rag, user: User, collection_id: str, **limits: int) -> access_pb2.CollectionLimits:
    set_current_principal(user.principal())
    request = access_pb2.SetCollectionLimitsRequest(collection_id=collection_id, limits=access_pb2.CollectionLimits(**limits))
    return (await rag.access.SetCollectionLimits(request)).limits


async def _left(rag: Rag, tenant_id: UUID) -> dict[str, int]:
    """Rows of the tenant in every table that has something of documents."""
    tables = (
        "documents",
        "document_versions",
        "chunks",
        "posting_blocks",
        "indexed_stems",
        "collection_documents",
        "erasure_items",
    )
    return {table: len(await rag.rows(tenant_id, f"SELECT 1 FROM {table}")) for table in tables}  # noqa: S608 - constants


def _metric(rag: Rag, name: str, **labels: str) -> float | None:
    return rag.infra.registry.get_sample_value(name, labels)


@given(documents=st.integers(0, 5), size=st.integers(0, 5), most=st.integers(0, 5), most_bytes=st.integers(0, 5))
def test_quota_refuses_exactly_what_is_over_it(documents: int, size: int, most: int, most_bytes: int) -> None:
    over = (most and documents > most) or (most_bytes and size > most_bytes)
    if not over:
        require_room("user", Stored(documents, size), Quota(most, most_bytes))
        return
    with pytest.raises(WireroomError) as refused:
        require_room("user", Stored(documents, size), Quota(most, most_bytes))
    assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "document_quota_exceeded")


async def test_concurrent_uploads_cannot_exceed_a_quota(start_rag: StartRag) -> None:
    rag = await start_rag(user_max_documents=3, tenant_max_bytes=1000)
    user = rag.user(permissions=EDITOR)
    colleague = rag.user(tenant_id=user.tenant_id)
    made = await asyncio.gather(*(rag.upload(user, f"{n}.txt", b"x" * 100) for n in range(8)), return_exceptions=True)
    refused = [entry for entry in made if isinstance(entry, WireroomError)]
    assert len(made) - len(refused) == 3
    assert {entry.code for entry in refused} == {"document_quota_exceeded"}
    assert "for the user, which may have 3" in refused[0].detail
    # The tenant's bytes count everybody's files, and every kept version.
    await rag.upload(colleague, "a.txt", b"y" * 600)
    with pytest.raises(WireroomError, match="1001 bytes for the tenant"):
        await rag.upload(colleague, "a.txt", b"z" * 101)
    assert len(rag.blobs()) == 4
    # What was deleted makes room.
    document = next(entry for entry in made if isinstance(entry, rag_pb2.Document))
    await rag.delete(user, document.id)
    await rag.upload(user, "again.txt", b"x" * 100)
    usage = await rag.rows(user.tenant_id, "SELECT owner_id, documents, bytes FROM usage")
    assert {(row.owner_id, row.documents, row.bytes) for row in usage} == {
        (UUID(int=0), 4, 900),
        (user.user_id, 3, 300),
        (colleague.user_id, 1, 600),
    }


async def test_collection_has_a_quota_of_its_own(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    manager = rag.user(tenant_id=user.tenant_id, permissions=EDITOR | {"collections:manage"})
    collection_id = await _collection(rag, user)
    with pytest.raises(WireroomError, match="Only an administrator"):
        await _limit(rag, user, collection_id, max_documents=2)
    limits = await _limit(rag, manager, collection_id, max_documents=2, max_bytes=250)
    assert (limits.max_documents, limits.default_max_documents) == (2, 100_000)
    made = await asyncio.gather(
        *(rag.upload(user, f"{n}.txt", b"x" * 100, collection_id=collection_id) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(entry, rag_pb2.Document) for entry in made) == 2
    other = await rag.upload(user, "other.txt", b"x")
    set_current_principal(user.principal())
    with pytest.raises(WireroomError, match="3 documents for the collection, which may have 2"):
        await rag.collections.AddDocument(collections_pb2.AddDocumentRequest(collection_id=collection_id, document_id=other.id))
    limits = (await rag.access.GetCollectionLimits(access_pb2.GetCollectionLimitsRequest(collection_id=collection_id))).limits
    assert (limits.documents, limits.bytes) == (2, 200)


async def test_new_version_needs_room_in_every_collection_that_its_owner_fills(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    colleague = rag.user(tenant_id=user.tenant_id, permissions=EDITOR)
    manager = rag.user(tenant_id=user.tenant_id, permissions=EDITOR | {"collections:manage"})
    document = await rag.upload(user, "a.txt", b"x" * 100)
    collections = [await _collection(rag, user), await _collection(rag, user), await _collection(rag, colleague)]
    for owner, collection_id in zip((user, user, colleague), collections, strict=True):
        set_current_principal(owner.principal())
        await rag.collections.AddDocument(
            collections_pb2.AddDocumentRequest(collection_id=collection_id, document_id=document.id)
        )
    # Another's collection is full by it, and keeps its owner from nothing.
    await _limit(rag, manager, collections[2], max_bytes=100)
    await _limit(rag, manager, collections[1], max_bytes=150)
    with pytest.raises(WireroomError, match="160 bytes for the collection, which may have 150"):
        await rag.upload(user, "a.txt", b"y" * 60)
    with pytest.raises(WireroomError, match="160 bytes for the collection, which may have 150"):
        await rag.upload(user, "a.txt", b"y" * 60, collection_id=collections[0])
    assert len(rag.blobs()) == 1
    assert (await rag.upload(user, "a.txt", b"y" * 50)).version == 2
    other = await rag.upload(colleague, "b.txt", b"z")
    set_current_principal(colleague.principal())
    with pytest.raises(WireroomError, match="151 bytes for the collection, which may have 100"):
        await rag.collections.AddDocument(collections_pb2.AddDocumentRequest(collection_id=collections[2], document_id=other.id))


async def test_old_versions_resolve_until_retention_ends_them(start_rag: StartRag) -> None:
    rag = await start_rag(versions_kept=2)
    user = rag.user()
    citations = []
    for number in range(4):
        document = await rag.index(user, "a.txt", f"The {MARKER} dives {number} times.".encode())
        (passage,) = await rag.retrieve(user, MARKER)
        span = rag_pb2.Span(document_id=document.id, version=passage.version, start=0, end=passage.end, quote=passage.text)
        citations.append((await rag.verify(user, span))[0].citation_id)

    async def versions() -> list[tuple[int, bool]]:
        set_current_principal(user.principal())
        listed = await rag.access.ListVersions(access_pb2.ListVersionsRequest(document_id=document.id))
        return [(entry.version, entry.served) for entry in listed.versions]

    assert await versions() == [(4, True), (3, False), (2, False), (1, False)]
    assert "dives 0 times" in (await rag.resolve(user, citations[0])).text
    await rag.run("rag_cleanup_old_content")
    assert await versions() == [(4, True), (3, False)]
    assert len(rag.blobs()) == 2
    assert _metric(rag, "wireroom_rag_retention_ended_total", kind="version") == 2
    with pytest.raises(WireroomError) as gone:
        await rag.resolve(user, citations[0])
    assert gone.value.kind is ErrorKind.NOT_FOUND
    assert "dives 2 times" in (await rag.resolve(user, citations[2])).text


async def test_collection_with_a_term_lets_its_own_documents_go(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    collection_id, other_id = await _collection(rag, user), await _collection(rag, user)
    only = await rag.upload(user, "only.txt", b"only here", collection_id=collection_id)
    both = await rag.upload(user, "both.txt", b"in both", collection_id=collection_id)
    shared = await rag.upload(user, "shared.txt", b"for all", access=rag_pb2.DOCUMENT_ACCESS_TENANT, collection_id=collection_id)
    young = await rag.upload(user, "young.txt", b"young", collection_id=collection_id)
    set_current_principal(user.principal())
    await rag.collections.AddDocument(collections_pb2.AddDocumentRequest(collection_id=other_id, document_id=both.id))
    await _limit(rag, user, collection_id, retention_days=30, expires_days=5)
    async with worker(rag.database, user.tenant_id) as connection:
        aged = text("UPDATE document_versions SET created_at = now() - interval '31 days' WHERE document_id <> :young")
        await connection.execute(aged, {"young": young.id})
    await rag.run("rag_cleanup_old_content")
    set_current_principal(user.principal())
    listed = await rag.documents.ListDocuments(rag_pb2.ListDocumentsRequest())
    assert {entry.id for entry in listed.documents} == {both.id, shared.id, young.id}
    members = await rag.rows(user.tenant_id, "SELECT collection_id, document_id FROM collection_documents")
    assert {(str(row.collection_id), str(row.document_id)) for row in members} == {(collection_id, young.id), (other_id, both.id)}
    assert only.id not in {entry.id for entry in listed.documents}
    # Unused for longer than it says: the collection goes, the documents stay.
    async with worker(rag.database, user.tenant_id) as connection:
        unused = text("UPDATE collections SET last_active_at = now() - interval '6 days' WHERE id = :id")
        await connection.execute(unused, {"id": collection_id})
    await rag.run("rag_cleanup_old_content")
    assert [str(row.id) for row in await rag.rows(user.tenant_id, "SELECT id FROM collections")] == [other_id]
    assert (await rag.get(user, young.id)).id == young.id


class _FaultError(Exception):
    pass


@pytest.mark.parametrize("step", ["remove_index", "blobs", "delete", "remove"])
async def test_interrupted_deletion_is_over_for_readers_and_finished_later(
    rag: Rag, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    user = rag.user()
    document = await rag.index(user, "a.txt", TEXT)

    async def fail(*_args: Any) -> None:
        raise _FaultError

    with monkeypatch.context() as faulty:
        faulty.setattr(ObjectBlobs if step == "delete" else DeletionStore, step, fail)
        await rag.delete(user, document.id)
        assert await rag.retrieve(user, MARKER) == []
        with pytest.raises(WireroomError) as gone:
            await rag.get(user, document.id)
        assert gone.value.kind is ErrorKind.NOT_FOUND
        # The name is free again; the new document is another one.
        again = await rag.upload(user, "a.txt", TEXT)
        assert again.id != document.id
        await rag.delete(user, again.id)
        await rag.run("rag_purge")
        assert (await _left(rag, user.tenant_id))["documents"] == 2
        async with worker(rag.database, user.tenant_id) as connection:
            await connection.execute(text("UPDATE documents SET deleted_at = now() - interval '2 minutes'"))
        await rag.run("rag_orphan_sweep")
        assert _metric(rag, "wireroom_rag_orphans", kind="document") == 2
    await rag.run("rag_purge")
    await rag.run("rag_orphan_sweep")
    assert _metric(rag, "wireroom_rag_orphans", kind="document") == 0
    assert set((await _left(rag, user.tenant_id)).values()) == {0}
    assert rag.blobs() == []
    (statistics,) = await rag.rows(user.tenant_id, "SELECT sum(chunks) AS chunks, sum(terms) AS terms FROM index_statistics")
    assert (statistics.chunks, statistics.terms) == (0, 0)


async def test_file_that_cannot_be_deleted_is_counted_until_it_is(start_rag: StartRag, monkeypatch: pytest.MonkeyPatch) -> None:
    rag = await start_rag()
    path = rag.folder / "rag" / "blobs" / str(uuid4()) / "lost"
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT)
    old = path.stat().st_mtime - timedelta(hours=2).total_seconds()
    os.utime(path, (old, old))

    async def fail(_self: ObjectBlobs, _keys: Sequence[str]) -> None:
        raise OSError

    with monkeypatch.context() as faulty:
        faulty.setattr(ObjectBlobs, "delete", fail)
        await rag.run("rag_orphan_sweep")
        assert _metric(rag, "wireroom_rag_orphans", kind="file") == 1
    await rag.run("rag_orphan_sweep")
    assert _metric(rag, "wireroom_rag_orphans", kind="file") == 0
    assert rag.blobs() == []


async def test_erased_user_leaves_nothing_but_a_receipt_that_verifies(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    colleague = rag.user(tenant_id=user.tenant_id, permissions=EDITOR | {"privacy:erase:tenant"})
    first = await rag.index(user, "a.txt", TEXT)
    second = await rag.index(user, "a.txt", TEXT + b" Twice.")
    kept = await rag.index(colleague, "b.txt", b"The heron waits.", access=rag_pb2.DOCUMENT_ACCESS_COLLECTIONS)
    mine, theirs = await _collection(rag, user), await _collection(rag, colleague, document_ids=[kept.id])
    set_current_principal(colleague.principal())
    acl = access_pb2.Acl(collection_id=theirs, reader_users=[str(user.user_id)])
    await rag.access.SetAcl(access_pb2.SetAclRequest(acl=acl))

    await rag.deliver(user.tenant_id, events_pb2.AuthUserDeleted(user_id=str(user.user_id)), consumer="rag.erasure")
    # Before anything is removed, nobody finds it.
    assert [passage.document_id for passage in await rag.retrieve(colleague, MARKER)] in ([], [kept.id])
    await rag.run("rag_purge")

    set_current_principal(colleague.principal())
    (receipt,) = (await rag.receipts.ListReceipts(access_pb2.ListReceiptsRequest())).receipts
    Ed25519PublicKey.from_public_bytes(base64.b64decode(receipt.public_key)).verify(
        base64.b64decode(receipt.signature), receipt.content.encode()
    )
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(base64.b64decode(receipt.public_key)).verify(
            base64.b64decode(receipt.signature), receipt.content.replace('"documents":1', '"documents":2').encode()
        )
    told = json.loads(receipt.content)
    items = [item_hash(UUID(first.id), 1, first.sha256), item_hash(UUID(first.id), 2, second.sha256)]
    assert told["items"] == sorted(items)
    assert told["items_sha256"] == items_digest(items)
    assert told["subject"] == f"user:{user.user_id}"
    size = first.size + second.size
    assert told["counts"] == {
        **dict.fromkeys(("articles", "transferred"), 0),
        "documents": 1,
        "versions": 2,
        "chunks": 1,
        "blobs": 2,
        "bytes": size,
        "collections": 1,
        "grants": 1,
    }
    assert [row.id for row in await rag.rows(user.tenant_id, "SELECT id FROM documents")] == [UUID(kept.id)]
    assert mine not in {str(row.id) for row in await rag.rows(user.tenant_id, "SELECT id FROM collections")}
    (readers,) = await rag.rows(user.tenant_id, "SELECT readers FROM documents")
    assert f"user:{user.user_id}" not in readers.readers
    assert len(rag.blobs()) == 1
    assert not any(
        MARKER.encode() in path.read_bytes() for path in rag.folder.rglob("*") if path.is_file() and "model" not in str(path)
    )
    assert "privacy.erasure.part_done" in await rag.events()
    # Repeated, it changes nothing; without the right, nobody reads it.
    await rag.run("rag_purge")
    assert len((await rag.receipts.ListReceipts(access_pb2.ListReceiptsRequest())).receipts) == 1
    set_current_principal(user.principal())
    with pytest.raises(WireroomError) as refused:
        await rag.receipts.GetReceipt(access_pb2.GetReceiptRequest(id=receipt.id))
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_erased_tenant_keeps_no_row_and_no_file(rag: Rag) -> None:
    user, neighbour = rag.user(permissions=EDITOR), rag.user()
    await rag.index(user, "a.txt", TEXT)
    await _collection(rag, user)
    other = await rag.index(neighbour, "a.txt", TEXT)
    erasure_id = uuid4()
    event = events_pb2.PrivacyErasureRequested(erasure_id=str(erasure_id))
    await rag.deliver(user.tenant_id, event, consumer="rag.erasure")
    await rag.run("rag_purge")
    assert set((await _left(rag, user.tenant_id)).values()) == {0}
    assert await rag.rows(user.tenant_id, "SELECT 1 FROM collections") == []
    (row,) = await rag.rows(user.tenant_id, "SELECT id, receipt FROM erasures")
    assert row.id == erasure_id
    assert json.loads(row.receipt)["subject"] == "tenant"
    assert [passage.document_id for passage in await rag.retrieve(neighbour, MARKER)] == [other.id]


async def test_articles_leave_the_index_after_their_days(start_rag: StartRag) -> None:
    rag = await start_rag(article_days=30)
    tenant_id = uuid4()
    async with worker(rag.database, tenant_id) as connection:
        for days in (10, 40):
            await connection.execute(
                text(
                    "INSERT INTO documents (tenant_id, id, kind, feed_id, name, latest_version, created_at)"
                    " VALUES (:tenant_id, gen_random_uuid(), 'article', gen_random_uuid(), 'a', 1, now() - make_interval(days => :days))"
                ),
                {"tenant_id": tenant_id, "days": days},
            )
        await remove_chunks(connection, tenant_id, [])
    await rag.run("rag_cleanup_old_content")
    (row,) = await rag.rows(tenant_id, "SELECT created_at > now() - interval '11 days' AS young FROM documents")
    assert row.young
