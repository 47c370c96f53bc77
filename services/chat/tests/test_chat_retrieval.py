from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chat_harness import CALLER
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from wireroom_chat.adapters.retrieval import RagRetrieval
from wireroom_chat.domain.passages import Quote, SourceKind
from wireroom_chat.domain.request import Grounding
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import current_principal, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    load_trusted,
    open_channel,
)
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc

TEXT = "One. Two is here. Three."


class RagServicer(rag_pb2_grpc.RetrievalServiceServicer):
    """One article; quotes that contain "Two" are verified."""

    def __init__(self) -> None:
        self.request = rag_pb2.RetrieveRequest()
        self.spans: list[rag_pb2.Span] = []
        self.too_few = False

    async def Retrieve(self, request: rag_pb2.RetrieveRequest, context: Any) -> rag_pb2.RetrieveResponse:  # noqa: ARG002, N802 - rpc signature
        if request.query == "fail":
            raise WireroomError(ErrorKind.UNAVAILABLE, "index_unavailable", "The index is away.")
        assert current_principal().tenant_id == CALLER.tenant_id
        self.request = request
        found = rag_pb2.Passage(
            id="p", document_id="d", version=3, kind=rag_pb2.SOURCE_KIND_ARTICLE, title="T", url="https://n.example/1", start=50, end=74,
            text=TEXT, score=0.1, dense_score=0.4, lexical_score=1.5, published_at=Timestamp(seconds=1_700_000_000),
        )  # fmt: skip
        return rag_pb2.RetrieveResponse(passages=[found])

    async def VerifyCitations(  # noqa: N802 - rpc name
        self,
        request: rag_pb2.VerifyCitationsRequest,
        context: Any,  # noqa: ARG002 - rpc signature
    ) -> rag_pb2.VerifyCitationsResponse:
        self.spans = list(request.spans)
        found = [
            rag_pb2.VerifiedCitation(verified="Two" in span.quote, citation_id="c2" if "Two" in span.quote else "")
            for span in request.spans[1 if self.too_few else 0 :]
        ]
        return rag_pb2.VerifyCitationsResponse(citations=found)


@pytest_asyncio.fixture
async def rag(tmp_path: Path) -> AsyncIterator[tuple[RagServicer, RagRetrieval]]:
    clock, registry, servicer, network = SystemClock(), CollectorRegistry(), RagServicer(), LocalNetwork()
    key = ensure_key(tmp_path, "gateway")
    guard = CallGuard(
        verifier=PrincipalVerifier(load_trusted(tmp_path), clock, reload=lambda: load_trusted(tmp_path)),
        metrics=ServerMetrics(registry),
        tracer=NoOpTracer(),
    )
    server = network.server("rag", interceptors=(guard,))
    rag_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server)
    await server.start()
    channel = ServiceChannel(
        open_channel("local:rag", network),
        signer=PrincipalSigner("gateway", key, clock),
        metrics=ClientMetrics(registry),
        tracer=NoOpTracer(),
    )
    set_current_principal(CALLER)
    yield servicer, RagRetrieval(channel, timeout=5)
    await channel.close()
    await server.stop(1.0)


async def test_passages_and_verified_quotes_come_from_the_rag_service(rag: tuple[RagServicer, RagRetrieval]) -> None:
    servicer, retrieval = rag
    since = datetime(2026, 3, 1, tzinfo=UTC)
    (found,) = await retrieval.retrieve("q", Grounding((SourceKind.ARTICLE,), since, 5))
    assert (servicer.request.top_k, list(servicer.request.kinds)) == (5, [rag_pb2.SOURCE_KIND_ARTICLE])
    assert servicer.request.since.ToDatetime(tzinfo=UTC) == since
    assert (found.kind, found.version, found.text, found.dense_score) == (SourceKind.ARTICLE, 3, TEXT, 0.4)
    assert found.published_at == datetime.fromtimestamp(1_700_000_000, UTC)
    first, second = await retrieval.verify([Quote(found, 0, 4), Quote(found, 5, 17)])
    assert first is None
    assert second is not None
    assert second.id == "c2"
    assert [(span.start, span.end, span.quote) for span in servicer.spans] == [(50, 54, "One."), (55, 67, "Two is here.")]


async def test_collections_limit_documents_and_nothing_else(rag: tuple[RagServicer, RagRetrieval]) -> None:
    servicer, retrieval = rag
    both = (SourceKind.ARTICLE, SourceKind.DOCUMENT)
    for kinds, sent in ((both, ["handbook"]), ((SourceKind.ARTICLE,), [])):
        await retrieval.retrieve("q", Grounding(kinds, collections=("handbook",)))
        assert list(servicer.request.collection_ids) == sent


async def test_answer_of_another_length_verifies_nothing(rag: tuple[RagServicer, RagRetrieval]) -> None:
    servicer, retrieval = rag
    (found,) = await retrieval.retrieve("q", Grounding())
    assert not servicer.request.HasField("since")
    servicer.too_few = True
    assert await retrieval.verify([Quote(found, 0, 4), Quote(found, 5, 17)]) == [None, None]


async def test_failure_of_the_rag_service_passes_through(rag: tuple[RagServicer, RagRetrieval]) -> None:
    with pytest.raises(WireroomError) as caught:
        await rag[1].retrieve("fail", Grounding())
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "index_unavailable")
