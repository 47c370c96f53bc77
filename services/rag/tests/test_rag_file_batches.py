from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from rag_rig import Rag, StartRag, User

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import collections_pb2, rag_pb2
from wireroom_protos.rag.v1 import file_batches_pb2 as messages

PERMISSIONS = frozenset({"docs:read", "docs:write", "collections:manage:own"})
TENANT = collections_pb2.COLLECTION_VISIBILITY_TENANT


async def call(rag: Rag, user: User, name: str, /, **members: Any) -> Any:
    set_current_principal(user.principal())
    return await getattr(rag.batches, name)(getattr(messages, f"{name}Request")(**members))


async def collection(rag: Rag, user: User, **members: Any) -> str:
    set_current_principal(user.principal())
    made = await rag.collections.CreateCollection(collections_pb2.CreateCollectionRequest(name="c", **members))
    return str(made.collection.id)


async def begin(rag: Rag, user: User, collection_id: str, *ids: str, **attributes: Any) -> messages.FileBatch:
    documents = [messages.NewBatchDocument(document_id=given, attributes=json.dumps(attributes).encode()) for given in ids]
    batch: messages.FileBatch = (await call(rag, user, "CreateFileBatch", collection_id=collection_id, documents=documents)).batch
    return batch


def counts(batch: messages.FileBatch) -> tuple[int, int, int, int]:
    return batch.documents_pending, batch.documents_indexed, batch.documents_failed, batch.documents_cancelled


async def members(rag: Rag, user: User, collection_id: str) -> dict[str, Any]:
    set_current_principal(user.principal())
    request = collections_pb2.ListCollectionDocumentsRequest(collection_id=collection_id)
    found = (await rag.collections.ListCollectionDocuments(request)).members
    return {member.document.name: json.loads(member.attributes) for member in found}


