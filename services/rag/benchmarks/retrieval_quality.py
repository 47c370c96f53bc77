# ruff: noqa: INP001 - a program, not a package
"""Retrieval quality on judged collections: nDCG@10 and recall@10 of each leg by itself and of both, through the service's own index.

`python services/rag/benchmarks/retrieval_quality.py [folder …] [--model-dir DIR]`, by default every collection in the folder
`WIREROOM_TEST_DATA`, or else `../shared/data/retrieval`. A collection is a folder with `docs.jsonl` (id, title, text), `queries.jsonl`
(id, text) and `qrels.tsv` (query, document, grade). Needs nothing running: it starts a PostgreSQL of its own. Says where a leg by
itself is better than both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4, uuid5

from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters.articles_sql import ArticleVersion, receive_article
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.collections_sql import CollectionStore
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.provider_terms_sql import ProviderTermsReader
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import FoundPassage
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.lifecycle_wiring import quotas_of
from wireroom_rag.model_wiring import InstalledModels
from wireroom_rag.ports.processing import ArticleText
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.passages import MakePassages
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


@dataclass(frozen=True)
class _Result:
    """Means over the queries, and times in milliseconds."""

    ndcg: float
    recall: float
    p50: float
    p95: float


async def _leg(collection: _Collection, search: Callable[[str], Awaitable[Sequence[FoundPassage]]]) -> _Result:
    """One leg's means and times. A document ranks where its best passage does."""
    values: list[tuple[float, float]] = []
    times: list[float] = []
    for query in collection.queries:
        grades = collection.grades.get(query["id"])
        if not grades:
            continue
        begun = time.monotonic()
        passages = await search(query["text"])
        times.append(1e3 * (time.monotonic() - begun))
        ranking = list(dict.fromkeys(collection.by_uuid[passage.document_id] for passage in passages))
        values.append((_ndcg(ranking, grades), _recall(ranking, grades)))
    times.sort()
    ndcg, recall = (sum(column) / len(values) for column in zip(*values, strict=True))
    return _Result(ndcg, recall, times[len(times) // 2], times[int(len(times) * 0.95)])


async def _index(collection: _Collection, tenant: UUID, database: Database, model: InstalledModels, scratch: Path) -> None:
    feed = uuid4()
    for doc in collection.docs.values():
        async with worker(database, tenant) as connection:
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
        passages=MakePassages(GenerationStore(database, model.models.default), model.models, model.chunkers),
        max_characters=5_000_000,
    )

    async def work() -> None:
        while claimed := await jobs.claim(SourceKind.ARTICLE, 32):
            await processor.articles(claimed)

    await asyncio.gather(work(), work())
    await extractor.stop()


async def _measure(folder: Path, database: Database, model: InstalledModels, scratch: Path) -> Mapping[str, _Result]:
    collection = _Collection(folder)
    tenant = uuid4()
    started = time.monotonic()
    await _index(collection, tenant, database, model, scratch)
    indexed = time.monotonic() - started
    _say(f"{folder.name}: {len(collection.docs)} documents indexed in {indexed:.1f} s ({len(collection.docs) / indexed:.0f}/s)")
    scope = Scope(tenant, uuid4(), frozenset(SourceKind))
    index = IndexReader(database)
    generations = GenerationStore(database, model.models.default)
    retrieve = Retrieve(
        index,
        CollectionStore(database, quotas_of(RagSettings())),
        generations=generations,
        models=model.models,
        chunkers=model.chunkers,
        terms=ProviderTermsReader(database),
        query_seconds=60,
    )
    generation = await generations.serving(tenant)
    if generation is None:
        raise LookupError(tenant)
    lexicon = Lexicon()

    async def dense(query: str) -> Sequence[FoundPassage]:
        vector = await model.embedder.query(model.chunkers.local.windows(query))
        return await index.search(scope, generation=generation, vector=vector, terms={}, top_k=_PASSAGES, since=None)

    async def bm25(query: str) -> Sequence[FoundPassage]:
        terms = lexicon.terms(query)
        return await index.search(scope, generation=generation, vector=None, terms=terms, top_k=_PASSAGES, since=None)

    async def hybrid(query: str) -> Sequence[FoundPassage]:
        return (await retrieve(scope, query, top_k=_PASSAGES, since=None)).passages

    return {leg.__name__: await _leg(collection, leg) for leg in (bm25, dense, hybrid)}


def _table(name: str, results: Mapping[str, _Result]) -> None:
    for leg, found in results.items():
        _say(
            f"{name:12} {leg:7} nDCG@10 {found.ndcg:.3f}  recall@10 {found.recall:.3f}  p50 {found.p50:6.1f} ms  p95 {found.p95:6.1f} ms"
        )


def _collections(given: Sequence[Path]) -> list[Path]:
    root = Path(os.environ.get("WIREROOM_TEST_DATA") or "../shared/data/retrieval")
    return list(given) or sorted(folder.parent for folder in root.glob("*/docs.jsonl"))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Command line; 2 where there is nothing to measure."""
    parser = argparse.ArgumentParser(description="nDCG@10 and recall@10 of retrieval on judged collections.")
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--model-dir", type=Path, default=None)
    arguments = parser.parse_args()
    folders = _collections(arguments.folders)
    if not folders:
        _say("There is no judged collection: name a folder, or set WIREROOM_TEST_DATA.")
        return 2
    with tempfile.TemporaryDirectory(prefix="wrbench") as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)
        server = EmbeddedPostgres(scratch, durable=False)
        url = DatabaseUrl.parse(server.admin_url(server.start("bench")))
        try:
            bootstrap(url, ["rag"])
            upgrade(url, "rag")

            async def run() -> dict[str, Mapping[str, _Result]]:
                database = Database(url, "rag")
                settings = RagSettings(model_dir=str(arguments.model_dir or scratch / "model"))
                model = InstalledModels(
                    settings,
                    scratch,
                    terms=ProviderTermsReader(database),
                    wrap=lambda _tenant, _blueprint, embeddings: embeddings,
                )
                await model.start()
                try:
                    return {folder.name: await _measure(folder, database, model, scratch / "blobs") for folder in folders}
                finally:
                    await model.stop()
                    await database.close()

            measured = asyncio.run(run())
        finally:
            server.stop()
    for name, results in measured.items():
        _table(name, results)
    for name, legs in measured.items():
        if legs["hybrid"].ndcg < max(legs["bm25"].ndcg, legs["dense"].ndcg):
            _say(f"{name}: a leg by itself is better than both.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
