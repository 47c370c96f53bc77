from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from rag_scripted_models import ScriptedModels

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import generations_pb2, rag_pb2
from wireroom_rag.adapters.connections import worker

WORDS = ("harbour", "pelican", "crane", "lighthouse", "anchor", "ferry", "tide", "compass", "sextant", "mooring")
MANAGER = frozenset({"docs:read", "docs:write", "news:read", "collections:manage", "collections:manage:own"})
SERVING = generations_pb2.GENERATION_STATE_SERVING
BUILDING = generations_pb2.GENERATION_STATE_BUILDING
DROPPED = generations_pb2.GENERATION_STATE_DROPPED


@pytest_asyncio.fixture
async def models() -> AsyncIterator[ScriptedModels]:
    async with ScriptedModels() as server:
        yield server


async def reindex(rag: Any, user: Any, model: str = "wide") -> generations_pb2.Generation:
    set_current_principal(user.principal())
    return (await rag.generations.StartReindex(generations_pb2.StartReindexRequest(model=model))).generation


async def generations(rag: Any, user: Any) -> dict[int, generations_pb2.Generation]:
    set_current_principal(user.principal())
    return {found.number: found for found in (await rag.generations.GetIndex(generations_pb2.GetIndexRequest())).generations}


async def state(rag: Any, user: Any, number: int, wanted: int) -> generations_pb2.Generation:
    """The generation, once it is in that state."""

    async def reached() -> generations_pb2.Generation | None:
        found = (await generations(rag, user))[number]
        return found if found.state == wanted else None

    return await eventually(reached, within=30, what=f"generation {number} in state {wanted}")


async def fill(rag: Any, user: Any, words: tuple[str, ...] = WORDS) -> dict[str, str]:
    """A document about each word; word → document id."""
    uploaded = {word: (await rag.upload(user, f"{word}.txt", f"The {word} stands at the pier.".encode())).id for word in words}
    for document_id in uploaded.values():
        await rag.processed(user, document_id)
    return uploaded


@asynccontextmanager
async def queried(rag: Any, user: Any, documents: dict[str, str]) -> AsyncIterator[list[Any]]:
    """Queries without a pause; what went wrong, or was not found first, is in the list."""
    wrong: list[Any] = []

    async def ask() -> None:
        for turn in itertools.count():
            for word, document_id in documents.items():
                try:
                    # No two alike: vectors of queries are kept for a while.
                    found = await rag.retrieve(user, f"Where is the {word}? {turn}", top_k=3)
                    if not found or found[0].document_id != document_id:
                        wrong.append((word, [passage.title for passage in found]))
                except WireroomError as error:
                    wrong.append(error)

    task = asyncio.create_task(ask())
    try:
        yield wrong
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("store", ["postgresql", "lancedb"])
async def test_switch_to_another_model_under_queries_answers_each_of_them(
    start_rag: Any, models: ScriptedModels, store: str
) -> None:
    rag = await start_rag(embedding_endpoints=[models.embedding_endpoint()], vectors=store)
    user = rag.user(permissions=MANAGER)
    documents = await fill(rag, user)
    models.allowed = 4
    async with queried(rag, user, documents) as wrong:
        assert (await reindex(rag, user)).number == 2
        await eventually(lambda: models.allowed == 0, what="a build under way")
        status = (await generations(rag, user))[2]
        assert (status.state, status.dimension, status.documents_total) == (BUILDING, 768, len(documents))
        assert status.documents < len(documents)
        with pytest.raises(WireroomError) as refused:
            await reindex(rag, user)
        assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "generation_building")
        # Written to both, or to the new one afterwards; and a text that is gone is gone from both.
        models.allowed = -1
        models.open.set()
        documents = documents | {"gangway": (await rag.index(user, "gangway.txt", b"The gangway stands at the pier.")).id}
        await state(rag, user, 2, SERVING)
        calls = len(models.requests)
        await eventually(lambda: len(models.requests) > calls + 2 * len(documents), within=30, what="queries by the new model")
    assert wrong == []
    assert set(models.keys) == {"Bearer k"}
    rows = await rag.rows(user.tenant_id, "SELECT generation, dimension, count(*) FROM chunks GROUP BY 1, 2 ORDER BY 1")
    assert [(row[0], row[1]) for row in rows] == [(1, 384), (2, 768)]
    assert rows[1][2] == len(documents)
    (statistics,) = await rag.rows(user.tenant_id, "SELECT chunks FROM index_statistics WHERE generation = 2")
    assert statistics.chunks == len(documents)
    # The one before is kept for a while; its time is over when its time is over.
    assert (await generations(rag, user))[1].state == generations_pb2.GENERATION_STATE_RETIRED
    async with worker(rag.database, user.tenant_id) as connection:
        await connection.exec_driver_sql("UPDATE generations SET next_attempt_at = now() WHERE number = 1")
    await state(rag, user, 1, DROPPED)
    for table in ("chunks", "posting_blocks", "indexed_stems"):
        left = await rag.rows(user.tenant_id, f"SELECT generation FROM {table}")  # noqa: S608 - a constant of this test
        assert {row[0] for row in left} == {2}
    events = [name for name in await rag.events() if name.startswith("rag.generation.")]
    assert events == ["rag.generation.started", "rag.generation.switched", "rag.generation.dropped"]

    # Its model falls silent: words alone find the text, and the answer says so.
    models.status = 503
    set_current_principal(user.principal())
    answer = await rag.retrieval.Retrieve(rag_pb2.RetrieveRequest(query="harbour", explain=True))
    assert (list(answer.degraded), answer.passages[0].document_id) == (["lexical"], documents["harbour"])
    explained = answer.passages[0].explanation
    assert (explained.dense_rank, explained.lexical_rank) == (0, 1)
    assert sum(explained.field_scores.values()) == pytest.approx(explained.lexical_score)
    assert set(explained.field_scores) == {"title", "body"}


