# ruff: noqa: INP001, T201 - a program, not a package
"""What it costs to embed passages and a query, and to read their kept vectors.

`python services/rag/benchmarks/kept_vectors.py [--passages 256] [--rounds 5] [--model-dir DIR]`. Needs nothing running: it starts a
PostgreSQL of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from prometheus_client import CollectorRegistry

from wireroom_common.cache import Caches
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters.kept_vectors_sql import KeptVectorRows
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.embedding.embedder import Embedder
from wireroom_rag.embedding.files import DIMENSIONS, ModelFiles
from wireroom_rag.embedding.model_build import build_model
from wireroom_rag.usecases.kept_vectors import KeptVectors, passage_vectors, query_vectors

_WORDS = [
    "pump",
    "valve",
    "motor",
    "oil",
    "water",
    "pressure",
    "litre",
    "minute",
    "service",
    "manual",
    "repair",
    "part",
    "order",
    "price",
    "delivery",
    "customer",
]


async def _seconds(rounds: int, run: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(rounds):
        before = time.perf_counter()
        await run()
        taken.append(time.perf_counter() - before)
    return statistics.median(taken)


async def _run(database: Database, embedder: Embedder, count: int, rounds: int) -> None:
    chance = random.Random(1)  # noqa: S311 - the same passages in each run
    passages = [" ".join(chance.choices(_WORDS, k=180)) for _ in range(count)]
    caches = Caches(None, SystemClock(), CollectorRegistry())
    kept = KeptVectors(
        caches.open(passage_vectors(3600), bytes, durable=KeptVectorRows(database)), caches.open(query_vectors(3600), bytes)
    )
    embeddings = kept.of(uuid4(), Blueprint("minilm-l6-v2", DIMENSIONS, "1"), embedder)
    made = await _seconds(1, lambda: embedder.passages(passages))
    first = await _seconds(1, lambda: embeddings.passages(passages))
    again = await _seconds(rounds, lambda: embeddings.passages(passages))
    print(f"{count} passages: embedded {made:.2f} s; embedded and kept {first:.2f} s; kept before {again * 1000:.1f} ms")
    query = ["how many litres a minute does the pump deliver"]
    made = await _seconds(50, lambda: embedder.query(query))
    await embeddings.query(query)
    again = await _seconds(200, lambda: embeddings.query(query))
    print(f"a query: embedded {made * 1000:.2f} ms; kept before {again * 1000:.3f} ms")


async def _main(folder: Path, model_dir: Path, count: int, rounds: int) -> None:
    postgres = EmbeddedPostgres(folder, durable=False)
    embedder = Embedder(ModelFiles(model_dir))
    try:
        url = DatabaseUrl.parse(postgres.admin_url(postgres.start()))
        bootstrap(url, ["rag"])
        upgrade(url, "rag")
        database = Database(url, "rag")
        await embedder.start()
        await _run(database, embedder, count, rounds)
        await database.close()
    finally:
        await embedder.stop()
        postgres.stop()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model-dir", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrbench") as name:
        folder = Path(name)
        folder.chmod(0o755)
        model_dir = given.model_dir or folder / "model"
        build_model(model_dir, say=print)
        asyncio.run(_main(folder, model_dir, given.passages, given.rounds))


if __name__ == "__main__":
    main()
