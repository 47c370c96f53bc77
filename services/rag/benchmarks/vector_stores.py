# ruff: noqa: INP001, T201 - a program, not a package
"""The same vectors in PostgreSQL and in LanceDB: time to write and to search, recall beside an exact search, size.

`python services/rag/benchmarks/vector_stores.py [--vectors 20000] [--queries 100]`. Needs LanceDB (`make lancedb`) and nothing running: it
starts a PostgreSQL of its own. Both are searched through the index, with the same checks of what may be seen, by their graphs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rag_vector_rig import Indexed, clustered, lance
from sqlalchemy import text

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters.connections import worker

_EACH = 200
_DEPTH = 10


async def _measured(indexed: Indexed, name: str, count: int, queries: int) -> None:
    tenant_id = uuid4()
    vectors = clustered(count)
    before = time.perf_counter()
    for start in range(0, count, _EACH):
        await indexed.index(tenant_id, [vectors[start : start + _EACH]], word=str(start))
    written = time.perf_counter() - before
    before = time.perf_counter()
    if indexed.outside is not None:
        await indexed.outside.tidy(tenant_id, await indexed.generation(tenant_id))
    tidied = time.perf_counter() - before
    asked = (clustered(queries) + 0.02 * clustered(queries, seed=1)).astype(np.float32)
    taken, hits = [], 0
    for query in asked:
        before = time.perf_counter()
        found = await indexed.search(tenant_id, query, top_k=_DEPTH)
        taken.append(time.perf_counter() - before)
        exact = set(np.argsort(-(vectors @ query))[:_DEPTH].tolist())
        hits += len(exact & {int(passage.text) + passage.start // 10 for passage in found})
    p50, p95 = np.percentile(taken, [50, 95]) * 1000
    print(
        f"{name}: written in {written:.0f} s, graph and compaction {tidied:.0f} s; search p50 {p50:.1f} ms, p95 {p95:.1f} ms;"
        f" recall@{_DEPTH} {hits / (_DEPTH * queries):.3f}",
        flush=True,
    )


async def _main(folder: Path, count: int, queries: int) -> None:
    postgres = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        url = DatabaseUrl.parse(postgres.admin_url(postgres.start()))
        bootstrap(url, ["rag"])
        upgrade(url, "rag")
        database = Database(url, "rag")
        store = lance(folder / "vectors", exact_up_to=0)
        await _measured(Indexed(database, store, exact_up_to=0), "LanceDB", count, queries)
        await _measured(Indexed(database, None, exact_up_to=0), "PostgreSQL", count, queries)
        async with worker(database, uuid4()) as connection:
            graph = (await connection.execute(text("SELECT pg_relation_size('chunks_embedding_384')"))).scalar_one()
        files = sum(path.stat().st_size for path in (folder / "vectors").rglob("*") if path.is_file())
        print(
            f"LanceDB's folder {files / 1e6:.0f} MB; PostgreSQL's graph {graph / 1e6:.0f} MB and {count * 776 / 1e6:.0f} MB of vectors"
        )
        await store.stop()
        await database.close()
    finally:
        postgres.stop()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrbench") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir(mode=0o755)
        asyncio.run(_main(folder, given.vectors, given.queries))


if __name__ == "__main__":
    main()
