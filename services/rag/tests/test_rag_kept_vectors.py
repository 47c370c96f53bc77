"""Vectors that were made before are not made again, by nobody else's work, and not for longer than they may be kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from rag_rig import Rag, StartRag
from sqlalchemy import text

from wireroom_common.cache import Caches
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.kept_vectors_sql import KeptVectorRows, KeptVectorUpkeep
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.usecases.kept_vectors import KeptVectors, passage_key, passage_vectors, query_vectors

DAY = 24 * 3600.0
SMALL = Blueprint("small", 8, "1")
A, B = uuid4(), uuid4()


@dataclass
class CountedModel:
    """Vectors by the text's own bytes; writes down what it was asked for."""

    dimension: int = 8
    asked: list[list[str]] = field(default_factory=list)
    dies_after: int | None = None

    async def passages(self, texts: Sequence[str]) -> Vectors:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            msg = "The worker is gone."
            raise RuntimeError(msg)
        self.asked.append(list(texts))
        return np.vstack([self.vector(item) for item in texts])

    async def query(self, windows: Sequence[str]) -> Vectors:
        self.asked.append(list(windows))
        await asyncio.sleep(0.02)
        return self.vector(" ".join(windows))

    def vector(self, content: str) -> Vectors:
        made = np.random.default_rng(abs(hash(content))).normal(size=self.dimension).astype(np.float32)
        return np.asarray(made / np.linalg.norm(made), dtype=np.float32)


def kept(database: Database) -> KeptVectors:
    """As one replica has it."""
    caches = Caches(None, SystemClock(), CollectorRegistry())
    return KeptVectors(
        caches.open(passage_vectors(DAY), bytes, durable=KeptVectorRows(database)), caches.open(query_vectors(DAY), bytes)
    )


async def _rows(database: Database, tenant_id: UUID) -> int:
    async with database.tenant(tenant_id) as connection:
        return int((await connection.execute(text("SELECT count(*) FROM kept_vectors"))).scalar_one())


async def test_equal_passages_are_embedded_once_whoever_asks_on_whichever_replica(rag_database: Database) -> None:
    model = CountedModel()
    texts = ["one", "two", "one", "three", "two"]
    first = await kept(rag_database).of(A, SMALL, model).passages(texts)
    assert model.asked == [["one", "two", "three"]]
    again = await kept(rag_database).of(A, SMALL, model).passages([*texts, "four"])
    assert model.asked[1:] == [["four"]]
    # The same vector, whether it was kept or made.
    np.testing.assert_array_equal(again[:5], first)
    np.testing.assert_allclose(first[0], model.vector("one"), atol=1e-3)
    np.testing.assert_array_equal(first[0], first[2])


async def test_tenants_and_models_have_vectors_of_their_own(rag_database: Database) -> None:
    model = CountedModel()
    replica = kept(rag_database)
    await replica.of(A, SMALL, model).passages(["one"])
    await replica.of(B, SMALL, model).passages(["one"])
    await replica.of(A, Blueprint("other", 8, "1"), model).passages(["one"])
    wide = CountedModel(dimension=16)
    assert (await replica.of(A, Blueprint("small", 16, "1"), wide).passages(["one"])).shape == (1, 16)
    assert (len(model.asked), len(wide.asked)) == (3, 1)
    assert (await _rows(rag_database, A), await _rows(rag_database, B)) == (3, 1)


async def test_what_was_embedded_before_a_worker_died_is_not_embedded_again(rag_database: Database) -> None:
    texts = [f"text {number}" for number in range(600)]
    dying = CountedModel(dies_after=2)
    with pytest.raises(RuntimeError):
        await kept(rag_database).of(A, SMALL, dying).passages(texts)
    model = CountedModel()
    vectors = await kept(rag_database).of(A, SMALL, model).passages(texts)
    assert [len(batch) for batch in model.asked] == [88]
    assert vectors.shape == (600, 8)


async def test_many_replicas_keep_the_same_passages_at_once(rag_database: Database) -> None:
    model = CountedModel()
    texts = [f"text {number}" for number in range(300)]
    replicas = [kept(rag_database).of(A, SMALL, model) for _ in range(6)]
    found = await asyncio.gather(
        *(replica.passages(texts[::-1] if number % 2 else texts) for number, replica in enumerate(replicas))
    )
    np.testing.assert_array_equal(found[0], found[1][::-1])
    assert await _rows(rag_database, A) == 300


