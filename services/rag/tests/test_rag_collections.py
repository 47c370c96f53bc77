from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_protos.rag.v1 import collections_pb2 as messages
from wireroom_protos.rag.v1 import rag_pb2
from wireroom_rag.adapters import search_scope_sql
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.domain.collection import Members, notes
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.domain.member_filter import member_filter
from wireroom_rag.domain.scope import Scope, SourceKind

PERMISSIONS = frozenset({"docs:read", "docs:write", "news:read", "collections:manage:own"})
TENANT, PRIVATE = messages.COLLECTION_VISIBILITY_TENANT, messages.COLLECTION_VISIBILITY_PRIVATE
NOBODY_KNOWS = str(uuid4())


@dataclass(frozen=True)
class Hands:
    """A user's calls of `CollectionService`."""

    rag: Any
    user: Any

    async def call(self, name: str, /, **members: Any) -> Any:
        set_current_principal(self.user.principal())
        return await getattr(self.rag.collections, name)(getattr(messages, f"{name}Request")(**members))

    async def make(self, *document_ids: str, **members: Any) -> str:
        made = await self.call("CreateCollection", document_ids=document_ids, **members)
        return str(made.collection.id)

    async def names(self, **page: Any) -> list[str]:
        answer = await self.call("ListCollections", page=messages.IdPage(**page))
        return [collection.name for collection in answer.collections]

    async def members(self, collection_id: str, **members: Any) -> list[str]:
        answer = await self.call("ListCollectionDocuments", collection_id=collection_id, **members)
        return [member.document.name for member in answer.members]

    async def found(self, *collections: str, query: str = "kingfisher", **members: Any) -> set[str]:
        """The titles that a search finds."""
        return {passage.title for passage in await self.rag.retrieve(self.user, query, collection_ids=collections, **members)}

    async def index(self, name: str, content: str) -> str:
        return str((await self.rag.index(self.user, name, content.encode())).id)


@pytest.fixture
def hands(rag: Any) -> Callable[..., Hands]:
    return lambda **fields: Hands(rag, rag.user(**{"permissions": PERMISSIONS, **fields}))