async def refused(awaitable: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as caught:
        await awaitable
    return caught.value.kind, caught.value.code


async def test_a_batch_counts_its_documents_by_what_became_of_them(rag: Rag) -> None:
    user = rag.user(permissions=PERMISSIONS)
    good = [await rag.upload(user, f"{number}.txt", f"Text {number} of the batch.".encode()) for number in range(3)]
    bad = await rag.upload(user, "bad.pdf", b"%PDF-1.4 no pdf at all")
    ids = sorted([*(document.id for document in good), bad.id])
    store = await collection(rag, user)
    batch = await begin(rag, user, store, *ids, year=2026)
    assert (sum(counts(batch)), batch.cancelled) == (4, False)
    key = {"collection_id": store, "id": batch.id}

    async def done() -> messages.FileBatch | None:
        found: messages.FileBatch = (await call(rag, user, "GetFileBatch", **key)).batch
        return found if not found.documents_pending else None

    assert counts(await eventually(done, within=30, what="the batch done")) == (0, 3, 1, 0)
    assert all(attributes == {"year": 2026} for attributes in (await members(rag, user, store)).values())
    # Pages by id, and of one status.
    first = await call(rag, user, "ListFileBatchDocuments", **key, page=collections_pb2.IdPage(size=3, ascending=True))
    rest = await call(
        rag,
        user,
        "ListFileBatchDocuments",
        **key,
        page=collections_pb2.IdPage(size=3, ascending=True, after=first.documents[-1].document_id),
    )
    assert ([entry.document_id for page in (first, rest) for entry in page.documents], first.has_more, rest.has_more) == (
        ids,
        True,
        False,
    )
    failed = await call(rag, user, "ListFileBatchDocuments", **key, status=messages.BATCH_DOCUMENT_STATUS_FAILED)
    assert [entry.member.document.name for entry in failed.documents] == ["bad.pdf"]
    # What leaves the collection, or is deleted, counts as cancelled from then on.
    await rag.delete(user, good[0].id)
    set_current_principal(user.principal())
    await rag.collections.RemoveDocument(collections_pb2.RemoveDocumentRequest(collection_id=store, document_id=good[1].id))
    assert counts((await call(rag, user, "GetFileBatch", **key)).batch) == (0, 1, 1, 2)
    gone = await call(rag, user, "ListFileBatchDocuments", **key, status=messages.BATCH_DOCUMENT_STATUS_CANCELLED)
    assert {(entry.document_id, entry.HasField("member")) for entry in gone.documents} == {
        (good[0].id, False),
        (good[1].id, False),
    }


async def test_cancelling_takes_out_what_nobody_has_begun_to_read_and_survives_a_restart(start_rag: StartRag) -> None:
    rag = await start_rag()
    user = rag.user(permissions=PERMISSIONS)
    ready = await rag.index(user, "ready.txt", b"It was read before.")
    waiting = [await rag.index(user, f"{number}.txt", f"Text {number}.".encode()) for number in range(2)]
    # As if nobody had got round to them yet.
    await rag.rows(
        user.tenant_id,
        "UPDATE document_versions SET state = 'received', attempts = 0, lease_token = NULL, leased_until = NULL,"
        " next_attempt_at = now() + interval '1 hour' WHERE document_id = ANY(CAST(:ids AS uuid[])) RETURNING 1",
        ids=[document.id for document in waiting],
    )
    store = await collection(rag, user)
    batch = await begin(rag, user, store, ready.id, *(document.id for document in waiting))
    assert counts(batch) == (2, 1, 0, 0)
    key = {"collection_id": store, "id": batch.id}
    for _ in range(2):
        cancelled = (await call(rag, user, "CancelFileBatch", **key)).batch
        assert (counts(cancelled), cancelled.cancelled) == ((0, 1, 0, 2), True)
    assert list(await members(rag, user, store)) == ["ready.txt"]
    # The files themselves stay.
    assert (await rag.get(user, waiting[0].id)).state == rag_pb2.DOCUMENT_STATE_RECEIVED
    later = await start_rag()
    assert counts((await call(later, user, "GetFileBatch", **key)).batch) == (0, 1, 0, 2)


async def test_a_batch_is_its_owners_and_all_or_nothing(rag: Rag) -> None:
    user = rag.user(permissions=PERMISSIONS)
    colleague = rag.user(tenant_id=user.tenant_id, permissions=PERMISSIONS)
    stranger = rag.user(permissions=PERMISSIONS)
    manager = rag.user(tenant_id=user.tenant_id, permissions=PERMISSIONS | {"collections:manage"})
    mine = (await rag.upload(user, "mine.txt", b"Mine.")).id
    store = await collection(rag, user, visibility=TENANT)
    unknown = (ErrorKind.NOT_FOUND, "document_not_found")
    assert await refused(begin(rag, user, store, mine, str(uuid4()))) == unknown
    assert await members(rag, user, store) == {}
    assert await refused(begin(rag, user, store)) == (ErrorKind.INVALID, "documents_out_of_range")
    assert await refused(begin(rag, user, store, mine, mine)) == (ErrorKind.INVALID, "documents_repeated")
    many = [str(uuid4()) for _ in range(501)]
    assert await refused(begin(rag, user, store, *many)) == (ErrorKind.INVALID, "documents_out_of_range")
    assert (await refused(begin(rag, colleague, store, mine)))[0] is ErrorKind.FORBIDDEN
    assert await refused(begin(rag, stranger, store, mine)) == (ErrorKind.NOT_FOUND, "collection_not_found")

    batch = await begin(rag, user, store, mine)
    key = {"collection_id": store, "id": batch.id}
    for name in ("GetFileBatch", "ListFileBatchDocuments"):
        assert await refused(call(rag, colleague, name, **key)) == (ErrorKind.NOT_FOUND, "file_batch_not_found")
        assert await refused(call(rag, stranger, name, **key)) == (ErrorKind.NOT_FOUND, "collection_not_found")
    assert (await refused(call(rag, colleague, "CancelFileBatch", **key)))[0] is ErrorKind.FORBIDDEN
    assert (await call(rag, manager, "GetFileBatch", **key)).batch.id == batch.id
    # Of another collection there is none.
    other = await collection(rag, user)
    assert await refused(call(rag, user, "GetFileBatch", collection_id=other, id=batch.id)) == (
        ErrorKind.NOT_FOUND,
        "file_batch_not_found",
    )


async def test_attributes_of_each_document_are_its_own_and_another_users_hidden_document_is_not_found(rag: Rag) -> None:
    user = rag.user(permissions=PERMISSIONS)
    colleague = rag.user(tenant_id=user.tenant_id, permissions=PERMISSIONS)
    hidden = await rag.upload(colleague, "hidden.txt", b"Hidden.", access=rag_pb2.DOCUMENT_ACCESS_PRIVATE)
    ids = [(await rag.upload(user, f"{number}.txt", f"Text {number}.".encode())).id for number in range(2)]
    store = await collection(rag, user)
    entries = [
        messages.NewBatchDocument(document_id=given, attributes=json.dumps({"n": number}).encode())
        for number, given in enumerate([*ids, hidden.id])
    ]
    # The hidden one comes last, after the service has worked on the others with rights of its own.
    refusal = await refused(call(rag, user, "CreateFileBatch", collection_id=store, documents=entries))
    assert refusal == (ErrorKind.NOT_FOUND, "document_not_found")
    await call(rag, user, "CreateFileBatch", collection_id=store, documents=entries[:2])
    assert await members(rag, user, store) == {"0.txt": {"n": 0}, "1.txt": {"n": 1}}