async def test_upkeep_lets_go_by_age_and_by_number(rag_database: Database) -> None:
    rows = KeptVectorRows(rag_database)
    keys = [passage_key(tenant, SMALL, str(number)) for tenant in (A, B) for number in range(10)]
    await rows.save(dict.fromkeys(keys, b"vector"))
    async with rag_database.tenant(A) as connection:
        await connection.execute(text("UPDATE kept_vectors SET used_on = current_date - 8"))
    # Asked for again: one of the old ones is not old any more.
    assert await rows.load([keys[3]]) == {keys[3]: b"vector"}
    assert await KeptVectorUpkeep(rag_database, days=7, most=1_000)() == 9
    assert list(await rows.load(keys)) == [keys[3], *keys[10:]]
    async with rag_database.tenant(B) as connection:
        await connection.execute(text("UPDATE kept_vectors SET used_on = current_date - 1"))
    assert await KeptVectorUpkeep(rag_database, days=7, most=4)() == 7
    assert await _rows(rag_database, A) == 1
    assert await _rows(rag_database, B) == 3
    assert await KeptVectorUpkeep(rag_database, days=0, most=0)() == 4


async def test_equal_queries_are_embedded_once(rag_database: Database) -> None:
    model = CountedModel()
    vectors = kept(rag_database)
    answers = await asyncio.gather(*(vectors.of(A, SMALL, model).query(["who?"]) for _ in range(5)))
    answers.append(await vectors.of(A, SMALL, model).query(["who?"]))
    assert model.asked == [["who?"]]
    for answer in answers:
        np.testing.assert_array_equal(answer, model.vector("who?"))
    await vectors.of(A, SMALL, model).query(["who?", "really?"])
    await vectors.of(B, SMALL, model).query(["who?"])
    assert len(model.asked) == 3


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from([A, B]), st.sampled_from([A, B]))
def test_keys_are_equal_for_equal_texts_of_one_tenant_only(first: str, second: str, mine: UUID, theirs: UUID) -> None:
    assert (passage_key(mine, SMALL, first) == passage_key(theirs, SMALL, second)) == (first == second and mine == theirs)


@pytest.fixture
async def counted(start_rag: StartRag) -> AsyncIterator[tuple[Rag, list[str]]]:
    """The whole service, and the passages that its model was run on."""
    rag = await start_rag()
    asked: list[str] = []
    model = rag.service.checks["embedding_model"].__self__  # type: ignore[attr-defined]  # the bound method's embedder
    embed = model.passages

    async def passages(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        found: Vectors = await embed(texts)
        return found

    model.passages = passages
    return rag, asked


async def test_a_changed_document_has_only_its_changed_passages_embedded(counted: tuple[Rag, list[str]]) -> None:
    rag, asked = counted
    user = rag.user()
    pages = ["\n\n".join(f"Section {number}, sentence {line}: the pump needs oil." for line in range(30)) for number in range(4)]
    document = await rag.index(user, "manual.txt", "\n\n".join(pages).encode())
    embedded = len(asked)
    assert embedded == document.chunks > 3
    changed = "\n\n".join([*pages[:3], pages[3].replace("needs oil", "wants water")])
    await rag.index(user, "manual.txt", changed.encode())
    assert 0 < len(asked) - embedded < embedded
    assert [passage.text for passage in await rag.retrieve(user, "wants water") if "wants water" in passage.text]
    # Another user's tenant gains nothing from it.
    before = len(asked)
    await rag.index(rag.user(), "manual.txt", "\n\n".join(pages).encode())
    assert len(asked) - before == embedded


async def test_deleted_documents_take_their_vectors_along(counted: tuple[Rag, list[str]]) -> None:
    rag, _ = counted
    user = rag.user()
    document = await rag.index(user, "secret.txt", _sentences("The vault opens with 4711"))
    other = await rag.index(user, "other.txt", _sentences("The baker bakes bread"))
    assert await _rows(rag.database, user.tenant_id) == document.chunks + other.chunks
    await rag.delete(user, document.id)
    await rag.run("rag_purge")
    assert await _rows(rag.database, user.tenant_id) == other.chunks


async def test_an_erasure_takes_all_vectors_of_the_tenant_along(counted: tuple[Rag, list[str]]) -> None:
    """Those of earlier versions, too, of which nothing else is left."""
    rag, _ = counted
    user, stranger = rag.user(), rag.user()
    for words in ("The vault opens with 4711", "The vault opens with 1234"):
        await rag.index(user, "secret.txt", _sentences(words))
    theirs = await rag.index(stranger, "other.txt", _sentences("The baker bakes bread"))
    event = events_pb2.PrivacyErasureRequested(erasure_id=str(uuid4()), user_id=str(user.user_id))
    await rag.deliver(user.tenant_id, event, consumer="rag.erasure")
    await rag.run("rag_purge")
    assert await _rows(rag.database, user.tenant_id) == 0
    assert await _rows(rag.database, stranger.tenant_id) == theirs.chunks


def _sentences(words: str) -> bytes:
    return " ".join(f"{words}, says page {number}." for number in range(60)).encode()
