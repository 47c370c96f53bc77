"""Vectors in LanceDB: a folder or a bucket, one table for each generation of each tenant.

LanceDB is not installed unless somebody wants it: nothing imports this module but what opens the store.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import lancedb
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has no annotations
import structlog
from lancedb.index import BTree, HnswSq
from obstore.exceptions import BaseError

from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind
from wireroom_common.ids import new_id
from wireroom_rag.adapters.vector_place import VectorPlace
from wireroom_rag.domain.generation import Generation
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.vectors import Ids, NewVectors, Sought, VectorStoreError

# Tables that are kept open, and what all of them may hold in memory.
_OPEN_TABLES = 128
_METADATA_BYTES = 64 << 20
_SEARCHES_AT_ONCE = 8
# More ids are not named in a filter unless that saves reading most of the table.
_NAMED_IDS = 2_000
_NAMED_SHARE = 8
# Candidates of the graph, whose vectors have one byte per number, for each that is wanted; they are compared again as they are stored.
_REFINE = 4
_EF = 400
_EF_MOST = 8_000
# One graph each; building a larger one would take more memory than the service has.
_PARTITION_ROWS = 500_000
_PARTITIONS_READ = 20
_NEIGHBOURS = 16
_EF_CONSTRUCTION = 150
# Readers in other processes may still be at a version that was replaced so long ago.
_OLD_VERSIONS = timedelta(minutes=15)

# Of one tenant and one generation.
_TABLE = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class LanceVectors:
    """Implements `VectorIndex` and `VectorTidying`. Any number of processes may use one place at a time, if all of them see it.

    `seconds` is the limit of a search or a write, `tidy_seconds` of compaction. Tables of up to `exact_up_to` vectors have no graph.
    """

    def __init__(
        self, place: VectorPlace, *, seconds: float, tidy_seconds: float, exact_up_to: int, cache_bytes: int = 256 << 20
    ) -> None:
        self._place = place
        self._seconds = seconds
        self._tidy_seconds = tidy_seconds
        self._exact_up_to = exact_up_to
        self._session = lancedb.Session(index_cache_size_bytes=cache_bytes, metadata_cache_size_bytes=_METADATA_BYTES)
        self._connection: lancedb.AsyncConnection | None = None
        self._tables: OrderedDict[str, lancedb.AsyncTable] = OrderedDict()
        self._searches = asyncio.Semaphore(_SEARCHES_AT_ONCE)

    async def begin(self, tenant_id: UUID, dimension: int) -> str:
        """Make a table for a generation that begins; what the generation has to remember. UNAVAILABLE when it cannot be made."""
        # Of two that are made at once under one name, the second would overwrite what was already written into the first.
        table = f"{tenant_id.hex}-{new_id().hex}"
        async with self._answering(self._seconds):
            name = f"{await self._place.name()}/{table}"
            await (await self._connected()).create_table(table, schema=_schema(dimension))
        return name

    async def abandon(self, store: str) -> None:
        """The generation did not begin."""
        async with self._answering(self._seconds):
            await (await self._connected()).drop_table(await self._table_name(store), ignore_missing=True)

    async def stop(self) -> None:
        """Close what is open."""
        self._tables.clear()
        if self._connection is not None:
            self._connection.close()  # type: ignore[no-untyped-call]  # it has no annotations
            self._connection = None

    async def add(self, tenant_id: UUID, generation: Generation, new: NewVectors) -> None:
        """Keep these; the rows of the chunks may follow, or never come. Repeats are harmless."""
        dimension = generation.blueprint.dimension
        if new.vectors.shape != (len(new.ids), dimension):
            msg = f"{len(new.ids)} vectors of {dimension} dimensions were expected, not {new.vectors.shape}."
            raise ValueError(msg)
        if not new.ids:
            return
        batch = await asyncio.to_thread(_batch, new, dimension)

        async def added(table: lancedb.AsyncTable) -> bool:
            await table.add(batch)
            return True

        async with self._answering(self._seconds):
            if not await self._on_table(tenant_id, generation, added):
                msg = f"The table of {generation.store} is missing."
                raise OSError(msg)

    async def remove(self, tenant_id: UUID, generation: Generation, ids: Sequence[int]) -> None:
        """Forget these; unknown ones are ignored."""

        async def removed(table: lancedb.AsyncTable) -> None:
            for first in range(0, len(ids), _NAMED_IDS):
                await table.delete(_named(ids[first : first + _NAMED_IDS]))

        async with self._answering(self._seconds):
            await self._on_table(tenant_id, generation, removed)

    async def drop(self, tenant_id: UUID, generation: Generation) -> None:
        """Forget all of a generation. Repeats are harmless."""
        async with self._answering(self._seconds):
            name = await self._table_name(generation.store, tenant_id)
            self._tables.pop(name, None)
            await self._place.confirm()
            await (await self._connected()).drop_table(name, ignore_missing=True)

    async def nearest(self, sought: Sought, depth: int) -> Sequence[tuple[int, float]]:
        """Chunk id and cosine similarity, best first, ties by id; up to `depth`. Fewer mean that there are no more."""
        if sought.ids is not None and not len(sought.ids):
            return []

        async def found(table: lancedb.AsyncTable) -> Sequence[tuple[int, float]]:
            if sought.ids is None:
                return await _found(table, sought, depth, _filter(sought), exact=False)
            rows = await table.count_rows()
            if len(sought.ids) <= _NAMED_IDS or rows > _NAMED_SHARE * len(sought.ids):
                named = await asyncio.to_thread(_named, sought.ids.tolist())
                return await _found(table, sought, depth, named, exact=True)
            return await _among(table, sought, sought.ids, depth, rows)

        # Waiting for a place counts: of a store that hangs, no query waits longer than that.
        async with self._answering(self._seconds), self._searches:
            return await self._on_table(sought.scope.tenant_id, sought.generation, found) or []

    async def vectors(self, tenant_id: UUID, generation: Generation, ids: Sequence[int]) -> Mapping[int, Vectors]:
        """The vectors of chunks that the caller has found; unknown ones are left out."""
        if not ids:
            return {}

        async def read(table: lancedb.AsyncTable) -> Mapping[int, Vectors]:
            rows = await table.query().where(_named(ids)).select(["id", "vector"]).to_arrow()
            numbers = [np.asarray(vector, dtype=np.float32) for vector in rows["vector"].to_numpy(zero_copy_only=False)]
            return dict(zip(rows["id"].to_pylist(), numbers, strict=True))

        async with self._answering(self._seconds):
            return await self._on_table(tenant_id, generation, read) or {}

    async def count(self, tenant_id: UUID, generation: Generation) -> int:
        """How many vectors there are, with or without a chunk."""

        async def counted(table: lancedb.AsyncTable) -> int:
            return await table.count_rows()

        async with self._answering(self._seconds):
            return await self._on_table(tenant_id, generation, counted) or 0

    async def tidy(self, tenant_id: UUID, generation: Generation) -> None:
        """Merge small files, rewrite those with removed vectors, build or extend the graph, delete what is no longer read."""
        async with self._answering(self._tidy_seconds):
            await self._on_table(tenant_id, generation, self._tidied)

    async def _tidied(self, table: lancedb.AsyncTable) -> None:
        rows = await table.count_rows()
        if rows > self._exact_up_to:
            built = {index.index_type for index in await table.list_indices()}
            if "BTree" not in built:
                await table.create_index("id", config=BTree())
            if "IvfHnswSq" not in built:
                graph = HnswSq(
                    distance_type="cosine",
                    num_partitions=1 + rows // _PARTITION_ROWS,
                    m=_NEIGHBOURS,
                    ef_construction=_EF_CONSTRUCTION,
                )
                await table.create_index("vector", config=graph)
        await table.optimize(cleanup_older_than=_OLD_VERSIONS)

    async def _on_table(
        self, tenant_id: UUID, generation: Generation, work: Callable[[lancedb.AsyncTable], Awaitable[_T]]
    ) -> _T | None:
        """What `work` makes of the table; None when there is none (any more)."""
        table = await self._open(tenant_id, generation)
        try:
            if table is not None:
                return await work(table)
        except (RuntimeError, OSError, ValueError):
            # Dropped by another process since it was opened? Then it is not found now.
            self._tables.clear()
            table = await self._open(tenant_id, generation)
            if table is not None:
                return await work(table)
        await self._place.confirm()
        return None

    async def _table_name(self, store: str, tenant_id: UUID | None = None) -> str:
        place, _, table = store.partition("/")
        if place != await self._place.name():
            _log.warning("vectors_elsewhere", store=store)
            raise VectorStoreError(
                ErrorKind.UNAVAILABLE,
                "vector_store_elsewhere",
                "The vectors of this index are in a store that is not set up here. Rebuild the index, or ask your administrator.",
                retry_after=30,
            )
        if not _TABLE.fullmatch(table) or (tenant_id is not None and not table.startswith(tenant_id.hex)):
            msg = f"'{store}' is no table of this tenant."
            raise AssertionError(msg)
        return table

    async def _connected(self) -> lancedb.AsyncConnection:
        if self._connection is None:
            # What another process wrote is seen by the next search.
            self._connection = await lancedb.connect_async(
                self._place.uri,
                storage_options=dict(self._place.options) or None,
                read_consistency_interval=timedelta(0),
                session=self._session,
            )
        return self._connection

    async def _open(self, tenant_id: UUID, generation: Generation) -> lancedb.AsyncTable | None:
        name = await self._table_name(generation.store, tenant_id)
        table = self._tables.get(name)
        if table is None:
            try:
                table = await (await self._connected()).open_table(name)
            except ValueError as error:
                if "not found" not in str(error):
                    raise
                return None
            self._tables[name] = table
            if len(self._tables) > _OPEN_TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(name)
        return table

    @asynccontextmanager
    async def _answering(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise VectorStoreError(
                ErrorKind.DEADLINE, "vector_store_slow", "The store of vectors took too long; try again shortly.", retry_after=5
            ) from error
        except (RuntimeError, OSError, ValueError, BaseError) as error:
            # Its own errors are of these types.
            _log.warning("vector_store_failed", error=describe_error(error))
            raise VectorStoreError(
                ErrorKind.UNAVAILABLE,
                "vector_store_unavailable",
                "The store of vectors does not answer; try again shortly.",
                retry_after=5,
            ) from error


def _schema(dimension: int) -> Any:
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("document_id", pa.binary(16), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("published_at", pa.timestamp("us", "UTC")),
            pa.field("vector", pa.list_(pa.float16(), dimension), nullable=False),
        ]
    )


def _batch(new: NewVectors, dimension: int) -> Any:
    numbers = pa.array(new.vectors.astype(np.float16).reshape(-1))
    return pa.record_batch(
        [
            pa.array(new.ids, pa.int64()),
            pa.array([document_id.bytes for document_id in new.document_ids], pa.binary(16)),
            pa.array([kind.value for kind in new.kinds], pa.string()),
            pa.array(new.published, pa.timestamp("us", "UTC")),
            pa.FixedSizeListArray.from_arrays(numbers, dimension),
        ],
        schema=_schema(dimension),
    )


def _named(ids: Sequence[int]) -> str:
    return f"id IN ({','.join(str(int(chunk_id)) for chunk_id in ids)})"


def _filter(sought: Sought) -> str:
    conditions = []
    if set(sought.scope.kinds) != set(SourceKind):
        conditions.append(f"kind IN ({','.join(repr(kind.value) for kind in sorted(sought.scope.kinds))})")
    if sought.since is not None:
        conditions.append(f"(published_at IS NULL OR published_at >= {_timestamp(sought.since)})")
    return " AND ".join(conditions)


def _timestamp(moment: datetime) -> str:
    return f"to_timestamp_micros({int(moment.astimezone(UTC).timestamp() * 1_000_000)})"


async def _among(table: lancedb.AsyncTable, sought: Sought, allowed: Ids, depth: int, rows: int) -> Sequence[tuple[int, float]]:
    """Of allowed chunks that are a good part of the table: naming them all would take longer than looking at more."""
    deeper = min(rows, 2 * depth * -(-rows // len(allowed)))
    while True:
        found = await _found(table, sought, deeper, "", exact=True)
        inside = np.isin(np.fromiter((chunk_id for chunk_id, _ in found), np.int64, len(found)), allowed)
        if np.count_nonzero(inside) >= depth or deeper >= rows:
            return [entry for entry, here in zip(found, inside.tolist(), strict=True) if here][:depth]
        deeper = min(rows, 4 * deeper)


async def _found(
    table: lancedb.AsyncTable, sought: Sought, depth: int, where: str, *, exact: bool
) -> Sequence[tuple[int, float]]:
    # A write that was repeated after its time limit may stand there twice.
    asked = depth
    while True:
        query = table.query().nearest_to(sought.vector.tolist()).distance_type("cosine").select(["id", "_distance"]).limit(asked)
        if where:
            query = query.where(where)
        if exact:
            query = query.bypass_vector_index()
        else:
            refine = max(1, min(_REFINE, _EF_MOST // asked))
            query = query.nprobes(_PARTITIONS_READ).refine_factor(refine).ef(max(_EF, refine * asked))
        rows = await query.to_arrow()
        ids, distances = rows["id"].to_numpy(), rows["_distance"].to_numpy()
        order = np.lexsort((ids, distances))
        best: dict[int, float] = {}
        for chunk_id, distance in zip(ids[order].tolist(), distances[order].tolist(), strict=True):
            best.setdefault(chunk_id, 1.0 - distance)
        if len(best) >= depth or len(ids) < asked:
            return list(best.items())[:depth]
        asked += depth
