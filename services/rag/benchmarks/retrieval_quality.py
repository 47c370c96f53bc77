# ruff: noqa: INP001 - a program, not a package
"""Retrieval quality on a judged collection: nDCG@10 and recall@10 of each leg by itself and of both, through the service's own index.

`python services/rag/benchmarks/retrieval_quality.py <folder> [--model-dir DIR]`; the folder holds `docs.jsonl` (id, title, text),
`queries.jsonl` (id, text) and `qrels.tsv` (query, document, grade). Needs nothing running: it starts a PostgreSQL of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4, uuid5

from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters.articles_sql import ArticleVersion, receive_article
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.chunking import Chunker
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import FoundPassage
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.embedding.embedder import Embedder
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.provision import ensure_model
from wireroom_rag.ports.processing import ArticleText
from wireroom_rag.usecases.process import Processor
from wireroom_rag.usecases.retrieve import Retrieve

_TOP = 10
# Enough that ten documents are among them.
_PASSAGES = 50
Ranking = Sequence[str]
Grades = dict[str, dict[str, int]]


class _Collection:
    """The folder's files; serves its documents as articles."""

    def __init__(self, folder: Path) -> None:
        self.docs = {doc["id"]: doc for doc in map(json.loads, (folder / "docs.jsonl").read_text(encoding="utf-8").splitlines())}
        self.queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
        self.grades: Grades = defaultdict(dict)
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, doc, grade = line.split("\t")
            self.grades[query][doc] = int(grade)
        self._space = uuid4()
        self.by_uuid = {self.uuid(doc): doc for doc in self.docs}

    def uuid(self, doc: str) -> UUID:
        return uuid5(self._space, doc)

    async def fetch(self, _tenant_id: UUID, article_id: UUID, _version: int) -> ArticleText:
        doc = self.docs[self.by_uuid[article_id]]
        return ArticleText(title=doc["title"], text=doc["text"], url="", published_at=None)


def _ndcg(ranking: Ranking, grades: dict[str, int]) -> float:
    gain = sum(grades.get(doc, 0) / math.log2(rank + 2) for rank, doc in enumerate(ranking[:_TOP]))
    best = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:_TOP]))
    return gain / best if best else 0.0


def _recall(ranking: Ranking, grades: dict[str, int]) -> float:
    return len(set(ranking[:_TOP]) & set(grades)) / len(grades)


async def _leg(collection: _Collection, search: Callable[[str], Awaitable[Sequence[FoundPassage]]]) -> str:
    """One leg's means and times. A document ranks where its best passage does."""
    values: list[tuple[float, float]] = []
    times: list[float] = []
    for query in collection.queries:
        grades = collection.grades.get(query["id"])
        if not grades:
            continue
        begun = time.monotonic()
        passages = await search(query["text"])
        times.append(time.monotonic() - begun)
        ranking = list(dict.fromkeys(collection.by_uuid[passage.document_id] for passage in passages))
        values.append((_ndcg(ranking, grades), _recall(ranking, grades)))
    times.sort()
    ndcg, recall = (sum(column) / len(values) for column in zip(*values, strict=True))
    return (
        f"nDCG@10 {ndcg:.3f} recall@10 {recall:.3f} p50 {times[len(times) // 2] * 1e3:.1f} ms"
        f" p95 {times[int(len(times) * 0.95)] * 1e3:.1f} ms ({len(times)} queries)"
    )


async def _measure(folder: Path, database: Database, files: ModelFiles, scratch: Path) -> None:
    collection = _Collection(folder)
    await ensure_model(files)
    embedder = Embedder(files)
    await embedder.start()
    chunker = Chunker(embedder.tokenizer)
    tenant = uuid4()
    feed = uuid4()
    for doc in collection.docs.values():
        async with database.tenant(tenant) as connection:
            await receive_article(
                connection, ArticleVersion(tenant, collection.uuid(doc["id"]), 1, feed, doc["title"][:200], "", "", None)
            )
    jobs = JobStore(database, lease_seconds=60)
    extractor = ExtractionProcess(ExtractionLimits(60, 60, 1_500_000_000, 100, 5_000_000, 1))

    async def forget(_tenant_id: UUID, _ids: list[UUID]) -> None:
        return None

    processor = Processor(
        jobs=jobs,
        index=IndexWriter(database),
        blobs=ObjectBlobs.in_folder(scratch, SystemClock()),
        extractor=extractor,
        articles=collection,
        forget_articles=forget,
        embeddings=embedder,
        chunker=lambda: chunker,
        max_characters=5_000_000,
    )
    started = time.monotonic()

    async def work() -> None:
        while claimed := await jobs.claim(SourceKind.ARTICLE, 32):
            await processor.articles(claimed)

    await asyncio.gather(work(), work())
    indexed = time.monotonic() - started
    _say(f"{folder.name}: {len(collection.docs)} documents indexed in {indexed:.1f} s ({len(collection.docs) / indexed:.0f}/s)")
    scope = Scope(tenant, uuid4(), frozenset(SourceKind))
    index = IndexReader(database)
    retrieve = Retrieve(index, embedder, lambda: chunker)
    lexicon = Lexicon()

    async def dense(query: str) -> Sequence[FoundPassage]:
        vector = await embedder.query(chunker.windows(query))
        return await index.search(scope, vector=vector, terms={}, top_k=_PASSAGES, since=None)

    async def bm25(query: str) -> Sequence[FoundPassage]:
        return await index.search(scope, vector=None, terms=lexicon.terms(query), top_k=_PASSAGES, since=None)

    async def hybrid(query: str) -> Sequence[FoundPassage]:
        return await retrieve(scope, query, top_k=_PASSAGES, since=None)

    for leg in (dense, bm25, hybrid):
        _say(f"{folder.name}: {leg.__name__:6} {await _leg(collection, leg)}")
    await extractor.stop()
    await embedder.stop()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="nDCG@10 and recall@10 of retrieval on a judged collection.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model-dir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrbench") as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)
        server = EmbeddedPostgres(scratch, durable=False)
        url = DatabaseUrl.parse(server.admin_url(server.start("bench")))
        try:
            bootstrap(url, ["rag"])
            upgrade(url, "rag")

            async def run() -> None:
                database = Database(url, "rag")
                try:
                    await _measure(
                        arguments.folder, database, ModelFiles(arguments.model_dir or scratch / "model"), scratch / "blobs"
                    )
                finally:
                    await database.close()

            asyncio.run(run())
        finally:
            server.stop()


if __name__ == "__main__":
    main()
