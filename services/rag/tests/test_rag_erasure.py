"""Erasure against uploads that run at the same time, answers that are asked for again, and what goes to an heir."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from rag_rig import ALL_PERMISSIONS, Rag, User
from sqlalchemy import text

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.rag.v1 import collections_pb2, privacy_pb2, rag_pb2
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.deletion_sql import bury

EDITOR = ALL_PERMISSIONS | {"collections:manage:own"}
_USED = "SELECT owner_id, documents, bytes FROM usage WHERE documents <> 0"


async def erase(
    rag: Rag, user: User, *, whole_tenant: bool = False, to: User | None = None, erasure_id: UUID | None = None
) -> UUID:
    wanted = erasure_id or uuid4()
    event = events_pb2.PrivacyErasureRequested(
        erasure_id=str(wanted),
        user_id="" if whole_tenant else str(user.user_id),
        transfer_to=str(to.user_id) if to else "",
    )
    await rag.deliver(user.tenant_id, event, consumer="rag.erasure")
    return wanted


async def answers(rag: Rag) -> list[events_pb2.PrivacyErasurePartDone]:
    async with rag.database.system() as connection:
        rows = await connection.exec_driver_sql("SELECT data FROM outbox WHERE type = 'privacy.erasure.part_done' ORDER BY id")
        return [events_pb2.PrivacyErasurePartDone.FromString(bytes(row.data)) for row in rows]


async def collection(rag: Rag, user: User, *document_ids: str, **fields: Any) -> str:
    set_current_principal(user.principal())
    request = collections_pb2.CreateCollectionRequest(name="c", document_ids=document_ids, **fields)
    return (await rag.collections.CreateCollection(request)).collection.id


@pytest.mark.parametrize("whole_tenant", [False, True])
async def test_an_upload_that_is_under_way_does_not_stay(rag: Rag, whole_tenant: bool) -> None:  # noqa: FBT001 - a parameter of the test
    user = rag.user(permissions=EDITOR)
    sent, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"The first half of a text, "
        sent.set()
        await go_on.wait()
        yield b"and its second half."

    upload = asyncio.ensure_future(rag.upload(user, "slow.txt", slow()))
    await asyncio.wait_for(sent.wait(), 20)
    await erase(rag, user, whole_tenant=whole_tenant)
    await rag.run("rag_purge")
    assert len(await answers(rag)) == 1
    go_on.set()
    with pytest.raises(WireroomError) as refused:
        await upload
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "owner_erased")
    with pytest.raises(WireroomError, match="owner_erased"):
        await collection(rag, user)
    assert await rag.rows(user.tenant_id, "SELECT 1 FROM documents") == []
    assert rag.blobs() == []


async def test_uploads_beside_an_erasure_are_refused_or_erased(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    uploads = [asyncio.ensure_future(rag.upload(user, f"{number}.txt", f"Text {number}.".encode())) for number in range(12)]
    await erase(rag, user)
    outcomes = await asyncio.gather(*uploads, return_exceptions=True)
    assert all(isinstance(outcome, rag_pb2.Document | WireroomError) for outcome in outcomes), outcomes
    await rag.run("rag_purge")
    assert await rag.rows(user.tenant_id, "SELECT 1 FROM documents") == []
    assert rag.blobs() == []
    (told,) = await answers(rag)
    assert told.counts["documents"] == sum(isinstance(outcome, rag_pb2.Document) for outcome in outcomes)


async def test_who_asks_again_is_told_again_when_all_is_gone(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    await rag.index(user, "a.txt", b"The heron waits at the weir.")
    erasure_id = await erase(rag, user)
    # Nothing is said before everything is gone.
    await erase(rag, user, erasure_id=erasure_id)
    assert await answers(rag) == []
    await rag.run("rag_purge")
    await erase(rag, user, erasure_id=erasure_id)
    first, again = await answers(rag)
    assert first == again
    assert (first.part, first.counts["documents"], bool(first.signature), bool(first.public_key)) == ("rag", 1, True, True)


async def test_the_answer_waits_for_the_files_of_versions_that_were_let_go_before(
    start_rag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag = await start_rag(versions_kept=1)
    user = rag.user(permissions=EDITOR)
    colleague = rag.user(tenant_id=user.tenant_id, permissions=EDITOR)
    for number in range(2):
        await rag.index(user, "a.txt", f"The pelican dives {number} times.".encode())
    really_delete = ObjectBlobs.delete

    with monkeypatch.context() as faulty:
        kept: set[str] = set()

        async def delete(blobs: ObjectBlobs, keys: Sequence[str]) -> None:
            if not kept or kept.intersection(keys):
                kept.update(keys)
                raise OSError("The store of files does not answer.")
            await really_delete(blobs, keys)

        faulty.setattr(ObjectBlobs, "delete", delete)
        await rag.run("rag_cleanup_old_content")
        of_user, of_colleague = await erase(rag, user), await erase(rag, colleague)
        await rag.run("rag_purge")
        assert len(rag.blobs()) == 1
        assert [told.erasure_id for told in await answers(rag)] == [str(of_colleague)]
    await rag.run("rag_purge")
    assert rag.blobs() == []
    assert [told.erasure_id for told in await answers(rag)] == [str(of_colleague), str(of_user)]


async def test_what_others_read_goes_to_the_heir(rag: Rag) -> None:
    leaver = rag.user(permissions=EDITOR)
    heir, reader = rag.user(tenant_id=leaver.tenant_id, permissions=EDITOR), rag.user(tenant_id=leaver.tenant_id)
    shared = await rag.index(leaver, "plan.txt", b"The plan of the harbour.", access=rag_pb2.DOCUMENT_ACCESS_TENANT)
    private = await rag.index(leaver, "diary.txt", b"A page of a diary.", access=rag_pb2.DOCUMENT_ACCESS_PRIVATE)
    by_list = await rag.index(leaver, "list.txt", b"A list of the crew.", access=rag_pb2.DOCUMENT_ACCESS_COLLECTIONS)
    open_one = await collection(rag, leaver, by_list.id, visibility=collections_pb2.COLLECTION_VISIBILITY_TENANT)
    closed_one = await collection(rag, leaver)
    await rag.index(heir, "plan.txt", b"Another plan.")
    await erase(rag, leaver, to=heir)
    await rag.run("rag_purge")

    documents = {
        str(row.id): row for row in await rag.rows(leaver.tenant_id, "SELECT id, owner_id, name, readers FROM documents")
    }
    assert private.id not in documents
    assert {documents[one].owner_id for one in (shared.id, by_list.id)} == {heir.user_id}
    assert documents[shared.id].name.endswith(" plan.txt")
    assert not any(str(leaver.user_id) in token for row in documents.values() for token in row.readers)
    collections = {str(row.id): row.owner_id for row in await rag.rows(leaver.tenant_id, "SELECT id, owner_id FROM collections")}
    assert collections == {open_one: heir.user_id}
    assert closed_one not in collections
    used = {row.owner_id: row for row in await rag.rows(leaver.tenant_id, _USED)}
    assert leaver.user_id not in used
    assert (used[heir.user_id].documents, used[UUID(int=0)].documents) == (3, 3)
    assert used[heir.user_id].bytes == used[UUID(int=0)].bytes
    assert {passage.document_id for passage in await rag.retrieve(reader, "plan of the harbour, list of the crew")} >= {
        shared.id,
        by_list.id,
    }
    (told,) = await answers(rag)
    assert (told.counts["transferred"], told.counts["documents"], told.counts["collections"]) == (3, 1, 1)


async def test_what_is_stored_is_counted_once_for_however_many_documents_go(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR)
    ids = [UUID((await rag.upload(user, f"{number}.txt", b"The heron waits.")).id) for number in range(4)]
    changed = text("SELECT pg_stat_get_xact_tuples_updated(CAST('usage' AS regclass))")
    async with worker(rag.database, user.tenant_id) as connection:
        before = (await connection.execute(changed)).scalar_one()
        await bury(connection, user.tenant_id, ids)
        # The owner's row and the tenant's: a row that is changed ten thousand times in one transaction takes minutes.
        assert (await connection.execute(changed)).scalar_one() - before == 2
    assert await rag.rows(user.tenant_id, _USED) == []


async def test_an_heir_who_is_erased_gets_nothing(rag: Rag) -> None:
    leaver = rag.user(permissions=EDITOR)
    heir = rag.user(tenant_id=leaver.tenant_id, permissions=EDITOR)
    await rag.index(leaver, "plan.txt", b"The plan of the harbour.")
    await erase(rag, heir)
    await erase(rag, leaver, to=heir)
    await rag.run("rag_purge")
    assert await rag.rows(leaver.tenant_id, "SELECT 1 FROM documents") == []


async def test_the_export_holds_what_one_owns(rag: Rag) -> None:
    user = rag.user(permissions=EDITOR | {"privacy:erase:self"})
    colleague = rag.user(tenant_id=user.tenant_id, permissions=EDITOR)
    mine = await rag.index(user, "mine.txt", b"The heron waits at the weir.")
    theirs = await rag.index(colleague, "theirs.txt", b"The otter swims.")
    held = await collection(rag, user, mine.id)
    stub: Any = rag.export
    set_current_principal(user.principal())
    found = [entry async for entry in stub.ExportDocuments(privacy_pb2.ExportDocumentsRequest())]
    assert [(entry.list, entry.document_id, entry.name) for entry in found] == [
        ("documents", mine.id, "mine.txt"),
        ("collections", "", ""),
    ]
    assert held in found[1].json.decode()
    assert theirs.id not in "".join(entry.json.decode() for entry in found)
    set_current_principal(colleague.principal())
    with pytest.raises(WireroomError) as refused:
        [entry async for entry in stub.ExportDocuments(privacy_pb2.ExportDocumentsRequest())]
    assert refused.value.kind is ErrorKind.FORBIDDEN