async def test_aborted_build_leaves_the_serving_index_as_it_was(start_rag: Any, models: ScriptedModels) -> None:
    rag = await start_rag(embedding_endpoints=[models.embedding_endpoint()])
    user = rag.user(permissions=MANAGER)
    documents = await fill(rag, user, WORDS[:4])
    models.allowed = 2
    async with queried(rag, user, documents) as wrong:
        await reindex(rag, user)
        await eventually(lambda: models.allowed == 0, what="a build under way")
        set_current_principal(user.principal())
        aborted = await rag.generations.AbortReindex(generations_pb2.AbortReindexRequest())
        assert aborted.generation.number == 2
        models.open.set()
        await state(rag, user, 2, DROPPED)
        await asyncio.sleep(0)
    assert wrong == []
    assert (await generations(rag, user))[1].state == SERVING
    for table in ("chunks", "posting_blocks", "indexed_stems"):
        left = await rag.rows(user.tenant_id, f"SELECT generation FROM {table}")  # noqa: S608 - a constant of this test
        assert {row[0] for row in left} == {1}
    with pytest.raises(WireroomError) as idle:
        await rag.generations.AbortReindex(generations_pb2.AbortReindexRequest())
    assert idle.value.code == "generation_not_building"
    assert "rag.generation.switched" not in await rag.events()


async def test_build_goes_on_after_its_endpoint_was_down(start_rag: Any, models: ScriptedModels) -> None:
    rag = await start_rag(embedding_endpoints=[models.embedding_endpoint()])
    user = rag.user(permissions=MANAGER)
    await fill(rag, user, WORDS[:4])
    models.allowed = 2
    await reindex(rag, user)
    await eventually(lambda: models.allowed == 0, what="a build under way")
    models.status = 503
    models.open.set()

    async def troubled() -> generations_pb2.Generation | None:
        found = (await generations(rag, user))[2]
        return found if found.error else None

    stuck = await eventually(troubled, within=30, what="the error on the generation")
    assert stuck.state == BUILDING
    assert "'wide'" in stuck.error
    # Nobody waits for it: a new document is served by the other one, and is built later.
    document = await rag.index(user, "gangway.txt", b"The gangway stands at the pier.")
    assert document.state == rag_pb2.DOCUMENT_STATE_INDEXED
    models.status, models.allowed = 200, -1
    done = await state(rag, user, 2, SERVING)
    assert (done.documents, done.error) == (5, "")
    assert (await rag.retrieve(user, "gangway"))[0].document_id == document.id


async def test_index_is_rebuilt_by_those_who_manage_all_collections_with_models_that_are_set_up(rag: Any) -> None:
    user = rag.user()
    with pytest.raises(WireroomError) as forbidden:
        await reindex(rag, user, "")
    assert forbidden.value.kind is ErrorKind.FORBIDDEN
    manager = rag.user(permissions=MANAGER)
    with pytest.raises(WireroomError) as unknown:
        await reindex(rag, manager, "wide")
    assert (unknown.value.kind, unknown.value.code) == (ErrorKind.INVALID, "embedding_model_unknown")
    # Of nothing, and with the same model: that is what a new way of cutting texts needs.
    assert (await reindex(rag, manager, "")).model == "minilm-l6-v2"
    await state(rag, manager, 2, SERVING)


async def test_each_generation_is_cut_for_its_own_model(start_rag: Any, models: ScriptedModels) -> None:
    rag = await start_rag(embedding_endpoints=[models.embedding_endpoint(max_tokens=800)])
    user = rag.user(permissions=MANAGER)
    text = "".join(f"Berth {number} of the harbour is for ferry {number % 7} and its crew. " for number in range(120))
    before = await rag.index(user, "before.txt", text.encode())
    passage = (await rag.retrieve(user, "harbour ferry"))[0]
    assert before.chunks > 4
    models.allowed = 0
    assert (await reindex(rag, user)).chunker == "window-800"
    # While it is being built: uploaded into both, or into the new one afterwards, each time cut as the generation wants it.
    models.allowed = -1
    models.open.set()
    during = await rag.index(user, "during.txt", text.encode())
    await state(rag, user, 2, SERVING)
    after = await rag.index(user, "after.txt", text.encode())
    rows = await rag.rows(
        user.tenant_id, "SELECT document_id, generation, count(*), max(end_at - start_at) FROM chunks GROUP BY 1, 2 ORDER BY 2, 1"
    )
    counts = {(str(row[0]), row[1]): row[2] for row in rows}
    # The one that was indexed after the switch is not in the one before.
    assert {key for key in counts if key[1] == 2} == {(found.id, 2) for found in (before, during, after)}
    assert all(count < before.chunks / 2 for (_, number), count in counts.items() if number == 2)
    assert counts[before.id, 1] == before.chunks
    assert after.chunks == counts[after.id, 2]
    assert max(len(text) for request in models.requests for text in request["input"]) > max(row[3] for row in rows if row[1] == 1)
    # What was cited of the old passages still stands there.
    span = rag_pb2.Span(document_id=before.id, version=1, start=passage.start, end=passage.end, quote=passage.text)
    (citation,) = await rag.verify(user, span)
    assert citation.verified
