from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from rag_rig import Rag, StartRag, User
from rag_scripted_models import ScriptedModels

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import collections_pb2, generations_pb2, rag_pb2
from wireroom_rag.domain.provider_terms import Receiver, checked_providers

PERMISSIONS = frozenset({"docs:read", "docs:write", "news:read", "collections:manage:own", "collections:manage"})


@dataclass(frozen=True)
class Keeper:
    """One who makes collections with terms."""

    rag: Rag
    user: User

    async def collection(self, *providers: str, documents: tuple[str, ...] = ()) -> collections_pb2.Collection:
        set_current_principal(self.user.principal())
        request = collections_pb2.CreateCollectionRequest(name="c", providers=providers, document_ids=documents)
        return (await self.rag.collections.CreateCollection(request)).collection

    async def change(self, collection_id: str, *providers: str) -> list[str]:
        set_current_principal(self.user.principal())
        names = collections_pb2.ProviderNames(names=providers)
        request = collections_pb2.UpdateCollectionRequest(id=collection_id, providers=names)
        return list((await self.rag.collections.UpdateCollection(request)).collection.providers)

    async def reindex(self, model: str) -> None:
        set_current_principal(self.user.principal())
        await self.rag.generations.StartReindex(generations_pb2.StartReindexRequest(model=model))

    async def terms(self, query: str, user: User | None = None) -> dict[str, list[list[str]]]:
        found = await self.rag.retrieve(user or self.user, query, kinds=[rag_pb2.SOURCE_KIND_DOCUMENT])
        return {passage.title: sorted(sorted(terms.names) for terms in passage.provider_terms) for passage in found}


def keeper(rag: Rag) -> Keeper:
    return Keeper(rag, rag.user(permissions=PERMISSIONS))


