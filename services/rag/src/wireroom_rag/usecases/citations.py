"""Check that quotes stand where they claim to, and follow permalinks back to the text."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from wireroom_common.errors import invalid, not_found
from wireroom_rag.domain.citation import Citation, quote_stands_in
from wireroom_rag.domain.document import page_at
from wireroom_rag.domain.passage import CitedText, Span
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.index import StoredTexts

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


@dataclass(frozen=True)
class VerifiedCitation:
    """A citation's id, and the SHA-256 of what stands in its span (UTF-8, hexadecimal)."""

    id: str
    sha256: str


class VerifyCitations:
    """Answers, for each claim in order, with the citation, or None if the quote does not stand there."""

    def __init__(self, texts: StoredTexts) -> None:
        self._texts = texts

    async def __call__(self, scope: Scope, spans: Sequence[ClaimedSpan]) -> list[VerifiedCitation | None]:
        if len(spans) > MAX_SPANS:
            raise invalid("too_many_spans", f"At most {MAX_SPANS} spans are checked at once.", field="spans")
        claims = [_well_formed(span) for span in spans]
        wanted = list(dict.fromkeys(claim for claim in claims if claim is not None))
        texts = dict(zip(wanted, await self._texts.spans(scope, wanted), strict=True))
        # Two million characters at most, normalised and hashed: too long for the event loop.
        return await asyncio.to_thread(
            lambda: [
                _verified(claim, span.quote, texts[claim]) if claim is not None else None
                for claim, span in zip(claims, spans, strict=True)
            ]
        )


class ResolveCitation:
    """The cited text. NOT_FOUND for malformed ids, for what is gone or changed, and for what the caller may not read."""

    def __init__(self, texts: StoredTexts) -> None:
        self._texts = texts

    async def __call__(self, scope: Scope, citation_id: str) -> ResolvedCitation:
        citation = Citation.decode(citation_id)
        if citation is None or citation.end - citation.start > MAX_SPAN:
            raise not_found("citation")
        found = await self._texts.span(
            scope, Span(citation.document_id, citation.version, citation.start, citation.end), context=CONTEXT
        )
        if found is None or not citation.matches(found.text):
            raise not_found("citation")
        digest = hashlib.sha256(found.text.encode("utf-8")).hexdigest()
        return ResolvedCitation(citation, found, page_at(found.page_starts, citation.start), digest)


def _well_formed(claimed: ClaimedSpan) -> Span | None:
    in_range = (
        0 <= claimed.start < claimed.end <= _MAX and claimed.end - claimed.start <= MAX_SPAN and 0 < claimed.version <= _MAX
    )
    if claimed.document_id is None or not in_range:
        return None
    return Span(claimed.document_id, claimed.version, claimed.start, claimed.end)


def _verified(span: Span, quote: str, found: str | None) -> VerifiedCitation | None:
    if found is None or not quote_stands_in(quote, found):
        return None
    citation = Citation.of(span.document_id, span.version, span.start, span.end, found)
    return VerifiedCitation(citation.encode(), hashlib.sha256(found.encode("utf-8")).hexdigest())
