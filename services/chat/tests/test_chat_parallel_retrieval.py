"""Documents and news are searched side by side; each of them may be late, away or forbidden."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from chat_harness import ChatUnderTest, ask, chat_under_test, passage
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from wireroom_chat.adapters.retrieval import RagRetrieval
from wireroom_chat.domain.fusion import fused
from wireroom_chat.domain.passages import Passage, SourceKind
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    grpc_channel,
    grpc_server,
    load_trusted,
)
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc

PUMP = "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts."
NEWS = "The Aurora pump delivers 14 litres per minute, the maker told reporters. It is sold in Lindau."
QUESTION = "How many litres per minute does the Aurora pump deliver?"
DOCUMENT, ARTICLE = rag_pb2.SOURCE_KIND_DOCUMENT, rag_pb2.SOURCE_KIND_ARTICLE
FOUND = {
    DOCUMENT: rag_pb2.Passage(
        id="d1", document_id="doc", version=1, kind=DOCUMENT, title="Aurora manual", start=0, end=len(PUMP), text=PUMP,
        dense_score=0.62, lexical_score=4,
    ),
    ARTICLE: rag_pb2.Passage(
        id="a1", document_id="news", version=1, kind=ARTICLE, title="Aurora", url="https://n.example/1", start=0, end=len(NEWS),
        text=NEWS, dense_score=0.7, lexical_score=5,
    ),
}  # fmt: skip


class Rag(rag_pb2_grpc.RetrievalServiceServicer):
    """One passage of each kind; a test decides which kind hangs, fails or is forbidden."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.hanging: set[int] = set()
        self.failing: dict[int, ErrorKind] = {}
        # Both kinds must be asked for at the same time before either gets an answer.
        self.together: asyncio.Barrier | None = None

    async def Retrieve(self, request: rag_pb2.RetrieveRequest, context: Any) -> rag_pb2.RetrieveResponse:  # noqa: ARG002, N802 - rpc signature
        self.calls.append(tuple(request.kinds))
        (kind,) = request.kinds
        if self.together is not None:
            await self.together.wait()
        if kind in self.hanging:
            await asyncio.Event().wait()
        if kind in self.failing:
            raise WireroomError(self.failing[kind], "index_trouble", "The index has trouble.")
        return rag_pb2.RetrieveResponse(passages=[FOUND[kind]])

    async def VerifyCitations(  # noqa: N802 - rpc name
        self,
        request: rag_pb2.VerifyCitationsRequest,
        context: Any,  # noqa: ARG002 - rpc signature
    ) -> rag_pb2.VerifyCitationsResponse:
        return rag_pb2.VerifyCitationsResponse(
            citations=[rag_pb2.VerifiedCitation(verified=True, citation_id=f"c{place}") for place, _ in enumerate(request.spans)]
        )


@dataclass
class Setup:
    chat: ChatUnderTest
    rag: Rag


@pytest_asyncio.fixture
async def setup(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[Setup]:
    clock, registry, rag = SystemClock(), CollectorRegistry(), Rag()
    key = ensure_key(tmp_path, "gateway")
    verifier = PrincipalVerifier(load_trusted(tmp_path), clock, reload=lambda: load_trusted(tmp_path))
    server = grpc_server(CallGuard(verifier=verifier, metrics=ServerMetrics(registry), tracer=NoOpTracer()))
    rag_pb2_grpc.add_RetrievalServiceServicer_to_server(rag, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = ServiceChannel(
        grpc_channel(f"127.0.0.1:{port}"),
        signer=PrincipalSigner("gateway", key, clock),
        metrics=ClientMetrics(registry),
        tracer=NoOpTracer(),
    )
    source = RagRetrieval(channel, timeout=0.4)
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "grpc", [], source=source) as chat:
        yield Setup(chat, rag)
    await channel.close()
    await server.stop(0.2)


async def _recorded(setup: Setup) -> str:
    async def ended() -> str | None:
        rows = await setup.chat.rows()
        return str(rows[-1].retrieval) if rows and rows[-1].status != "running" else None

    found: list[str] = []

    async def settled() -> bool:
        value = await ended()
        if value is not None:
            found.append(value)
        return bool(found)

    await eventually(settled)
    return found[0]


def _text(response: Any) -> str:
    return str(orjson.loads(response.body)["choices"][0]["message"]["content"])


async def test_both_kinds_are_asked_at_the_same_time_and_fused(setup: Setup) -> None:
    setup.rag.together = asyncio.Barrier(2)
    setup.chat.provider.enqueue(tokens=["The Aurora pump delivers 14 litres per minute [1]. ", "Its motor draws 450 watts [2]."])
    response = await setup.chat.complete_response(model="grounded", messages=ask(QUESTION))
    assert sorted(setup.rag.calls) == [(DOCUMENT,), (ARTICLE,)]
    # The article is nearer in both respects.
    assert _text(response) == "The Aurora pump delivers 14 litres per minute [1]. Its motor draws 450 watts [2]."
    assert (response.info.retrieval, await _recorded(setup)) == ("", "")


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(("away", "text"), [(ARTICLE, "450 watts"), (DOCUMENT, "maker told reporters")])
async def test_one_kind_alone_answers_and_says_so(setup: Setup, away: int, text: str, *, late: bool) -> None:
    if late:
        setup.rag.hanging = {away}
    else:
        setup.rag.failing = {away: ErrorKind.UNAVAILABLE}
    question = "How many watts does the Aurora motor draw?" if away == ARTICLE else QUESTION
    response = await setup.chat.complete_response(model="extractive", messages=ask(question))
    assert response.info.answer_mode == "extractive"
    assert text in _text(response)
    assert response.info.retrieval == "partial"
    assert await _recorded(setup) == "partial"
    assert setup.chat.infra is not None
    assert setup.chat.infra.registry.get_sample_value("wireroom_chat_incomplete_retrievals_total", {"result": "partial"}) == 1


async def test_a_stream_says_it_before_its_first_word(setup: Setup) -> None:
    setup.rag.failing = {ARTICLE: ErrorKind.INTERNAL}
    setup.chat.provider.enqueue(tokens=["The Aurora pump delivers 14 litres per minute [1]."])
    info, _ = await setup.chat.stream(model="grounded", messages=ask(QUESTION))
    assert (info.answer_mode, info.retrieval) == ("generated", "partial")


async def test_without_any_source_assist_answers_and_strict_does_not(setup: Setup) -> None:
    setup.rag.failing = {ARTICLE: ErrorKind.UNAVAILABLE}
    setup.rag.hanging = {DOCUMENT}
    setup.chat.provider.enqueue(tokens=["About 14 litres, I think [1]."])
    response = await setup.chat.complete_response(model="grounded", messages=ask(QUESTION), grounding={"mode": "assist"})
    message = orjson.loads(response.body)["choices"][0]["message"]
    assert (message["content"], message["annotations"]) == ("About 14 litres, I think. (unverified)", [])
    assert (response.info.answer_mode, response.info.retrieval) == ("generated", "failed")
    asked = len(setup.rag.calls)
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="grounded", messages=ask(QUESTION), grounding={"mode": "strict"})
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "retrieval_unavailable")
    # Quotes from the same sources would not come either: they are not waited for.
    assert len(setup.rag.calls) == asked + 2
    setup.rag.hanging = {DOCUMENT, ARTICLE}
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="extractive", messages=ask(QUESTION))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.DEADLINE, "retrieval_timeout")