async def refused(awaitable: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as caught:
        await awaitable
    return caught.value.kind, caught.value.code


async def test_passages_carry_the_terms_of_every_collection_of_their_document_whoever_sees_them(rag: Rag) -> None:
    anna = keeper(rag)
    secret = await rag.index(anna.user, "secret.txt", b"The heron nests in the northern reeds.")
    await rag.index(anna.user, "plain.txt", b"The heron also nests in the southern reeds.")
    first = await anna.collection("local", "openai", "local", documents=(secret.id,))
    assert list(first.providers) == ["local", "openai"]
    await anna.collection("local", documents=(secret.id,))
    # One for any provider says nothing.
    assert not (await anna.collection("any", documents=(secret.id,))).providers
    both = [["local"], ["local", "openai"]]
    assert await anna.terms("heron nests in the reeds") == {"secret.txt": both, "plain.txt": []}
    # Her collections are private: their terms bind all the same.
    other = rag.user(tenant_id=anna.user.tenant_id)
    assert await anna.terms("heron nests in the reeds", other) == {"secret.txt": both, "plain.txt": []}
    # What is left out stays.
    set_current_principal(anna.user.principal())
    renamed = await rag.collections.UpdateCollection(collections_pb2.UpdateCollectionRequest(id=first.id, name="n"))
    assert list(renamed.collection.providers) == ["local", "openai"]
    assert await anna.change(first.id, "any") == []
    assert (await anna.terms("heron nests in the reeds"))["secret.txt"] == [["local"]]


@pytest.mark.parametrize("names", [["any", "local"], ["Open AI"], [""], [f"p{number}" for number in range(21)]])
async def test_what_names_no_providers_is_refused(rag: Rag, names: list[str]) -> None:
    assert await refused(keeper(rag).collection(*names)) == (ErrorKind.INVALID, "providers_invalid")


async def test_an_index_by_an_endpoint_and_a_collection_that_does_not_name_it_exclude_each_other(start_rag: StartRag) -> None:
    async with ScriptedModels() as models:
        endpoints = [models.embedding_endpoint(), models.embedding_endpoint(id="named", provider="acme", local=True)]
        rag = await start_rag(embedding_endpoints=endpoints)
        anna, otto = keeper(rag), keeper(rag)
        await rag.index(anna.user, "secret.txt", b"The heron nests in the northern reeds.")
        collection = await anna.collection("local")
        # To the nameless one nothing of the tenant may go; the other is one of the house.
        conflict = (ErrorKind.CONFLICT, "collection_provider_not_allowed")
        assert await refused(anna.reindex("wide")) == conflict
        assert models.requests == []
        await anna.reindex("named")
        assert await refused(anna.change(collection.id, "openai")) == conflict
        assert await anna.change(collection.id, "acme") == ["acme"]
        # The other way round.
        await rag.index(otto.user, "open.txt", b"The stork nests on the northern roofs.")
        await otto.reindex("wide")
        assert await refused(otto.collection("local")) == conflict
        assert not (await otto.collection()).providers


async def test_a_text_is_kept_from_an_endpoint_that_lost_its_name_after_the_index_began(start_rag: StartRag) -> None:
    async with ScriptedModels() as models:
        rag = await start_rag(embedding_endpoints=[models.embedding_endpoint(provider="acme")], embedding_model="wide")
        anna = keeper(rag)
        await anna.collection("acme")
        await rag.index(anna.user, "first.txt", b"The heron nests in the northern reeds.")
        assert any("heron" in text for request in models.requests for text in request["input"])
        await rag.stop()

        later = await start_rag(embedding_endpoints=[models.embedding_endpoint()], embedding_model="wide")
        uploaded = await later.upload(anna.user, "second.txt", b"The bittern nests in the northern reeds.")

        async def put_off() -> bool:
            return bool(
                await later.rows(
                    anna.user.tenant_id,
                    "SELECT 1 FROM document_versions WHERE document_id = CAST(:id AS uuid) AND state = 'chunked'"
                    " AND next_attempt_at > now() AND lease_token IS NULL",
                    id=uploaded.id,
                )
            )

        await eventually(put_off, what="the second document put off")
        assert not any("bittern" in text for request in models.requests for text in request["input"])


async def test_a_reranker_that_a_collection_does_not_name_gets_none_of_the_passages(start_rag: StartRag) -> None:
    async with ScriptedModels() as models:
        rag = await start_rag(reranker={"model": "ranker", "base_url": models.base_url, "provider": "acme"})
        anna = keeper(rag)
        document = await rag.index(anna.user, "first.txt", b"The heron nests in the northern reeds.")
        collection = await anna.collection("acme", documents=(document.id,))
        set_current_principal(anna.user.principal())
        answer = await rag.retrieval.Retrieve(rag_pb2.RetrieveRequest(query="heron"))
        assert (len(models.requests), list(answer.degraded)) == (1, [])
        await anna.change(collection.id, "local")
        answer = await rag.retrieval.Retrieve(rag_pb2.RetrieveRequest(query="heron"))
        assert (len(models.requests), list(answer.degraded)) == (1, ["unranked"])
        assert [passage.title for passage in answer.passages] == ["first.txt"]


@pytest.mark.parametrize(
    ("receiver", "terms", "may"),
    [
        (Receiver(), [], True),
        (Receiver(), [("acme",)], False),
        (Receiver("acme"), [("acme", "local"), ("acme",)], True),
        (Receiver("acme"), [("acme",), ("local",)], False),
        (Receiver("acme", local=True), [("acme",), ("local",)], True),
        (Receiver("local"), [("local",)], False),
    ],
)
def test_a_receiver_is_named_by_all_terms_or_gets_nothing(receiver: Receiver, terms: list[tuple[str, ...]], may: bool) -> None:  # noqa: FBT001 - a row
    assert receiver.may_receive(terms) is may


def test_any_stands_alone_and_names_are_kept_once_in_order() -> None:
    assert (checked_providers(["any"]), checked_providers([]), checked_providers(["b", "local", "b"])) == ((), (), ("b", "local"))