async def refused(attempt: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as caught:
        await attempt
    return caught.value.kind, caught.value.code


async def test_a_collection_from_its_making_to_its_end(rag: Any, hands: Callable[..., Hands]) -> None:
    ann = hands()
    blue, grey = await ann.index("blue.txt", "The kingfisher is blue."), await ann.index("grey.txt", "The heron is grey.")
    made = (
        await ann.call(
            "CreateCollection",
            name=" Birds ",
            description="What flies",
            document_ids=[blue, blue],
            metadata=b'{"topic": "birds"}',
        )
    ).collection
    assert (made.name, made.visibility, made.owner_id) == ("Birds", PRIVATE, str(ann.user.user_id))
    assert (made.documents_indexed, made.documents_pending, made.size) == (1, 0, 23)
    assert json.loads(made.metadata) == {"topic": "birds"}
    for attributes in (b"", b'{"year": 2024, "good": true}'):
        added = (await ann.call("AddDocument", collection_id=made.id, document_id=grey, attributes=attributes)).member
    assert json.loads(added.attributes) == {"year": 2024, "good": True}
    assert await ann.members(made.id) == ["grey.txt", "blue.txt"]
    assert await ann.members(made.id, states=[rag_pb2.DOCUMENT_STATE_FAILED]) == []
    assert await ann.members(made.id, document_ids=[blue]) == ["blue.txt"]
    changed = (await ann.call("UpdateCollection", id=made.id, name="Fowl", visibility=TENANT)).collection
    assert (changed.name, changed.description, changed.visibility, changed.size) == ("Fowl", "What flies", TENANT, 41)
    await ann.call("RemoveDocument", collection_id=made.id, document_id=blue)
    gone = ann.call("GetCollectionDocument", collection_id=made.id, document_id=blue)
    assert await refused(gone) == (ErrorKind.NOT_FOUND, "document_not_found")
    await rag.delete(ann.user, grey)
    assert await ann.members(made.id) == []
    await ann.call("DeleteCollection", id=made.id)
    assert await refused(ann.call("GetCollection", id=made.id)) == (ErrorKind.NOT_FOUND, "collection_not_found")
    assert (await rag.get(ann.user, blue)).name == "blue.txt"
    assert await rag.rows(ann.user.tenant_id, "SELECT 1 FROM collections UNION ALL SELECT 1 FROM collection_documents") == []
    told = [name for name in await rag.events() if name.startswith(("rag.collection", "audit"))]
    assert told == [
        "rag.collection.created",
        "audit.recorded",
        "rag.collection.document_added",
        "rag.collection.document_added",
        "rag.collection.updated",
        "audit.recorded",
        "rag.collection.document_removed",
        "audit.recorded",
        "rag.collection.deleted",
        "audit.recorded",
    ]


def reads(who: Hands, collection_id: str, document_id: str) -> list[Any]:
    return [
        who.call("GetCollection", id=collection_id),
        who.members(collection_id),
        who.call("GetCollectionDocument", collection_id=collection_id, document_id=document_id),
        who.found(collection_id),
    ]


def writes(who: Hands, collection_id: str, document_id: str) -> list[Any]:
    return [
        who.call("UpdateCollection", id=collection_id, name="taken"),
        who.call("AddDocument", collection_id=collection_id, document_id=document_id),
        who.call("RemoveDocument", collection_id=collection_id, document_id=document_id),
        who.call("DeleteCollection", id=collection_id),
    ]


async def test_who_sees_and_changes_a_collection(hands: Callable[..., Hands]) -> None:
    ann = hands()
    tenant = {"tenant_id": ann.user.tenant_id}
    colleague, stranger = hands(**tenant), hands()
    admin = hands(**tenant, permissions=PERMISSIONS | {"collections:manage"})
    viewer = hands(**tenant, permissions=frozenset({"docs:read"}))
    document = await ann.index("blue.txt", "The kingfisher is blue.")
    private, shared = await ann.make(document, name="mine"), await ann.make(document, name="ours", visibility=TENANT)
    missing, forbidden = (ErrorKind.NOT_FOUND, "collection_not_found"), (ErrorKind.FORBIDDEN, "collection_not_owned")

    unseen = [(colleague, private), (stranger, private), (stranger, shared)]
    attempts = [attempt for who, which in unseen for attempt in (*reads(who, which, document), *writes(who, which, document))]
    for attempt in (*attempts, *reads(viewer, private, document)):
        assert await refused(attempt) == missing
    for attempt in writes(colleague, shared, document):
        assert await refused(attempt) == forbidden
    for attempt in (*writes(viewer, shared, document), viewer.make(name="no")):
        assert await refused(attempt) == (ErrorKind.FORBIDDEN, "permission_missing")
    for attempt in (*reads(colleague, shared, document), *reads(viewer, shared, document)):
        assert await attempt
    assert [await who.names() for who in (ann, colleague, viewer, stranger, admin)] == [
        ["ours", "mine"],
        ["ours"],
        ["ours"],
        [],
        ["ours", "mine"],
    ]
    # A member is as visible as any other document: the collection hides the grouping, not the text.
    assert await colleague.found() == {"blue.txt"}
    for attempt in (*reads(admin, private, document), *writes(admin, private, document)):
        await attempt
    for table in ("collections", "collection_documents"):
        rows = await ann.rag.rows(stranger.user.tenant_id, f"SELECT 1 FROM {table}")  # noqa: S608  names of this test
        assert rows == []


async def test_what_others_own_cannot_be_put_into_a_collection(hands: Callable[..., Hands]) -> None:
    ann, stranger = hands(), hands()
    theirs = await stranger.index("theirs.txt", "The kingfisher is theirs.")
    own = await ann.make(name="own")
    missing = (ErrorKind.NOT_FOUND, "document_not_found")
    for document in (theirs, NOBODY_KNOWS):
        assert await refused(ann.call("AddDocument", collection_id=own, document_id=document)) == missing
        assert await refused(ann.make(document, name="half")) == missing
    assert await ann.names() == ["own"]


async def test_search_is_limited_to_members(hands: Callable[..., Hands]) -> None:
    ann = hands()
    texts = {"a.txt": "The kingfisher is blue.", "b.txt": "A kingfisher dives.", "c.txt": "Every kingfisher eats fish."}
    a, b, _ = [await ann.index(name, content) for name, content in texts.items()]
    first, both = await ann.make(a, name="first"), await ann.make(a, b, name="both")
    empty = await ann.make(name="empty")
    await ann.call("AddDocument", collection_id=both, document_id=b, attributes=b'{"year": 2024, "kind": "note"}')
    assert await ann.found() == set(texts)
    assert await ann.found(first) == {"a.txt"}
    assert await ann.found("both") == {"a.txt", "b.txt"}
    assert await ann.found(first, both) == {"a.txt", "b.txt"}
    assert await ann.found(f"vs_{first.replace('-', '')}") == {"a.txt"}
    assert await ann.found(empty) == set()
    assert await ann.found(both, member_attributes=b'{"year": 2024}') == {"b.txt"}
    assert await ann.found(both, member_attributes=b'{"year": 2025}') == set()
    for wanted in (NOBODY_KNOWS, "nothing of this name", "a\x00b", ""):
        assert await refused(ann.found(first, wanted)) == (ErrorKind.NOT_FOUND, "collection_not_found")
    assert (await refused(ann.found(*(str(uuid4()) for _ in range(21)))))[1] == "collections_too_many"
    assert (await refused(ann.found(member_attributes=b'{"year": 1}')))[1] == "collections_missing"
    reader = hands(tenant_id=ann.user.tenant_id, permissions=frozenset({"news:read"}))
    assert await refused(reader.found(first)) == (ErrorKind.FORBIDDEN, "permission_missing")


@pytest.mark.parametrize("exact_up_to", [0, 20_000])
async def test_each_leg_alone_is_limited_to_members(hands: Callable[..., Hands], exact_up_to: int) -> None:
    ann = hands()
    a = await ann.index("a.txt", "The kingfisher is blue.")
    await ann.index("b.txt", "The kingfisher is blue, too.")
    members = Members((UUID(await ann.make(a, name="one")),), {})
    reader = IndexReader(ann.rag.database, exact_up_to=exact_up_to)
    vector = np.ones(384, dtype=np.float32) / np.sqrt(384, dtype=np.float32)
    generation = await GenerationStore(ann.rag.database, Blueprint("minilm-l6-v2", 384, "")).serving(ann.user.tenant_id)
    assert generation is not None
    for kinds in (frozenset({SourceKind.DOCUMENT}), frozenset(SourceKind)):
        scope = Scope(ann.user.tenant_id, ann.user.user_id, kinds)
        for leg in ({"vector": vector, "terms": {}}, {"vector": None, "terms": {"kingfish": 1}}):
            everything = await reader.search(scope, generation=generation, **leg, top_k=10, since=None)
            limited = await reader.search(scope, generation=generation, **leg, top_k=10, since=None, members=members)
            assert ({found.title for found in everything}, {found.title for found in limited}) == ({"a.txt", "b.txt"}, {"a.txt"})


async def test_members_of_a_collection_too_large_to_name_them_are_all_found(
    hands: Callable[..., Hands], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = hands(permissions=PERMISSIONS - {"news:read"})
    names = ["a.txt", "b.txt", "c.txt"]
    ids = [await ann.index(name, f"The kingfisher is blue in {name}.") for name in names]
    await ann.index("d.txt", "The kingfisher is blue, too.")
    one = await ann.make(*ids, name="one")
    monkeypatch.setattr(search_scope_sql, "_MOST_NAMED", 1)
    assert await ann.found(one) == set(names)


async def test_a_name_means_ones_own_collection_first_and_never_a_guess(hands: Callable[..., Hands]) -> None:
    ann = hands()
    bob, eve = hands(tenant_id=ann.user.tenant_id), hands(tenant_id=ann.user.tenant_id)
    a, b = await ann.index("a.txt", "The kingfisher is blue."), await ann.index("b.txt", "A kingfisher dives.")
    await ann.make(a, name="birds", visibility=TENANT)
    assert await bob.found("birds") == {"a.txt"}
    await eve.make(b, name="birds", visibility=TENANT)
    assert await refused(bob.found("birds")) == (ErrorKind.CONFLICT, "collection_ambiguous")
    assert (await ann.found("birds"), await eve.found("birds")) == ({"a.txt"}, {"b.txt"})
    await ann.make(b, name="birds")
    assert (await refused(ann.found("birds")))[1] == "collection_ambiguous"


async def test_pages_go_forward_and_back(hands: Callable[..., Hands]) -> None:
    ann = hands()
    ids = [await ann.make(name=str(number)) for number in range(5)]
    assert await ann.names(size=2) == ["4", "3"]
    assert await ann.names(size=2, after=ids[3]) == ["2", "1"]
    assert await ann.names(size=2, after=ids[1]) == ["0"]
    assert await ann.names(size=2, before=ids[1]) == ["3", "2"]
    assert await ann.names(size=2, ascending=True, after=ids[0]) == ["1", "2"]
    assert await ann.names(size=9, ascending=True, before=ids[2]) == ["0", "1"]
    page = await ann.call("ListCollections", page=messages.IdPage(size=5))
    assert (len(page.collections), page.has_more) == (5, False)
    assert (await refused(ann.names(after="nonsense")))[0] is ErrorKind.INVALID
    assert (await refused(ann.names(after=ids[0], before=ids[1])))[1] == "page_invalid"


async def test_a_file_comes_back_as_it_was_sent(rag: Any, hands: Callable[..., Hands]) -> None:
    ann, stranger = hands(), hands()
    content = b"The kingfisher is blue. " * 40_000
    document = await rag.upload(ann.user, "long.txt", content)

    async def read(who: Hands) -> tuple[str, bytes]:
        set_current_principal(who.user.principal())
        parts = [part async for part in rag.documents.GetContent(rag_pb2.GetContentRequest(id=document.id))]
        assert max(len(part.data) for part in parts) <= 256 * 1024
        return parts[0].document.name, b"".join(part.data for part in parts)

    assert await read(ann) == ("long.txt", content)
    assert await refused(read(stranger)) == (ErrorKind.NOT_FOUND, "document_not_found")
    for blob in rag.blobs():
        blob.unlink()
    assert await refused(read(ann)) == (ErrorKind.NOT_FOUND, "document_file_missing")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"name": "x" * 257}, "name_invalid"),
        ({"name": "a\x00b"}, "name_invalid"),
        ({"description": "x" * 2_001}, "description_invalid"),
        ({"metadata": b'{"a": 1}'}, "metadata_invalid"),
        ({"metadata": b"[]"}, "metadata_invalid"),
        ({"document_ids": ["x"]}, "id_malformed"),
        ({"document_ids": [NOBODY_KNOWS] * 501}, "documents_too_many"),
        ({"visibility": 7}, "visibility_unknown"),
    ],
)
async def test_bad_input_is_named_and_makes_nothing(hands: Callable[..., Hands], members: Any, code: str) -> None:
    ann = hands()
    assert await refused(ann.call("CreateCollection", **members)) == (ErrorKind.INVALID, code)
    assert await ann.names() == []


