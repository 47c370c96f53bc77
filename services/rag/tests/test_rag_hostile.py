"""What members of a tenant try with the documents of others, and with files of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from rag_rig import ALL_PERMISSIONS, Rag, User
from rag_servers import EICAR, Clamd

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import parse_id
from wireroom_common.principal import set_current_principal
from wireroom_protos.rag.v1 import access_pb2, collections_pb2, processing_pb2, rag_pb2
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.documents_sql import DocumentStore
from wireroom_rag.adapters.steering_sql import SteeringStore
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.usecases.watch import WatchDocument

EDITOR = ALL_PERMISSIONS | {"collections:manage:own", "acl:manage:own"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    server = Clamd(tmp_path_factory.mktemp("clamd"))
    server.start()
    yield server
    server.stop()


async def refusal(rag: Rag, user: User, document_id: str) -> WireroomError:
    set_current_principal(user.principal())
    with pytest.raises(WireroomError) as refused:
        async for _ in rag.documents.GetContent(rag_pb2.GetContentRequest(id=document_id)):
            pass
    return refused.value


async def collected(rag: Rag, user: User, *document_ids: str) -> str:
    set_current_principal(user.principal())
    request = collections_pb2.CreateCollectionRequest(name="own", document_ids=document_ids)
    return str((await rag.collections.CreateCollection(request)).collection.id)


async def readers(rag: Rag, tenant_id: Any) -> list[str]:
    ((found,),) = await rag.rows(tenant_id, "SELECT readers FROM documents")
    return sorted(found)


async def set_access(rag: Rag, user: User, document_id: str, access: rag_pb2.DocumentAccess.ValueType) -> None:
    set_current_principal(user.principal())
    await rag.access.SetDocumentAccess(access_pb2.SetDocumentAccessRequest(document_id=document_id, access=access))


async def test_document_is_not_kept_readable_by_a_collection_its_owner_did_not_choose(rag: Rag) -> None:
    owner = rag.user(permissions=EDITOR)
    snoop = rag.user(tenant_id=owner.tenant_id, permissions=EDITOR)
    document = await rag.upload(owner, "plans.txt", b"Plans.", access=rag_pb2.DOCUMENT_ACCESS_TENANT)
    kept = await collected(rag, owner, document.id)
    theirs = await collected(rag, snoop, document.id)
    shared = await collected(rag, snoop, document.id)
    acl = access_pb2.Acl(collection_id=shared, editor_users=[str(owner.user_id)])
    await rag.access.SetAcl(access_pb2.SetAclRequest(acl=acl))
    await set_access(rag, owner, document.id, rag_pb2.DOCUMENT_ACCESS_COLLECTIONS)
    members = await rag.rows(owner.tenant_id, "SELECT CAST(collection_id AS text) FROM collection_documents")
    # What its owner may fill holds it by the owner's will.
    assert {member for (member,) in members} == {kept, shared}
    set_current_principal(snoop.principal())
    await rag.collections.DeleteCollection(collections_pb2.DeleteCollectionRequest(id=shared))
    assert await readers(rag, owner.tenant_id) == ["manager", f"user:{owner.user_id}"]
    assert (await refusal(rag, snoop, document.id)).kind is ErrorKind.NOT_FOUND
    assert theirs


async def test_file_that_no_scanner_has_seen_goes_to_its_owner_alone(start_rag: Any, clamd: Clamd) -> None:
    clamd.stop()
    rag: Rag = await start_rag(clamd=clamd.address)
    owner = rag.user()
    colleague = rag.user(tenant_id=owner.tenant_id)
    letter = await rag.upload(owner, "letter.txt", EICAR)
    assert (await refusal(rag, colleague, letter.id)).code == "document_not_scanned"
    set_current_principal(owner.principal())
    await rag.processing.CancelDocument(processing_pb2.CancelDocumentRequest(id=letter.id))
    assert (await refusal(rag, colleague, letter.id)).code == "document_not_scanned"
    set_current_principal(owner.principal())
    call = rag.documents.GetContent(rag_pb2.GetContentRequest(id=letter.id))
    assert b"".join([part.data async for part in call]) == EICAR
    clamd.start()
    note = await rag.index(owner, "note.txt", b"A note about larks.")
    assert note.state == rag_pb2.DOCUMENT_STATE_INDEXED
    set_current_principal(colleague.principal())
    call = rag.documents.GetContent(rag_pb2.GetContentRequest(id=note.id))
    assert b"".join([part.data async for part in call]) == b"A note about larks."


async def test_one_tenant_does_not_take_all_places_of_watchers(start_rag: Any) -> None:
    rag: Rag = await start_rag(clamd="/nowhere/clamd.sock")
    watch = WatchDocument(DocumentStore(rag.database), SteeringStore(rag.database), most=4, each=2, draining=lambda: False)

    async def first(user: User) -> Any:
        document = await rag.upload(user, "long.txt", b"It waits for its scanner.")
        scope = Scope(user.tenant_id, user.user_id, frozenset({SourceKind.DOCUMENT}))
        watching = watch(scope, parse_id(document.id, "document"))
        await anext(watching)
        return watching

    greedy, other = rag.user(), rag.user()
    begun = [await first(greedy), await first(greedy)]
    with pytest.raises(WireroomError) as refused:
        await first(greedy)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.UNAVAILABLE, "watchers_too_many")
    begun.append(await first(other))
    await asyncio.gather(*(watching.aclose() for watching in begun))
    begun = [await first(greedy)]
    await asyncio.gather(*(watching.aclose() for watching in begun))
    await watch.stop()


@pytest.mark.parametrize("piece", [64 * 1024, 5 * MIB])
async def test_text_of_one_letter_is_not_unpacked_at_once(tmp_path: Path, piece: int) -> None:
    blobs = ObjectBlobs.in_folder(tmp_path, SystemClock())

    async def letters() -> AsyncIterator[bytes]:
        for _ in range(20 * MIB // piece):
            yield b"a" * piece

    await blobs.write("t/a.zst", letters())
    assert (tmp_path / "t" / "a.zst").stat().st_size < 100_000
    sizes = [len(block) async for block in blobs.read("t/a.zst")]
    assert sum(sizes) == 20 * MIB
    assert max(sizes) <= 2 * MIB
