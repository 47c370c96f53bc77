"""Postings in blocks: reading those of a query's stems, and putting chunks in and taking them out.

Blocks of a stem have disjoint ranges of ids. Whoever changes them holds the generation's row in `index_statistics`, which is locked after
the rows of chunks were written or deleted, of several generations by ascending number: so nobody waits for one who waits for him, and
the graph of vectors, which takes the most time, is written before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters import binary_rows
from wireroom_rag.adapters.postings_format import Block, blocks, joined, postings_of, without
from wireroom_rag.domain.bm25 import Population, Postings

# Of the stem that is no word, every chunk has one posting: with the numbers of its terms.
LENGTHS = ""
# Postings that one query reads, 64 to 128 MB; the most frequent words of a longer one are left out.
_MOST_READ = 16_000_000
# Stems of one statement.
_SLICE = 2_000

_OF_STEMS = "tenant_id = %(tenant_id)s AND generation = %(generation)s AND stem = ANY(%(stems)s)"
_READ = f"""
SELECT stem, format, array_send(array_agg(first_id)), array_send(array_agg(count)), string_agg(payload, '')
  FROM posting_blocks WHERE {_OF_STEMS} GROUP BY stem, format
"""  # noqa: S608 - constants of this file
_FREQUENCIES = f"SELECT stem, sum(count)::bigint FROM posting_blocks WHERE {_OF_STEMS} GROUP BY stem ORDER BY 2, 1"  # noqa: S608 - likewise
# The block that begins last at or before the range, and those that begin in it. As laterals, so that the planner never reads all.
_TOUCHED = """
SELECT touched.stem, touched.first_id, b.last_id, b.count, b.format, b.payload
  FROM (SELECT DISTINCT t.stem, t.first_id
          FROM unnest(%(stems)s::text[], %(low)s::bigint[], %(high)s::bigint[]) AS wanted (stem, low, high)
          CROSS JOIN LATERAL (
              SELECT p.stem, p.first_id FROM posting_blocks p
               WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s AND p.stem = wanted.stem
                 AND p.first_id <= wanted.high AND p.first_id >= COALESCE((
                     SELECT q.first_id FROM posting_blocks q
                      WHERE q.tenant_id = %(tenant_id)s AND q.generation = %(generation)s AND q.stem = wanted.stem
                        AND q.first_id <= wanted.low ORDER BY q.first_id DESC LIMIT 1), 0)
              OFFSET 0) t) touched
  CROSS JOIN LATERAL (
      SELECT p.last_id, p.count, p.format, p.payload FROM posting_blocks p
       WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s AND p.stem = touched.stem
         AND p.first_id = touched.first_id LIMIT 1) b
 ORDER BY touched.stem, touched.first_id
"""
_WRITE = """
INSERT INTO posting_blocks AS b (tenant_id, generation, stem, first_id, last_id, count, format, payload)
SELECT %(tenant_id)s, %(generation)s, stem, first_id, last_id, count, format, payload
  FROM unnest(%(stems)s::text[], %(firsts)s::bigint[], %(lasts)s::bigint[], %(counts)s::integer[], %(formats)s::smallint[],
              %(payloads)b::bytea[]) AS new (stem, first_id, last_id, count, format, payload)
ON CONFLICT (tenant_id, generation, stem, first_id) DO UPDATE
   SET last_id = excluded.last_id, count = excluded.count, format = excluded.format, payload = excluded.payload
"""
_DELETE = """
DELETE FROM posting_blocks b USING unnest(%(stems)s::text[], %(firsts)s::bigint[]) AS gone (stem, first_id)
 WHERE b.tenant_id = %(tenant_id)s AND b.generation = %(generation)s AND b.stem = gone.stem AND b.first_id = gone.first_id
"""


@dataclass(frozen=True)
class StemBlocks:
    """The blocks of some stems, not taken apart yet."""

    parts: Mapping[str, Sequence[tuple[int, bytes, bytes, bytes]]]

    def postings(self, stem: str) -> Postings:
        """Where the stem stands; sorted by id if it is written in one format."""
        found = [
            joined(number, binary_rows.sent(firsts, ">i8"), binary_rows.sent(counts, ">i4"), payload)
            for number, firsts, counts, payload in self.parts.get(stem, ())
        ]
        if len(found) == 1:
            return found[0]
        return Postings(
            np.concatenate([part.ids for part in found]) if found else np.empty(0, dtype=np.int64),
            np.concatenate([part.counts for part in found]) if found else np.empty(0, dtype=np.int64),
            np.concatenate([part.title_counts for part in found]) if found else np.empty(0, dtype=np.int64),
        )

    def weighted(self, weights: Mapping[str, int]) -> Iterator[tuple[int, Postings]]:
        """The postings of each stem that was read, with its weight in the query."""
        return ((weight, self.postings(stem)) for stem, weight in weights.items() if stem in self.parts)

    def population(self) -> Population:
        """All chunks of the generation, if their lengths were read."""
        lengths = self.postings(LENGTHS)
        order = np.argsort(lengths.ids, kind="stable")
        return Population(lengths.ids[order], lengths.counts[order], lengths.title_counts[order])


async def read_blocks(
    connection: AsyncConnection, tenant_id: UUID, generation: int, stems: Sequence[str], *, chunks: int, lengths: bool
) -> StemBlocks:
    """The blocks of the stems, and of the chunks' lengths if wanted.

    Of words that stand in more places together than can be read, the most frequent ones are left out; the rarest is always read.
    """
    values = {"tenant_id": tenant_id, "generation": generation}
    chosen = list(stems)
    if len(chosen) > 1 and len(chosen) * chunks > _MOST_READ:
        counted = await binary_rows.fetch(connection, _FREQUENCIES, {**values, "stems": chosen})
        sums = np.cumsum([count for _, count in counted])
        chosen = [stem for place, (stem, _) in enumerate(counted) if not place or sums[place] <= _MOST_READ]
    rows = await binary_rows.fetch(connection, _READ, {**values, "stems": [*chosen, LENGTHS] if lengths else chosen})
    parts: dict[str, list[tuple[int, bytes, bytes, bytes]]] = {}
    for stem, number, firsts, counts, payload in rows:
        parts.setdefault(stem, []).append((number, firsts, counts, payload))
    return StemBlocks(parts)


async def put_in(connection: AsyncConnection, tenant_id: UUID, generation: int, added: Mapping[str, Postings]) -> None:
    """Merge the postings, sorted by id, into the blocks; the caller holds the generation's statistics."""
    stems = sorted(added)
    for start in range(0, len(stems), _SLICE):
        part = stems[start : start + _SLICE]
        ranges = [(stem, int(added[stem].ids[0]), int(added[stem].ids[-1])) for stem in part]
        found = await _touched(connection, tenant_id, generation, ranges)
        changed, gone = await asyncio.to_thread(_merged, found, {stem: added[stem] for stem in part})
        await _write(connection, tenant_id, generation, changed, gone)


