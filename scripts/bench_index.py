"""Retrieval at scale: times, recall, build time and size of an index of many chunks, on a PostgreSQL of its own.

`python scripts/bench_index.py [--chunks 100000] [--texts 2400] [--queries 150]`. Real texts (of the judged collections in
`WIREROOM_TEST_DATA`, by default `../shared/data/retrieval`) are cut and embedded; the index is made of seeded perturbations of their
vectors (cosine to the original about 0.93) and of their texts with a fifth of the words drawn from the others. One tenant holds all of
it, ten chunks to a document, in collections of 1 % and 10 % of the documents; another one holds a further hundredth. Queries are the
collections' own, which the index was not made from. The embedding of the query is not part of the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psutil
import psycopg
from sqlalchemy import text

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.retrieval_sql import EXACT_UP_TO, IndexReader
from wireroom_rag.chunking import CHUNKER, Chunker
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.document import ExtractedText
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import DIMENSIONS, ModelFiles
from wireroom_rag.embedding.model_build import build_model
from wireroom_rag.usecases.embed import MODEL

_SEED = 20_260_101
# Of each of the vector's numbers: the length of the noise is then 0.4.
_NOISE = 0.4 / DIMENSIONS**0.5
_PER_DOCUMENT = 10
_REPLACED = 0.2
_BLOCK = 5_000


@dataclass(frozen=True)
class _Real:
    texts: Sequence[str]
    vectors: Vectors
    queries: Sequence[tuple[Vectors, dict[str, int]]]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _read(model: Model, texts: int, queries: int) -> _Real:
    root = Path(os.environ.get("WIREROOM_TEST_DATA") or "../shared/data/retrieval")
    documents: list[str] = []
    asked: list[str] = []
    for folder in sorted(path.parent for path in root.glob("*/docs.jsonl")):
        documents += [json.loads(line)["text"] for line in (folder / "docs.jsonl").read_text(encoding="utf-8").splitlines()]
        asked += [json.loads(line)["text"] for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    if not documents:
        raise SystemExit(f"There is no judged collection in {root}: set WIREROOM_TEST_DATA.")
    random = np.random.default_rng(_SEED)
    chunker = Chunker(model.tokenizer)
    chunks: list[str] = []
    for place in random.permutation(len(documents)):
        if documents[place].strip():
            chunks += [chunk.text for chunk in chunker.all_chunks(ExtractedText(documents[place]))]
        if len(chunks) >= texts:
            break
    begun = time.monotonic()
    vectors = np.vstack([model.embed([chunk]) for chunk in chunks[:texts]])
    _say(f"{len(vectors)} real texts embedded in {time.monotonic() - begun:.0f} s")
    lexicon = Lexicon()
    chosen = [asked[place] for place in random.permutation(len(asked))[:queries]]
    begun = time.monotonic()
    found = [(model.embed(chunker.windows(query)[:1])[0], dict(lexicon.terms(query))) for query in chosen]
    _say(f"{len(found)} queries embedded, {1e3 * (time.monotonic() - begun) / len(found):.1f} ms each")
    return _Real(chunks[:texts], vectors, found)


def _perturbed(real: _Real, count: int, seed: int) -> Iterator[tuple[str, Vectors, dict[str, int]]]:
    """Text, vector and terms, each like those of a real text, no two the same."""
    random = np.random.default_rng(seed)
    lexicon = Lexicon()
    words = [passage.split() for passage in real.texts]
    pool = np.array([word for passage in words for word in passage], dtype=object)
    # What a word becomes does not depend on its neighbours.
    stems = {word: list(lexicon.terms(str(word)).items()) for word in set(pool)}
    for first in range(0, count, _BLOCK):
        size = min(_BLOCK, count - first)
        places = random.integers(len(real.texts), size=size)
        vectors = real.vectors[places] + random.normal(scale=_NOISE, size=(size, DIMENSIONS)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for place, vector in zip(places, vectors, strict=True):
            passage = np.array(words[place], dtype=object)
            swapped = random.random(len(passage)) < _REPLACED
            passage[swapped] = random.choice(pool, size=int(swapped.sum()))
            terms: dict[str, int] = {}
            for word in passage:
                for stem, number in stems[word]:
                    terms[stem] = terms.get(stem, 0) + number
            yield " ".join(passage), vector, terms


class _Loader:
    """Fills the tables as an administrator, without triggers and indexes, which are made afterwards and timed."""

    def __init__(self, admin: str) -> None:
        self._connection = psycopg.connect(admin, autocommit=True)
        self._connection.execute("SET session_replication_role = replica")
        self._connection.execute("SET maintenance_work_mem = '1GB'")
        self._next = 1

    def close(self) -> None:
        self._connection.close()

    def drop_indexes(self) -> list[str]:
        """Statements that make them again, those of vectors last."""
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'rag' AND tablename IN ('chunks', 'postings')"
        again = []
        for name, definition in self._connection.execute(query).fetchall():
            if name == "chunks_pkey":
                continue
            if name == "postings_pkey":
                self._connection.execute("ALTER TABLE rag.postings DROP CONSTRAINT postings_pkey")
            else:
                self._connection.execute(f"DROP INDEX rag.{name}")
            again.append(definition)
        return sorted(again, key=lambda definition: "hnsw" in definition)

    def make(self, statements: Sequence[str]) -> None:
        begun = time.monotonic()
        for statement in (each for each in statements if "hnsw" not in each):
            self._connection.execute(statement)
        _say(f"indexes of rows and postings: {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        for statement in (each for each in statements if "hnsw" in each):
            self._connection.execute(statement)
        _say(f"graphs of vectors (HNSW, m 16, ef_construction 64): {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        self._connection.execute("VACUUM ANALYZE rag.chunks, rag.postings, rag.documents, rag.document_versions")
        _say(f"vacuum and analyse: {time.monotonic() - begun:.0f} s")

    def tenant(self, tenant: UUID, owner: UUID, real: _Real, count: int, seed: int) -> list[UUID]:
        """The tenant's documents."""
        ids = [uuid4() for _ in range(-(-count // _PER_DOCUMENT))]
        readers = f"{{manager,user:{owner},*}}"
        with self._copy("documents", "tenant_id, id, kind, owner_id, name, latest_version, indexed_version, readers") as copy:
            for number, document in enumerate(ids):
                copy.write_row((tenant, document, "document", owner, f"{number}.txt", 1, 1, readers))
        columns = "tenant_id, document_id, version, kind, title, media_type, sha256, content, chunks, state"
        with self._copy("document_versions", columns) as copy:
            for number, document in enumerate(ids):
                copy.write_row((tenant, document, 1, "document", f"{number}.txt", "text/plain", "", "", _PER_DOCUMENT, "indexed"))
        total = 0
        batch: list[tuple[str, Vectors, dict[str, int]]] = []
        for number, entry in enumerate(_perturbed(real, count, seed), 1):
            batch.append(entry)
            if len(batch) == _BLOCK or number == count:
                total += self._chunks(tenant, ids, number - len(batch), batch)
                batch = []
        self._connection.execute(
            "INSERT INTO rag.generations (tenant_id, number, model, dimension, chunker, state) VALUES (%s, 1, %s, %s, %s, 'serving')",
            (tenant, MODEL, DIMENSIONS, CHUNKER),
        )
        self._connection.execute(
            "INSERT INTO rag.index_statistics (tenant_id, generation, chunks, terms) VALUES (%s, 1, %s, %s)",
            (tenant, count, total),
        )
        return ids

    def collection(self, tenant: UUID, owner: UUID, documents: Sequence[UUID]) -> UUID:
        collection = uuid4()
        self._connection.execute(
            "INSERT INTO rag.collections (tenant_id, id, owner_id, name, visibility) VALUES (%s, %s, %s, 'c', 'tenant')",
            (tenant, collection, owner),
        )
        with self._copy("collection_documents", "tenant_id, collection_id, document_id") as copy:
            for document in documents:
                copy.write_row((tenant, collection, document))
        self._connection.execute("ANALYZE rag.collection_documents")
        return collection

    def sizes(self) -> None:
        query = """
            SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'rag' AND pg_relation_size(c.oid) > 1000000 ORDER BY 2 DESC
        """
        found = self._connection.execute(query).fetchall()
        _say("sizes: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found))

    def _chunks(self, tenant: UUID, ids: Sequence[UUID], first: int, batch: Sequence[tuple[str, Vectors, dict[str, int]]]) -> int:
        columns = (
            "tenant_id, id, document_id, version, kind, page, start_at, end_at, content, terms, embedding, generation, dimension"
        )
        start = self._next
        self._next += len(batch)
        with self._copy("chunks", columns) as copy:
            for place, (passage, vector, terms) in enumerate(batch):
                number = first + place
                shown = "[" + ",".join([f"{value:.4g}" for value in vector.tolist()]) + "]"
                at = 2_000 * (number % _PER_DOCUMENT)
                document = ids[number // _PER_DOCUMENT]
                count = sum(terms.values())
                copy.write_row(
                    (tenant, start + place, document, 1, "document", 0, at, at + 1_999, passage, count, shown, 1, DIMENSIONS)
                )
        with self._copy("postings", "tenant_id, generation, stem, chunk_id, tf, terms") as copy:
            for place, (_, _, terms) in enumerate(batch):
                count = sum(terms.values())
                for stem, frequency in terms.items():
                    copy.write_row((tenant, 1, stem, start + place, frequency, count))
        return sum(sum(terms.values()) for _, _, terms in batch)

    def _copy(self, table: str, columns: str) -> Any:
        return self._connection.cursor().copy(f"COPY rag.{table} ({columns}) FROM STDIN")


async def _measure(database: Database, name: str, scope: Scope, members: Members | None, real: _Real) -> None:
    served, exact = IndexReader(database), IndexReader(database, exact_up_to=10**9)
    generation = await GenerationStore(database, Blueprint(MODEL, DIMENSIONS, CHUNKER)).serving(scope.tenant_id)
    if generation is None:
        raise LookupError(scope.tenant_id)
    asked: dict[str, Any] = {"generation": generation, "since": None, "members": members}
    times: list[float] = []
    recalls: list[float] = []
    worked = (0.0, 0.0)
    for round_number in range(2):
        # The first round warms caches.
        worked = await _worked(database, scope.tenant_id)
        for vector, terms in real.queries:
            begun = time.monotonic()
            await served.search(scope, vector=vector, terms=terms, top_k=10, **asked)
            if round_number:
                times.append(1e3 * (time.monotonic() - begun))
    after = await _worked(database, scope.tenant_id)
    client, server = (1e3 * (end - begin) / len(times) for begin, end in zip(worked, after, strict=True))
    for vector, _ in real.queries[:60]:
        best = await exact.search(scope, vector=vector, terms={}, top_k=10, **asked)
        found = await served.search(scope, vector=vector, terms={}, top_k=10, **asked)
        recalls.append(len({one.id for one in best} & {one.id for one in found}) / len(best))
    times.sort()
    _say(
        f"{name:24} hybrid p50 {times[len(times) // 2]:6.1f} ms  p95 {times[int(len(times) * 0.95)]:6.1f} ms"
        f"  CPU: server {server:.1f} ms, client {client:.1f} ms  recall@10 {sum(recalls) / len(recalls):.3f}"
    )


async def _worked(database: Database, tenant: UUID) -> tuple[float, float]:
    """CPU seconds so far of this process, and of the database's processes for it."""
    async with worker(database, tenant) as connection:
        pids = await connection.execute(text("SELECT pid FROM pg_stat_activity WHERE usename = 'rag_app'"))
        used = [psutil.Process(pid).cpu_times() for pid in pids.scalars()]
    return time.process_time(), sum(times.user + times.system for times in used)


async def _explain(database: Database, tenant: UUID) -> None:
    async with worker(database, tenant) as connection:
        version = await connection.execute(
            text("SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'")
        )
        _say("PostgreSQL {}, pgvector {}".format(*version.one()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Times, recall and size of a large index.")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=2_400)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--model-dir", type=Path, default=Path(".build/models"))
    arguments = parser.parse_args()
    build_model(arguments.model_dir, say=_say)
    real = _read(Model(ModelFiles(arguments.model_dir)), arguments.texts, arguments.queries)
    with tempfile.TemporaryDirectory(prefix="wrbench") as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)
        server = EmbeddedPostgres(scratch, durable=False)
        address = server.start("bench")
        url = DatabaseUrl.parse(server.admin_url(address))
        try:
            bootstrap(url, ["rag"])
            upgrade(url, "rag")
            loader = _Loader(url.url.set(drivername="postgresql").render_as_string(hide_password=False))
            again = loader.drop_indexes()
            large, small, owner = uuid4(), uuid4(), uuid4()
            begun = time.monotonic()
            documents = loader.tenant(large, owner, real, arguments.chunks, _SEED + 1)
            loader.tenant(small, owner, real, arguments.chunks // 100, _SEED + 2)
            _say(f"{arguments.chunks} chunks loaded in {time.monotonic() - begun:.0f} s")
            loader.make(again)
            order = np.random.default_rng(_SEED + 3).permutation(len(documents))
            parts = {
                share: loader.collection(large, owner, [documents[place] for place in order[: len(documents) * share // 100]])
                for share in (1, 10)
            }
            loader.sizes()
            loader.close()

            async def run() -> None:
                database = Database(url, "rag")
                everything = Scope(large, uuid4(), frozenset({SourceKind.DOCUMENT}))
                own = Scope(small, uuid4(), frozenset({SourceKind.DOCUMENT}))
                try:
                    await _explain(database, large)
                    _say(f"Scopes of up to {EXACT_UP_TO} chunks are scanned, larger ones go through the graph.")
                    await _measure(database, "a tenant of 1 %", own, None, real)
                    for share, collection in parts.items():
                        await _measure(database, f"a collection of {share} %", everything, Members((collection,), {}), real)
                    await _measure(database, "a tenant of 100 %", everything, None, real)
                finally:
                    await database.close()

            asyncio.run(run())
        finally:
            server.stop()


if __name__ == "__main__":
    main()
