"""`RetrievalService`."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from wireroom_common.errors import invalid
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc
from wireroom_rag.domain.collection import notes
from wireroom_rag.domain.member_filter import member_filter
from wireroom_rag.domain.passage import FoundPassage
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.transport.scopes import readable_scope, scope_of_kinds
from wireroom_rag.usecases.citations import ClaimedSpan, ResolveCitation, VerifyCitations
from wireroom_rag.usecases.retrieve import Retrieve

_KINDS = {SourceKind.DOCUMENT: rag_pb2.SOURCE_KIND_DOCUMENT, SourceKind.ARTICLE: rag_pb2.SOURCE_KIND_ARTICLE}


class RetrievalServicer(rag_pb2_grpc.RetrievalServiceServicer):
    """Maps messages to the use cases."""

    def __init__(self, *, retrieve: Retrieve, verify: VerifyCitations, resolve: ResolveCitation) -> None:
        self._retrieve = retrieve
        self._verify = verify
        self._resolve = resolve

    async def Retrieve(self, request: rag_pb2.RetrieveRequest, context: Any) -> rag_pb2.RetrieveResponse:  # noqa: N802, ARG002 - the rpc's signature
        scope = scope_of_kinds(request.kinds, collections=bool(request.collection_ids))
        if (request.member_attributes or request.member_filter) and not request.collection_ids:
            raise invalid(
                "collections_missing", "Attributes are those of members of a collection: name it.", field="collection_ids"
            )
        try:
            since = request.since.ToDatetime(tzinfo=UTC) if request.HasField("since") else None
        except (ValueError, OverflowError):
            raise invalid("since_out_of_range", "`since` is not a date of the years 1 to 9999.", field="since") from None
        found = await self._retrieve(
            scope,
            request.query,
            top_k=request.top_k,
            since=since,
            collections=request.collection_ids,
            attributes=notes(request.member_attributes, "attributes"),
            passing=member_filter(request.member_filter),
            neighbours=request.neighbours,
            diversity=request.diversity,
        )
        return rag_pb2.RetrieveResponse(
            passages=[_passage(passage, explain=request.explain) for passage in found.passages], degraded=found.degraded
        )

    async def VerifyCitations(  # noqa: N802 - the rpc's signature
        self,
        request: rag_pb2.VerifyCitationsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> rag_pb2.VerifyCitationsResponse:
        spans = [ClaimedSpan(_uuid(span.document_id), span.version, span.start, span.end, span.quote) for span in request.spans]
        verified = await self._verify(readable_scope(), spans)
        return rag_pb2.VerifyCitationsResponse(
            citations=[
                rag_pb2.VerifiedCitation(verified=True, citation_id=found.id, sha256=found.sha256)
                if found is not None
                else rag_pb2.VerifiedCitation()
                for found in verified
            ]
        )

    async def ResolveCitation(  # noqa: N802 - the rpc's signature
        self,
        request: rag_pb2.ResolveCitationRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> rag_pb2.ResolveCitationResponse:
        resolved = await self._resolve(readable_scope(), request.citation_id)
        citation, found = resolved.citation, resolved.found
        return rag_pb2.ResolveCitationResponse(
            citation_id=request.citation_id,
            document_id=str(citation.document_id),
            version=citation.version,
            kind=_KINDS[found.kind],
            title=found.title,
            url=found.url,
            page=resolved.page,
            start=citation.start,
            end=citation.end,
            text=found.text,
            sha256=resolved.sha256,
            context_before=found.before,
            context_after=found.after,
        )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _passage(found: FoundPassage, *, explain: bool) -> rag_pb2.Passage:
    passage = rag_pb2.Passage(
        id=str(found.id),
        document_id=str(found.document_id),
        version=found.version,
        kind=_KINDS[found.kind],
        title=found.title,
        url=found.url,
        page=found.page,
        start=found.start,
        end=found.end,
        text=found.text,
        score=found.score,
        dense_score=found.dense_score,
        lexical_score=found.lexical_score,
        provider_terms=[rag_pb2.ProviderTerms(names=names) for names in found.provider_terms],
    )
    if found.published_at is not None:
        passage.published_at.FromDatetime(found.published_at)
    if explain:
        passage.explanation.CopyFrom(
            rag_pb2.Explanation(
                dense_rank=found.dense_rank,
                lexical_rank=found.lexical_rank,
                dense_score=found.dense_score,
                lexical_score=found.lexical_score,
                fused_score=found.fused_score,
                rerank_score=found.rerank_score,
                mmr_penalty=found.mmr_penalty,
                field_scores=found.field_scores,
                recency_score=found.recency_score,
            )
        )
    return passage