async def test_one_kind_is_one_call(setup: Setup) -> None:
    for model, grounding, kind in (
        ("docs", {}, DOCUMENT),
        ("news", {}, ARTICLE),
        ("extractive", {"sources": ["docs:manuals"]}, DOCUMENT),
    ):
        setup.rag.calls.clear()
        await setup.chat.complete(model=model, messages=ask(QUESTION), grounding=grounding)
        assert setup.rag.calls == [(kind,)]


async def test_what_may_not_be_read_is_left_out_unless_it_was_asked_for(setup: Setup) -> None:
    setup.rag.failing = {DOCUMENT: ErrorKind.FORBIDDEN}
    response = await setup.chat.complete_response(model="extractive", messages=ask(QUESTION))
    assert "maker told reporters" in _text(response)
    assert response.info.retrieval == ""
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="extractive", messages=ask(QUESTION), grounding={"sources": ["docs", "news"]})
    assert caught.value.kind is ErrorKind.FORBIDDEN
    # Nothing that may be read is left.
    setup.rag.failing = {DOCUMENT: ErrorKind.FORBIDDEN, ARTICLE: ErrorKind.FORBIDDEN}
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="extractive", messages=ask(QUESTION))
    assert caught.value.kind is ErrorKind.FORBIDDEN
    setup.rag.failing = {DOCUMENT: ErrorKind.FORBIDDEN, ARTICLE: ErrorKind.UNAVAILABLE}
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="extractive", messages=ask(QUESTION))
    assert caught.value.code == "retrieval_unavailable"


async def test_a_fault_of_the_request_is_no_partial_answer(setup: Setup) -> None:
    setup.rag.failing = {DOCUMENT: ErrorKind.NOT_FOUND}
    with pytest.raises(WireroomError) as caught:
        await setup.chat.complete_response(model="extractive", messages=ask(QUESTION))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.NOT_FOUND, "index_trouble")


# --- one order

_SCORES = st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.sampled_from([0.0, 1.0, 3.5]))


def _list(kind: SourceKind, scores: list[tuple[float, float]], numbers: Any) -> list[Passage]:
    return [
        passage(next(numbers), "x", kind=kind, dense_score=dense, lexical_score=lexical, score=0.0) for dense, lexical in scores
    ]


@given(documents=st.lists(_SCORES, max_size=8), articles=st.lists(_SCORES, max_size=8), top_k=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_the_order_keeps_each_kinds_own_and_is_always_the_same(
    documents: list[tuple[float, float]], articles: list[tuple[float, float]], top_k: int
) -> None:
    numbers = itertools.count(1)
    lists = [_list(SourceKind.DOCUMENT, documents, numbers), _list(SourceKind.ARTICLE, articles, numbers)]
    merged = fused(lists, top_k)
    assert len(merged) == min(top_k, len(documents) + len(articles))
    assert fused(lists, top_k) == merged
    for own in lists:
        assert [item for item in merged if item in own] == own[: sum(item in own for item in merged)]


def test_the_better_of_both_goes_first() -> None:
    numbers = itertools.count(1)
    documents = _list(SourceKind.DOCUMENT, [(0.9, 5.0), (0.3, 0.0)], numbers)
    articles = _list(SourceKind.ARTICLE, [(0.6, 3.0), (0.5, 2.0)], numbers)
    assert fused([documents, articles], 3) == [documents[0], *articles]
    assert fused([[], articles], 1) == articles[:1]
    assert fused([], 5) == []
