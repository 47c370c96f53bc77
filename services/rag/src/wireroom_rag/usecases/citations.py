"""Check that quotes stand where they claim to, and follow permalinks back to the text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from wireroom_common.errors import invalid, not_found
from wireroom_rag.adapters.retrieval_sql import CitedText, IndexReader
from wireroom_rag.domain.citation import Citation, quote_stands_in
from wireroom_rag.domain.document import page_at
from wireroom_rag.domain.scope import Scope

MAX_SPANS = 100
MAX_SPAN = 20_000
CONTEXT = 300
_MAX = 2**31 - 1


@dataclass(frozen=True)
class ClaimedSpan:
    """What a citing sentence claims: `quote` stands in this span."""

    document_id: UUID | None
    version: int
    start: int
    end: int
    quote: str


@dataclass(frozen=True)
class ResolvedCitation:
    """A citation with its text."""

    citation: Citation
    found: CitedText
    page: int
    sha256: str


class VerifyCitations:
    """Answers, for each claim in order, with the citation's id, or None if the quote does not stand there."""

    def __init__(self, index: IndexReader) -> None:
        self._index = index

    async def __call__(self, scope: Scope, spans: Sequence[ClaimedSpan]) -> list[str | None]:
        if len(spans) > MAX_SPANS:
            raise invalid("too_many_spans", f"At most {MAX_SPANS} spans are checked at once.", field="spans")
        return [await self._check(scope, span) for span in spans]

    async def _check(self, scope: Scope, span: ClaimedSpan) -> str | None:
        well_formed = 0 <= span.start < span.end <= _MAX and span.end - span.start <= MAX_SPAN and 0 < span.version <= _MAX
        if span.document_id is None or not well_formed:
            return None
        found = await self._index.span(scope, span.document_id, span.version, start=span.start, end=span.end)
        if found is None or not quote_stands_in(span.quote, found.text):
            return None
        return Citation.of(span.document_id, span.version, span.start, span.end, found.text).encode()


class ResolveCitation:
    """The cited text. NOT_FOUND for malformed ids, for what is gone or changed, and for what the caller may not read."""

    def __init__(self, index: IndexReader) -> None:
        self._index = index

    async def __call__(self, scope: Scope, citation_id: str) -> ResolvedCitation:
        citation = Citation.decode(citation_id)
        if citation is None or citation.end - citation.start > MAX_SPAN:
            raise not_found("citation")
        found = await self._index.span(
            scope, citation.document_id, citation.version, start=citation.start, end=citation.end, context=CONTEXT
        )
        if found is None or not citation.matches(found.text):
            raise not_found("citation")
        digest = hashlib.sha256(found.text.encode("utf-8")).hexdigest()
        return ResolvedCitation(citation, found, page_at(found.page_starts, citation.start), digest)
