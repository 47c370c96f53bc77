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
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray
from sqlalchemy import text

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres
from wireroom_rag.adapters import vectors_pg
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.postings_format import blocks
from wireroom_rag.adapters.postings_sql import LENGTHS
from wireroom_rag.adapters.retrieval_sql import EXACT_UP_TO, IndexReader
from wireroom_rag.chunking import CHUNKER, Chunker
from wireroom_rag.domain.bm25 import Postings
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
# Queries whose answers are compared with exact search.
_COMPARED = 40
# COPY's binary format.
_BINARY_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_BINARY_END = b"\xff\xff"
_SHORT, _INTEGER, _LONG = struct.Struct("!h"), struct.Struct("!i"), struct.Struct("!q")

Numbers = NDArray[Any]


@dataclass(frozen=True)
class _Real:
    texts: Sequence[str]
    vectors: Vectors
    queries: Sequence[tuple[Vectors, dict[str, int]]]


@dataclass(frozen=True)
class _Asked:
    scope: Scope
    collection: UUID | None


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


class _Words:
    """The words of the real texts by number, and the stem of each; -1 where there is none."""

    def __init__(self, texts: Sequence[str]) -> None:
        lexicon = Lexicon()
        split = [passage.split() for passage in texts]
        self.words = np.array(sorted({word for passage in split for word in passage}), dtype=object)
        numbers = {word: number for number, word in enumerate(self.words)}
        self.texts = [np.array([numbers[word] for word in passage], dtype=np.int32) for passage in split]
        self.pool = np.concatenate(self.texts)
        # What a word becomes does not depend on its neighbours; of words that are several, the first counts.
        first = [next(iter(lexicon.terms(word)), None) for word in self.words]
        self.stems = sorted({stem for stem in first if stem is not None})
        stem_numbers = {stem: number for number, stem in enumerate(self.stems)}
        self.stem_of = np.array([-1 if stem is None else stem_numbers[stem] for stem in first], dtype=np.int32)


@dataclass(frozen=True)
class _Made:
    """Chunks, each like a real one and no two the same; postings by chunk (its place among these), stem and count."""

    texts: Sequence[str]
    vectors: Vectors
    terms: Numbers
    chunk: Numbers
    stem: Numbers
    count: Numbers


def _perturbed(real: _Real, words: _Words, size: int, random: np.random.Generator) -> _Made:
    places = random.integers(len(real.texts), size=size)
    noise = random.standard_normal((size, DIMENSIONS), dtype=np.float32) * np.float32(_NOISE)
    vectors = real.vectors[places] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [words.texts[place] for place in places]
    lengths = np.array([len(passage) for passage in chosen])
    flat = np.concatenate(chosen)
    swapped = random.random(len(flat)) < _REPLACED
    flat[swapped] = random.choice(words.pool, size=int(swapped.sum()))
    texts = [" ".join(part) for part in np.split(words.words[flat], np.cumsum(lengths)[:-1])]
    stems = words.stem_of[flat]
    keys = (np.repeat(np.arange(size, dtype=np.int64), lengths) * len(words.stems) + stems)[stems >= 0]
    pairs, counts = np.unique(keys, return_counts=True)
    chunk, stem = np.divmod(pairs, len(words.stems))
    terms = np.bincount(chunk, weights=counts, minlength=size).astype(np.int64)
    return _Made(texts, vectors, terms, chunk, stem.astype(np.int32), np.minimum(counts, 255).astype(np.uint8))


