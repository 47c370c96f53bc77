"""The rag service as the source of passages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_chat.domain.passages import Citation, Passage, Quote, SourceKind, Span
from wireroom_chat.domain.request import Grounding
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc

# Longer questions are cut: the embedding model reads 256 tokens.
_MAX_QUERY = 2000
_TO_WIRE = {SourceKind.DOCUMENT: rag_pb2.SOURCE_KIND_DOCUMENT, SourceKind.ARTICLE: rag_pb2.SOURCE_KIND_ARTICLE}
_FROM_WIRE = {value: key for key, value in _TO_WIRE.items()}


class RagRetrieval:
    """Calls `RetrievalService`; errors of the calls pass through as WireroomErrors."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        self._stub = rag_pb2_grpc.RetrievalServiceStub(channel)
        self._timeout = timeout

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        since = None
        if grounding.since is not None:
            since = Timestamp()
            since.FromDatetime(grounding.since)
        request = rag_pb2.RetrieveRequest(
            query=query[-_MAX_QUERY:],
            top_k=grounding.top_k,
            kinds=[_TO_WIRE[kind] for kind in grounding.kinds],
            since=since,
            collection_ids=grounding.collections if SourceKind.DOCUMENT in grounding.kinds else (),
        )
        response = await self._stub.Retrieve(request, timeout=self._timeout)
        return [_passage(message) for message in response.passages]

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        if not quotes:
            return []
        verified = await self._verified([Span.of(quote) for quote in quotes])
        if len(verified) != len(quotes):
            return [None] * len(quotes)
        return [
            Citation(quote, found.citation_id, found.sha256) if found.verified and found.citation_id else None
            for quote, found in zip(quotes, verified, strict=True)
        ]

    async def stand(self, spans: Sequence[Span]) -> bool:
        found = await self._verified(spans)
        return len(found) == len(spans) and all(item.verified for item in found)

    async def _verified(self, spans: Sequence[Span]) -> list[rag_pb2.VerifiedCitation]:
        request = rag_pb2.VerifyCitationsRequest(
            spans=[
                rag_pb2.Span(document_id=span.document_id, version=span.version, start=span.start, end=span.end, quote=span.quote)
                for span in spans
            ]
        )
        return list((await self._stub.VerifyCitations(request, timeout=self._timeout)).citations)


def _passage(message: rag_pb2.Passage) -> Passage:
    return Passage(
        id=message.id,
        document_id=message.document_id,
        version=message.version,
        kind=_FROM_WIRE.get(message.kind, SourceKind.DOCUMENT),
        title=message.title,
        url=message.url,
        page=message.page,
        start=message.start,
        end=message.end,
        text=message.text,
        score=message.score,
        dense_score=message.dense_score,
        lexical_score=message.lexical_score,
        published_at=message.published_at.ToDatetime(tzinfo=UTC) if message.HasField("published_at") else None,
        terms=SourceTerms(frozenset(frozenset(terms.names) for terms in message.provider_terms)),
    )
