"""Blocks of postings: records of fixed width, little-endian, by ascending chunk id.

Format 1 takes four bytes a posting (id as the distance from the block's first one in 16 bits, how often the stem stands in the text and
in the titles in 8 each), format 2 takes eight (32, 16, 16) for what does not fit. Higher counts than 65,535 are stored as that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wireroom_rag.domain.bm25 import Counts, Postings

NARROW, WIDE = 1, 2
_RECORDS = {
    NARROW: np.dtype([("id", "<u2"), ("count", "u1"), ("title", "u1")]),
    WIDE: np.dtype([("id", "<u4"), ("count", "<u2"), ("title", "<u2")]),
}
# Four blocks to a page of PostgreSQL, with their keys.
_MOST_BYTES = 1_920
_MOST = {number: _MOST_BYTES // record.itemsize for number, record in _RECORDS.items()}
_FARTHEST = {NARROW: 2**16 - 1, WIDE: 2**32 - 1}
_HIGHEST = {NARROW: 2**8 - 1, WIDE: 2**16 - 1}


@dataclass(frozen=True)
class Block:
    """Postings of one stem between two chunk ids; `first_id` and `last_id` may be farther out than what is in it."""

    first_id: int
    last_id: int
    count: int
    format: int
    payload: bytes


def blocks(postings: Postings) -> Iterator[Block]:
    """The postings, which are sorted by id, in as few blocks as they fit."""
    ids = postings.ids
    high = np.flatnonzero((postings.counts > _HIGHEST[NARROW]) | (postings.title_counts > _HIGHEST[NARROW]))
    start, size = 0, len(ids)
    while start < size:
        first = int(ids[start])
        small = int(np.searchsorted(ids, first + _FARTHEST[NARROW], side="right"))
        if len(high) and (next_high := int(np.searchsorted(high, start))) < len(high):
            small = min(small, int(high[next_high]))
        small = min(small, start + _MOST[NARROW])
        if small - start >= min(_MOST[WIDE], size - start):
            number, end = NARROW, small
        else:
            number = WIDE
            end = min(size, start + _MOST[WIDE], int(np.searchsorted(ids, first + _FARTHEST[WIDE], side="right")))
        yield _block(number, first, postings, slice(start, end))
        start = end


def postings_of(found: Sequence[Block]) -> Postings:
    """The postings of blocks, in the order of the blocks."""
    parts = [(block, np.frombuffer(block.payload, dtype=_RECORDS[block.format])) for block in found]
    return Postings(
        np.concatenate([records["id"].astype(np.int64) + block.first_id for block, records in parts]),
        np.concatenate([records["count"] for _, records in parts]),
        np.concatenate([records["title"] for _, records in parts]),
    )


def joined(number: int, first_ids: Counts | Sequence[int], counts: Counts | Sequence[int], payload: bytes) -> Postings:
    """The postings of many blocks of one format whose payloads stand one behind another."""
    records = np.frombuffer(payload, dtype=_RECORDS[number])
    bases: NDArray[np.int64] = np.repeat(np.asarray(first_ids, dtype=np.int64), counts)
    return Postings(bases + records["id"], records["count"], records["title"])


def without(block: Block, gone: NDArray[np.int64]) -> Block | None:
    """The block without these chunks: itself if it has none of them, None if it has nothing else."""
    records = np.frombuffer(block.payload, dtype=_RECORDS[block.format])
    kept = records[~np.isin(records["id"].astype(np.int64) + block.first_id, gone)]
    if len(kept) == len(records):
        return block
    return Block(block.first_id, block.last_id, len(kept), block.format, kept.tobytes()) if len(kept) else None


def _block(number: int, first: int, postings: Postings, part: slice) -> Block:
    ids = postings.ids[part]
    records = np.empty(len(ids), dtype=_RECORDS[number])
    records["id"] = ids - first
    records["count"] = np.minimum(postings.counts[part].astype(np.int64), _HIGHEST[number])
    records["title"] = np.minimum(postings.title_counts[part].astype(np.int64), _HIGHEST[number])
    return Block(first, int(ids[-1]), len(ids), number, records.tobytes())
