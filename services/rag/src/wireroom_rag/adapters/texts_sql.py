"""The stored texts that citations point into."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.domain.passage import CitedText, Span
from wireroom_rag.domain.scope import Scope, SourceKind


class TextReader:
    """Implements `StoredTexts`; row-level security holds the tenant even if a query did not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def span(self, scope: Scope, span: Span, *, context: int) -> CitedText | None:
        """The span with up to `context` code points on each side; None if there is none in the scope."""
        async with scoped(self._database, scope) as connection:
            row = (
                await connection.execute(
                    text(
                        """
                        SELECT kind, title, url, page_starts, substr(content, :start + 1, :end - :start) AS span,
                               substr(content, :first + 1, :start - :first) AS before, substr(content, :end + 1, :context) AS after
                          FROM document_versions
                         WHERE tenant_id = :tenant_id AND document_id = :document_id AND version = :version
                           AND kind = ANY(CAST(:kinds AS text[])) AND char_length(content) >= :end
                        """
                    ),
                    {
                        "tenant_id": scope.tenant_id,
                        "document_id": span.document_id,
                        "version": span.version,
                        "kinds": sorted(scope.kinds),
                        "start": span.start,
                        "end": span.end,
                        "first": max(0, span.start - context),
                        "context": context,
                    },
                )
            ).one_or_none()
        if row is None:
            return None
        return CitedText(SourceKind(row.kind), row.title, row.url, tuple(row.page_starts), row.span, row.before, row.after)

    async def spans(self, scope: Scope, spans: Sequence[Span]) -> Sequence[str | None]:
        """The text of each span, in order; None where there is none in the scope."""
        if not spans:
            return []
        async with scoped(self._database, scope) as connection:
            # The spans travel, not the texts, which may have millions of characters. `|| ''` unpacks each text once, not once per span.
            rows = await connection.execute(
                text(
                    """
                    WITH wanted AS (
                        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS integer[]), CAST(:starts AS integer[]),
                                             CAST(:ends AS integer[])) WITH ORDINALITY AS s (document_id, version, start_at, end_at, place)
                    ),
                    texts AS MATERIALIZED (
                        SELECT v.document_id, v.version, v.content || '' AS content, char_length(v.content) AS length
                          FROM document_versions v
                         WHERE v.tenant_id = :tenant_id AND v.kind = ANY(CAST(:kinds AS text[])) AND v.content IS NOT NULL
                           AND (v.document_id, v.version) IN (SELECT document_id, version FROM wanted)
                    )
                    SELECT w.place, substr(t.content, w.start_at + 1, w.end_at - w.start_at) AS span
                      FROM wanted w JOIN texts t USING (document_id, version) WHERE t.length >= w.end_at
                    """
                ),
                {
                    "tenant_id": scope.tenant_id,
                    "kinds": sorted(scope.kinds),
                    "ids": [span.document_id for span in spans],
                    "versions": [span.version for span in spans],
                    "starts": [span.start for span in spans],
                    "ends": [span.end for span in spans],
                },
            )
            found: dict[int, str] = {row.place: row.span for row in rows}
        return [found.get(place) for place in range(1, len(spans) + 1)]
