"""Who reads what: access of documents, lists of collections, and what row-level security shows to a query that forgot to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from rag_rig import ALL_PERMISSIONS, Rag, User
from sqlalchemy import text

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_protos.rag.v1 import access_pb2, collections_pb2, rag_pb2
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.domain.scope import Scope, SourceKind

MARKER = "kingfisherxq7"
PRIVATE, TENANT, COLLECTIONS = (
    rag_pb2.DOCUMENT_ACCESS_PRIVATE,
    rag_pb2.DOCUMENT_ACCESS_TENANT,
    rag_pb2.DOCUMENT_ACCESS_COLLECTIONS,
)
EDITOR = ALL_PERMISSIONS | {"collections:manage:own", "acl:manage:own"}


@dataclass
class People:
    """One tenant's owner of everything and those around it."""

    rag: Rag
    owner: User
    analyst: User
    manager: User
    stranger: User

    async def collection(self, **request: Any) -> str:
        set_current_principal(self.owner.principal())
        answer = await self.rag.collections.CreateCollection(collections_pb2.CreateCollectionRequest(name="birds", **request))
        return str(answer.collection.id)

    async def share(self, collection_id: str, **acl: Any) -> access_pb2.Acl:
        set_current_principal(self.owner.principal())
        wanted = access_pb2.Acl(collection_id=collection_id, **acl)
        return (await self.rag.access.SetAcl(access_pb2.SetAclRequest(acl=wanted))).acl

    async def sees(self, user: User, document_id: str, citation_id: str, span: rag_pb2.Span) -> set[str]:
        """By which ways anything of the document comes out."""
        ways = set()
        set_current_principal(user.principal())
        for name, call in self._calls(document_id, citation_id).items():
            if await _found(call):
                ways.add(name)
        passages = await self.rag.retrieve(user, f"{MARKER} river")
        if any(MARKER in passage.text for passage in passages):
            ways.add("retrieve")
        if any(citation.verified for citation in await self.rag.verify(user, span)):
            ways.add("verify")
        set_current_principal(user.principal())
        listed = await self.rag.documents.ListDocuments(rag_pb2.ListDocumentsRequest())
        if document_id in {entry.id for entry in listed.documents}:
            ways.add("list")
        return ways

    def _calls(self, document_id: str, citation_id: str) -> dict[str, Callable[[], Awaitable[Any]]]:
        async def content() -> None:
            async for _ in self.rag.documents.GetContent(rag_pb2.GetContentRequest(id=document_id)):
                pass

        return {
            "get": lambda: self.rag.documents.GetDocument(rag_pb2.GetDocumentRequest(id=document_id)),
            "content": content,
            "versions": lambda: self.rag.access.ListVersions(access_pb2.ListVersionsRequest(document_id=document_id)),
            "resolve": lambda: self.rag.retrieval.ResolveCitation(rag_pb2.ResolveCitationRequest(citation_id=citation_id)),
        }


EVERYTHING = {"get", "content", "versions", "resolve", "retrieve", "verify", "list"}