async def take_out(
    connection: AsyncConnection, tenant_id: UUID, generation: int, documents: Sequence[tuple[Sequence[str], NDArray[np.int64]]]
) -> None:
    """Remove the chunks of documents, of each with the stems that it has; the caller holds the generation's statistics."""
    ranges = [(stem, int(ids.min()), int(ids.max())) for stems, ids in documents if len(ids) for stem in {*stems, LENGTHS}]
    ranges.sort()
    gone = np.concatenate([ids for _, ids in documents]) if documents else np.empty(0, dtype=np.int64)
    for start in range(0, len(ranges), _SLICE):
        found = await _touched(connection, tenant_id, generation, ranges[start : start + _SLICE])
        changed, emptied = await asyncio.to_thread(_reduced, found, gone)
        await _write(connection, tenant_id, generation, changed, emptied)


_Placed = tuple[str, Block]


async def _touched(
    connection: AsyncConnection, tenant_id: UUID, generation: int, ranges: Sequence[tuple[str, int, int]]
) -> list[_Placed]:
    stems, low, high = zip(*ranges, strict=True)
    rows = await binary_rows.fetch(
        connection,
        _TOUCHED,
        {"tenant_id": tenant_id, "generation": generation, "stems": list(stems), "low": list(low), "high": list(high)},
    )
    return [(stem, Block(first, last, count, number, payload)) for stem, first, last, count, number, payload in rows]


def _merged(found: Sequence[_Placed], added: Mapping[str, Postings]) -> tuple[list[_Placed], list[tuple[str, int]]]:
    """Blocks to write, and the keys of those to delete."""
    before: dict[str, list[Block]] = {}
    for stem, block in found:
        before.setdefault(stem, []).append(block)
    changed: list[_Placed] = []
    gone: list[tuple[str, int]] = []
    for stem, new in added.items():
        old = before.get(stem, [])
        known = {block.first_id: block for block in old}
        fresh = list(blocks(_sorted([postings_of(old), new]) if old else new))
        changed += [(stem, block) for block in fresh if known.get(block.first_id) != block]
        kept = {block.first_id for block in fresh}
        gone += [(stem, first) for first in known if first not in kept]
    return changed, gone


def _reduced(found: Sequence[_Placed], gone: NDArray[np.int64]) -> tuple[list[_Placed], list[tuple[str, int]]]:
    changed: list[_Placed] = []
    emptied: list[tuple[str, int]] = []
    for stem, block in found:
        left = without(block, gone)
        if left is None:
            emptied.append((stem, block.first_id))
        elif left is not block:
            changed.append((stem, left))
    return changed, emptied


def _sorted(parts: Sequence[Postings]) -> Postings:
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids, kind="stable")
    counts = np.concatenate([part.counts.astype(np.int64) for part in parts])
    titles = np.concatenate([part.title_counts.astype(np.int64) for part in parts])
    return Postings(ids[order], counts[order], titles[order])


async def _write(
    connection: AsyncConnection, tenant_id: UUID, generation: int, changed: Sequence[_Placed], gone: Sequence[tuple[str, int]]
) -> None:
    values = {"tenant_id": tenant_id, "generation": generation}
    if gone:
        keys = {"stems": [stem for stem, _ in gone], "firsts": [first for _, first in gone]}
        await binary_rows.execute(connection, _DELETE, {**values, **keys})
    if changed:
        await binary_rows.execute(
            connection,
            _WRITE,
            {
                **values,
                "stems": [stem for stem, _ in changed],
                "firsts": [block.first_id for _, block in changed],
                "lasts": [block.last_id for _, block in changed],
                "counts": [block.count for _, block in changed],
                "formats": [block.format for _, block in changed],
                "payloads": [block.payload for _, block in changed],
            },
        )