@given(
    st.dictionaries(
        st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=600)), max_size=20
    )
)
def test_notes_are_bounded_and_storable(value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    try:
        taken = notes(data, "attributes")
    except WireroomError:
        with pytest.raises(WireroomError, match="attributes"):
            notes(data, "attributes")
        return
    assert taken == value
    assert len(taken) <= 16
    assert len(json.dumps(taken, ensure_ascii=False).encode()) <= 65_536
    assert all(0 < len(key) <= 64 and "\x00" not in key for key in taken)


_NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from(["a", "b", 'c"', "\\d"]), st.booleans())
_KEYS = st.sampled_from(["year", "kind of", 'quo"te'])
_COMPARISONS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), "key": _KEYS, "value": _NUMBERS}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["in", "nin"]), "key": _KEYS, "value": st.lists(_NUMBERS, min_size=1, max_size=3)}
    ),
)
_FILTERS = st.recursive(
    _COMPARISONS,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=4,
)


def _passes(given: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """What a filter means, said without a database."""
    kind = given["type"]
    if kind in {"and", "or"}:
        return (all if kind == "and" else any)(_passes(part, attributes) for part in given["filters"])
    found = attributes.get(given["key"])

    def same(value: Any) -> bool:
        return type(found) is type(value) and found == value

    if kind in {"in", "nin"}:
        return any(map(same, given["value"])) is (kind == "in")
    if kind in {"eq", "ne"}:
        return same(given["value"]) is (kind == "eq")
    if type(found) is not type(given["value"]) or isinstance(found, bool):
        return False
    return {
        "gt": found > given["value"],
        "gte": found >= given["value"],
        "lt": found < given["value"],
        "lte": found <= given["value"],
    }[kind]


async def test_filters_mean_what_they_say(rag_database: Database) -> None:
    drawn: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @settings(max_examples=150, database=None)
    @given(filters=_FILTERS, attributes=st.dictionaries(_KEYS, _NUMBERS, max_size=3))
    def draw(filters: dict[str, Any], attributes: dict[str, Any]) -> None:
        ordered = json.dumps(filters)
        # Truth values have no order in SQL/JSON paths, and none here.
        if not any(f'"{kind}"' in ordered for kind in ("gt", "gte", "lt", "lte")) or not (
            "true" in ordered or "false" in ordered
        ):
            drawn.append((filters, attributes))

    await asyncio.to_thread(draw)
    async with rag_database.tenant(uuid4()) as connection:
        for filters, attributes in drawn:
            passing = await connection.execute(
                text("SELECT CAST(:attributes AS jsonb) @@ CAST(CAST(:passing AS text) AS jsonpath)"),
                {"attributes": json.dumps(attributes), "passing": member_filter(json.dumps(filters).encode())},
            )
            assert passing.scalar_one() is _passes(filters, attributes), (filters, attributes)


@pytest.mark.parametrize(
    "given_filter",
    [
        b"[]",
        b"{",
        b'{"type": "near", "key": "a", "value": 1}',
        b'{"type": "eq", "key": "a", "value": null}',
        b'{"type": "eq", "key": "a", "value": [1]}',
        b'{"type": "in", "key": "a", "value": 1}',
        b'{"type": "in", "key": "a", "value": []}',
        b'{"type": "and", "filters": []}',
        b'{"type": "eq", "key": "a", "value": 1, "more": 2}',
        b'{"type": "eq", "key": "", "value": 1}',
        json.dumps({"type": "or", "filters": [{"type": "eq", "key": "a", "value": 1}] * 17}).encode(),
        b'{"type": "and", "filters": [' * 6 + b'{"type": "eq", "key": "a", "value": 1}' + b"]}" * 6,
    ],
)
def test_what_is_no_filter_is_refused(given_filter: bytes) -> None:
    with pytest.raises(WireroomError) as refused:
        member_filter(given_filter)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, "filter_unsupported")


async def test_search_is_limited_to_members_that_pass(hands: Callable[..., Hands]) -> None:
    ann = hands()
    ids = [await ann.index(f"{year}.txt", f"The kingfisher of {year}.") for year in (2022, 2023, 2024)]
    collection_id = await ann.make(name="years")
    for document_id, year in zip(ids, (2022, 2023, 2024), strict=True):
        set_current_principal(ann.user.principal())
        await ann.rag.collections.AddDocument(
            messages.AddDocumentRequest(
                collection_id=collection_id, document_id=document_id, attributes=json.dumps({"year": year}).encode()
            )
        )
    found = await ann.rag.retrieve(
        ann.user,
        "kingfisher",
        collection_ids=[collection_id],
        member_filter=json.dumps({"type": "gte", "key": "year", "value": 2023}).encode(),
    )
    assert {passage.document_id for passage in found} == set(ids[1:])