async def _found(call: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await call()
    except WireroomError as error:
        if error.kind is not ErrorKind.NOT_FOUND:
            raise
        return False
    return True


@pytest_asyncio.fixture
async def people(rag: Rag) -> AsyncIterator[People]:
    owner = rag.user(permissions=EDITOR)
    yield People(
        rag,
        owner,
        rag.user(tenant_id=owner.tenant_id, permissions=EDITOR, roles=frozenset({"Analyst"})),
        rag.user(tenant_id=owner.tenant_id, permissions=EDITOR | {"collections:manage", "acl:manage"}),
        rag.user(permissions=EDITOR | {"collections:manage"}),
    )


async def _cited(people: People, **head: Any) -> tuple[str, str, rag_pb2.Span]:
    document = await people.rag.index(people.owner, f"{uuid4().hex}.txt", f"The {MARKER} dives into the river.".encode(), **head)
    assert document.state == rag_pb2.DOCUMENT_STATE_INDEXED
    passage = next(p for p in await people.rag.retrieve(people.owner, f"{MARKER} river") if p.document_id == document.id)
    span = rag_pb2.Span(
        document_id=document.id, version=passage.version, start=passage.start, end=passage.end, quote=passage.text
    )
    citation = (await people.rag.verify(people.owner, span))[0]
    assert citation.verified
    return document.id, citation.citation_id, span


async def test_access_decides_by_every_way_and_at_once(people: People) -> None:
    collection_id = await people.collection()
    document_id, citation_id, span = await _cited(people, collection_id=collection_id)
    whole = (document_id, citation_id, span)
    reader = people.analyst

    async def expect(user: User, ways: set[str]) -> None:
        assert await people.sees(user, *whole) == ways

    # A private collection: its owner and the managers.
    await expect(people.owner, EVERYTHING)
    await expect(people.manager, EVERYTHING)
    for user in (reader, people.stranger):
        await expect(user, set())
    # Granted to the user, to its role, to everybody; and taken away again: by the next query.
    for acl in ({"reader_users": [str(reader.user_id)]}, {"reader_roles": ["Analyst"]}, {"public": True}):
        await people.share(collection_id, **acl)
        await expect(reader, EVERYTHING)
        await people.share(collection_id)
        await expect(reader, set())
    # Of the same tenant without the role; and of another with it.
    await people.share(collection_id, reader_roles=["Analyst"])
    await expect(replace(reader, user_id=uuid4(), roles=frozenset({"Viewer"})), set())
    await expect(replace(people.stranger, roles=frozenset({"Analyst"})), set())
    # The document's own word goes before the collection's.
    await _set_access(people, document_id, PRIVATE)
    await expect(reader, set())
    await _set_access(people, document_id, TENANT)
    await expect(reader, EVERYTHING)
    await _set_access(people, document_id, COLLECTIONS)
    await expect(reader, EVERYTHING)
    set_current_principal(people.owner.principal())
    await people.rag.collections.DeleteCollection(collections_pb2.DeleteCollectionRequest(id=collection_id))
    await expect(reader, set())
    await expect(people.owner, EVERYTHING)


async def test_members_and_counts_show_what_the_caller_reads(people: People) -> None:
    hidden = await people.rag.upload(people.owner, "hidden.txt", b"hidden", access=PRIVATE)
    shown = await people.rag.upload(people.owner, "shown.txt", b"shown", access=TENANT)
    collection_id = await people.collection(
        visibility=collections_pb2.COLLECTION_VISIBILITY_TENANT, document_ids=[hidden.id, shown.id]
    )
    for user, expected in ((people.owner, {hidden.id, shown.id}), (people.analyst, {shown.id})):
        set_current_principal(user.principal())
        request = collections_pb2.ListCollectionDocumentsRequest(collection_id=collection_id)
        members = (await people.rag.collections.ListCollectionDocuments(request)).members
        assert {member.document.id for member in members} == expected
        got = (await people.rag.collections.GetCollection(collections_pb2.GetCollectionRequest(id=collection_id))).collection
        counted = got.documents_pending + got.documents_indexed + got.documents_rejected + got.documents_failed
        assert counted == len(expected)
        assert got.size == sum(len(name) for name in (b"hidden", b"shown")[len(expected) == 1 :])
        request = access_pb2.GetCollectionLimitsRequest(collection_id=collection_id)
        assert (await people.rag.access.GetCollectionLimits(request)).limits.documents == len(expected)


async def test_only_who_may_share_does(people: People) -> None:
    collection_id = await people.collection()
    document = await people.rag.upload(people.owner, "a.txt", b"a text", collection_id=collection_id)
    await people.share(collection_id, reader_users=[str(people.analyst.user_id)])
    set_current_principal(people.analyst.principal())
    own = (await people.rag.collections.CreateCollection(collections_pb2.CreateCollectionRequest(name="own"))).collection
    acl = access_pb2.Acl(collection_id=collection_id, public=True)
    add = collections_pb2.AddDocumentRequest
    for call in (
        people.rag.access.SetAcl(access_pb2.SetAclRequest(acl=acl)),
        people.rag.access.SetDocumentAccess(access_pb2.SetDocumentAccessRequest(document_id=document.id, access=TENANT)),
        # Into a collection of one's own, it would be everybody's whom that one is shared with.
        people.rag.collections.AddDocument(add(collection_id=own.id, document_id=document.id)),
        people.rag.collections.RemoveDocument(
            collections_pb2.RemoveDocumentRequest(collection_id=collection_id, document_id=document.id)
        ),
    ):
        with pytest.raises(WireroomError) as refused:
            await call
        assert refused.value.kind is ErrorKind.FORBIDDEN
    mine = await people.rag.upload(people.analyst, "b.txt", b"b text")
    with pytest.raises(WireroomError, match="owner or an administrator"):
        await people.rag.upload(people.analyst, "c.txt", b"c text", collection_id=collection_id)
    # An editor puts in and takes out, and changes nothing else.
    await people.share(collection_id, editor_roles=["Analyst"])
    set_current_principal(people.analyst.principal())
    await people.rag.collections.AddDocument(add(collection_id=collection_id, document_id=mine.id))
    remove = collections_pb2.RemoveDocumentRequest(collection_id=collection_id, document_id=document.id)
    await people.rag.collections.RemoveDocument(remove)
    with pytest.raises(WireroomError) as refused:
        await people.rag.access.SetAcl(access_pb2.SetAclRequest(acl=acl))
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_changes_of_two_lists_at_once_end_in_their_union(people: People) -> None:
    collections = [await people.collection() for _ in range(4)]
    document = await people.rag.upload(people.owner, "a.txt", b"a text", access=COLLECTIONS)
    users = [uuid4() for _ in collections]
    principal = people.owner.principal()

    async def add_and_share(collection_id: str, user: UUID) -> None:
        set_current_principal(principal)
        add = collections_pb2.AddDocumentRequest(collection_id=collection_id, document_id=document.id)
        share = access_pb2.SetAclRequest(acl=access_pb2.Acl(collection_id=collection_id, reader_users=[str(user)]))
        await asyncio.gather(people.rag.collections.AddDocument(add), people.rag.access.SetAcl(share))

    await asyncio.gather(*(add_and_share(*pair) for pair in zip(collections, users, strict=True)))

    (row,) = await people.rag.rows(people.owner.tenant_id, "SELECT readers FROM documents")
    assert set(row.readers) == {"manager", f"user:{people.owner.user_id}", *(f"user:{user}" for user in users)}


async def test_database_shows_nothing_to_who_does_not_say_who_reads(people: People) -> None:
    document_id, _, _ = await _cited(people, access=PRIVATE)
    tenant_id = people.owner.tenant_id
    tables = ("documents", "document_versions", "chunks", "posting_blocks")
    kinds = frozenset(SourceKind)
    colleague = Scope(tenant_id, uuid4(), kinds, roles=frozenset({"Analyst"}))
    owner = Scope(tenant_id, people.owner.user_id, kinds)
    for table in tables:
        statement = text(f"SELECT count(*) FROM {table}")  # noqa: S608 - a constant of this test
        async with people.rag.database.tenant(tenant_id) as connection:
            assert (await connection.execute(statement)).scalar_one() == 0, table
        async with scoped(people.rag.database, owner) as connection:
            assert (await connection.execute(statement)).scalar_one() > 0, table
        async with scoped(people.rag.database, colleague) as connection:
            found = (await connection.execute(statement)).scalar_one()
            # Postings are words without a text: they lead nowhere but through a chunk.
            assert found == 0 or table == "posting_blocks", table
    async with scoped(people.rag.database, colleague) as connection:
        for hidden in ("chunks", "indexed_stems"):
            # Nor does saying which documents one means.
            meant = text("SELECT set_config('wireroom.documents', :id, true)")
            await connection.execute(meant, {"id": document_id})
            assert (await connection.execute(text(f"SELECT count(*) FROM {hidden}"))).scalar_one() == 0  # noqa: S608 - a constant of this test
        # A role of another name is no way round the separator.
    forged = Scope(tenant_id, uuid4(), kinds, roles=frozenset({f"x\x1fuser:{people.owner.user_id}"}))
    with pytest.raises(ValueError, match="role"):
        scoped(people.rag.database, forged)
    assert document_id


async def _set_access(people: People, document_id: str, access: rag_pb2.DocumentAccess.ValueType) -> None:
    set_current_principal(people.owner.principal())
    request = access_pb2.SetDocumentAccessRequest(document_id=document_id, access=access)
    changed = (await people.rag.access.SetDocumentAccess(request)).document
    assert changed.access == access


async def test_list_that_names_nobody_is_refused_and_changes_nothing(people: People) -> None:
    collection_id = await people.collection()
    for acl, code in (
        ({"reader_roles": [f"r{n}" for n in range(101)]}, "acl_too_long"),
        ({"editor_roles": ["a\x1fb"]}, "acl_role_invalid"),
        ({"editor_roles": [""]}, "acl_role_invalid"),
        ({"reader_users": ["ann"]}, "id_malformed"),
    ):
        with pytest.raises(WireroomError) as refused:
            await people.share(collection_id, **acl)
        assert refused.value.code == code
    got = await people.rag.access.GetAcl(access_pb2.GetAclRequest(collection_id=collection_id))
    assert (got.acl.version, list(got.acl.reader_users), list(got.acl.editor_roles)) == (1, [], [])