class _Loader:
    """Fills the tables as an administrator, without triggers and indexes, which are made afterwards and timed."""

    def __init__(self, admin: str) -> None:
        self._connection = psycopg.connect(admin, autocommit=True)
        self._connection.execute("SET session_replication_role = replica")
        self._connection.execute("SET maintenance_work_mem = '4GB'")
        self._connection.execute("SET max_parallel_maintenance_workers = 1")
        self._next = 1

    def close(self) -> None:
        self._connection.close()

    def drop_indexes(self) -> list[str]:
        """Statements that make them again."""
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'rag' AND tablename = 'chunks'"
        again = []
        for name, definition in self._connection.execute(query).fetchall():
            if name != "chunks_pkey":
                self._connection.execute(f"DROP INDEX rag.{name}")
                again.append(definition)
        return sorted(again)

    def make(self, statements: Sequence[str]) -> None:
        graphs = [each for each in statements if "hnsw" in each]
        with _timed("indexes of rows"):
            for statement in (each for each in statements if each not in graphs):
                self._connection.execute(statement)
        with _timed("graphs of vectors (HNSW, m 16, ef_construction 64)"):
            for statement in graphs:
                self._connection.execute(statement)
        with _timed("vacuum and analyse"):
            self._connection.execute("VACUUM ANALYZE")

    def tenant(self, tenant: UUID, owner: UUID, real: _Real, words: _Words, *, count: int, seed: int) -> list[UUID]:
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
        random = np.random.default_rng(seed)
        base = self._next
        self._next += count
        chunk: list[Numbers] = []
        stem: list[Numbers] = []
        counts: list[Numbers] = []
        terms: list[Numbers] = []
        begun = time.monotonic()
        for first in range(0, count, _BLOCK):
            made = _perturbed(real, words, min(_BLOCK, count - first), random)
            self._chunks(tenant, ids, base, first, made)
            self._stems(tenant, ids, words, first, made)
            chunk.append((made.chunk + first).astype(np.uint32))
            stem.append(made.stem)
            counts.append(made.count)
            terms.append(made.terms)
            if (first // _BLOCK + 1) % 10 == 0:
                _say(f"  {first + len(made.texts)} of {count} chunks after {time.monotonic() - begun:.0f} s")
        lengths = np.concatenate(terms)
        with _timed(f"postings of {count} chunks in blocks"):
            everywhere = Postings(base + np.arange(count, dtype=np.int64), lengths, np.zeros(count, dtype=np.int64))
            self._blocks(tenant, words, base, (np.concatenate(stem), np.concatenate(chunk), np.concatenate(counts)), everywhere)
        self._connection.execute(
            "INSERT INTO rag.generations (tenant_id, number, model, dimension, chunker, state) VALUES (%s, 1, %s, %s, %s, 'serving')",
            (tenant, MODEL, DIMENSIONS, CHUNKER),
        )
        self._connection.execute(
            "INSERT INTO rag.index_statistics (tenant_id, generation, chunks, terms) VALUES (%s, 1, %s, %s)",
            (tenant, count, int(lengths.sum())),
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

    def sizes(self, chunks: int) -> None:
        query = """
            SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE (n.nspname = 'rag' OR n.nspname = 'pg_toast') AND pg_relation_size(c.oid) > 1000000 ORDER BY 2 DESC
        """
        found = self._connection.execute(query).fetchall()
        _say("sizes: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found))
        _say(f"size: {sum(size for _, size in found) / chunks / 1e3:.2f} kB a chunk, indexes and documents included")

    def _chunks(self, tenant: UUID, ids: Sequence[UUID], base: int, first: int, made: _Made) -> None:
        columns = (
            "tenant_id, id, document_id, version, kind, page, start_at, end_at, content, terms, embedding, generation, dimension"
        )
        halves = made.vectors.astype(">f2")
        dimensions = struct.pack("!hh", DIMENSIONS, 0)
        with self._copy("chunks", columns, binary=True) as copy:
            for place, passage in enumerate(made.texts):
                number = first + place
                at = 2_000 * (number % _PER_DOCUMENT)
                copy.write(
                    _binary_row(
                        tenant.bytes,
                        _LONG.pack(base + number),
                        ids[number // _PER_DOCUMENT].bytes,
                        _INTEGER.pack(1),
                        b"document",
                        _INTEGER.pack(0),
                        _INTEGER.pack(at),
                        _INTEGER.pack(at + 1_999),
                        passage.encode(),
                        _INTEGER.pack(int(made.terms[place])),
                        dimensions + halves[place].tobytes(),
                        _INTEGER.pack(1),
                        _INTEGER.pack(DIMENSIONS),
                    )
                )
            copy.write(_BINARY_END)

    def _stems(self, tenant: UUID, ids: Sequence[UUID], words: _Words, first: int, made: _Made) -> None:
        documents = (made.chunk + first) // _PER_DOCUMENT
        pairs = np.unique(documents * len(words.stems) + made.stem)
        document, stem = np.divmod(pairs, len(words.stems))
        starts = np.flatnonzero(np.diff(document, prepend=-1))
        with self._copy("indexed_stems", "tenant_id, document_id, generation, stems") as copy:
            for place, part in zip(document[starts], np.split(stem, starts[1:]), strict=True):
                copy.write_row((tenant, ids[place], 1, [words.stems[each] for each in part]))

    def _blocks(
        self, tenant: UUID, words: _Words, base: int, columns: tuple[Numbers, Numbers, Numbers], everywhere: Postings
    ) -> None:
        stem, chunk, count = columns
        order = np.argsort(stem, kind="stable")
        stem, chunk, count = stem[order], chunk[order], count[order]
        ends = np.cumsum(np.bincount(stem, minlength=len(words.stems)))
        with self._copy(
            "posting_blocks", "tenant_id, generation, stem, first_id, last_id, count, format, payload", binary=True
        ) as copy:

            def write(name: str, postings: Postings) -> None:
                for block in blocks(postings):
                    copy.write(
                        _binary_row(
                            tenant.bytes,
                            _INTEGER.pack(1),
                            name.encode(),
                            _LONG.pack(block.first_id),
                            _LONG.pack(block.last_id),
                            _INTEGER.pack(block.count),
                            _SHORT.pack(block.format),
                            block.payload,
                        )
                    )

            write(LENGTHS, everywhere)
            start = 0
            for name, end in zip(words.stems, ends.tolist(), strict=True):
                if end > start:
                    ids = base + chunk[start:end].astype(np.int64)
                    write(name, Postings(ids, count[start:end], np.zeros(end - start, dtype=np.uint8)))
                start = end
            copy.write(_BINARY_END)

    @contextmanager
    def _copy(self, table: str, columns: str, *, binary: bool = False) -> Iterator[Any]:
        statement = f"COPY rag.{table} ({columns}) FROM STDIN{' (FORMAT BINARY)' if binary else ''}"
        with self._connection.cursor().copy(statement) as copy:
            if binary:
                copy.write(_BINARY_BEGIN)
            yield copy


def _binary_row(*values: bytes) -> bytes:
    """A row of COPY's binary format, without NULLs."""
    return b"".join([_SHORT.pack(len(values)), *(part for value in values for part in (_INTEGER.pack(len(value)), value))])


async def _measure(database: Database, server: psutil.Process, name: str, asked: _Asked, real: _Real) -> None:
    served = IndexReader(database)
    generation = await GenerationStore(database, Blueprint(MODEL, DIMENSIONS, CHUNKER)).serving(asked.scope.tenant_id)
    if generation is None:
        raise LookupError(asked.scope.tenant_id)
    members = None if asked.collection is None else Members((asked.collection,), {})
    options: dict[str, Any] = {"generation": generation, "top_k": 10, "since": None, "members": members}
    times: list[float] = []
    for round_number in range(2):
        # The first round warms caches.
        before = _worked(server)
        for vector, terms in real.queries:
            begun = time.monotonic()
            await served.search(asked.scope, vector=vector, terms=terms, **options)
            if round_number:
                times.append(1e3 * (time.monotonic() - begun))
    client, database_side = (1e3 * (end - begin) / len(times) for begin, end in zip(before, _worked(server), strict=True))
    recalls = []
    for vector, _ in real.queries[:_COMPARED]:
        best = await _exact(database, asked, vector)
        found = await served.search(asked.scope, vector=vector, terms={}, **options)
        recalls.append(len(best & {one.id for one in found}) / len(best))
    times.sort()
    _say(
        f"{name:24} hybrid p50 {times[len(times) // 2]:6.1f} ms  p95 {times[int(len(times) * 0.95)]:6.1f} ms"
        f"  CPU: database {database_side:.1f} ms, service {client:.1f} ms  recall@10 {sum(recalls) / len(recalls):.3f}"
    )


async def _exact(database: Database, asked: _Asked, vector: Vectors) -> set[int]:
    """The ten nearest by comparing all, in SQL of its own."""
    statement = """
        SELECT id FROM (SELECT c.id, c.embedding <=> CAST(:vector AS halfvec) AS distance FROM chunks c
                         WHERE c.tenant_id = :tenant AND (CAST(:collection AS uuid) IS NULL OR c.document_id IN (
                               SELECT document_id FROM collection_documents WHERE tenant_id = :tenant AND collection_id = :collection))
                        OFFSET 0) compared
         ORDER BY distance, id LIMIT 10
    """
    values = {"tenant": asked.scope.tenant_id, "collection": asked.collection, "vector": vectors_pg.literal(vector)}
    async with worker(database, asked.scope.tenant_id) as connection:
        return set((await connection.execute(text(statement), values)).scalars())


def _worked(server: psutil.Process) -> tuple[float, float]:
    """CPU seconds so far of this process, and of all processes of the database."""
    used = [process.cpu_times() for process in [server, *server.children(recursive=True)]]
    return time.process_time(), sum(times.user + times.system for times in used)


async def _versions(database: Database, tenant: UUID) -> None:
    async with worker(database, tenant) as connection:
        version = await connection.execute(
            text("SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'")
        )
        _say("PostgreSQL {}, pgvector {}".format(*version.one()))


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    _say(f"{what}: {time.monotonic() - begun:.0f} s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Times, recall and size of a large index.")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=2_400)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--model-dir", type=Path, default=Path(".build/models"))
    arguments = parser.parse_args()
    if arguments.chunks < 100 * _PER_DOCUMENT:
        raise SystemExit("--chunks: a hundredth of it must be ten at least.")
    build_model(arguments.model_dir, say=_say)
    real = _read(Model(ModelFiles(arguments.model_dir)), arguments.texts, arguments.queries)
    words = _Words(real.texts)
    with tempfile.TemporaryDirectory(prefix="wrbench") as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)
        server = EmbeddedPostgres(scratch, durable=False)
        address = server.start("bench")
        try:
            _run(DatabaseUrl.parse(server.admin_url(address)), scratch, arguments.chunks, real, words)
        finally:
            server.stop()


def _run(url: DatabaseUrl, scratch: Path, chunks: int, real: _Real, words: _Words) -> None:
    bootstrap(url, ["rag"])
    upgrade(url, "rag")
    loader = _Loader(url.url.set(drivername="postgresql").render_as_string(hide_password=False))
    again = loader.drop_indexes()
    large, small, owner = uuid4(), uuid4(), uuid4()
    with _timed(f"{chunks} chunks loaded, and a tenant of {chunks // 100}"):
        documents = loader.tenant(large, owner, real, words, count=chunks, seed=_SEED + 1)
        loader.tenant(small, owner, real, words, count=chunks // 100, seed=_SEED + 2)
    order = np.random.default_rng(_SEED + 3).permutation(len(documents))
    parts = {
        share: loader.collection(large, owner, [documents[place] for place in order[: max(1, len(documents) * share // 100)]])
        for share in (1, 10)
    }
    loader.make(again)
    loader.sizes(chunks)
    loader.close()
    postmaster = psutil.Process(int((scratch / "postgresql" / "postmaster.pid").read_text().split()[0]))

    async def run() -> None:
        database = Database(url, "rag")
        everything = Scope(large, uuid4(), frozenset({SourceKind.DOCUMENT}))
        own = Scope(small, uuid4(), frozenset({SourceKind.DOCUMENT}))
        try:
            await _versions(database, large)
            _say(f"Scopes of up to {EXACT_UP_TO} chunks are scanned, larger ones go through the graph.")
            await _measure(database, postmaster, "a tenant of 1 %", _Asked(own, None), real)
            for share, collection in parts.items():
                await _measure(database, postmaster, f"a collection of {share} %", _Asked(everything, collection), real)
            await _measure(database, postmaster, "everything", _Asked(everything, None), real)
        finally:
            await database.close()

    asyncio.run(run())


if __name__ == "__main__":
    main()
