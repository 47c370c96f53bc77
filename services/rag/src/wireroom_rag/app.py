"""The composition root of the rag service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import UUID

from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_protos.rag.v1 import collections_pb2_grpc, embedding_pb2_grpc, rag_pb2_grpc
from wireroom_rag.adapters.articles_rpc import NewsArticles
from wireroom_rag.adapters.articles_sql import remove_articles
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.collection_members_sql import MemberStore
from wireroom_rag.adapters.collections_sql import CollectionStore
from wireroom_rag.adapters.documents_sql import DocumentStore
from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.adapters.texts_sql import TextReader
from wireroom_rag.chunking import Chunker
from wireroom_rag.embedding.embedder import Embedder
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.provision import ensure_model
from wireroom_rag.settings import RagSettings
from wireroom_rag.transport.collections import CollectionServicer
from wireroom_rag.transport.documents import DocumentServicer
from wireroom_rag.transport.embedding import EmbeddingServicer
from wireroom_rag.transport.events import ArticleEvents
from wireroom_rag.transport.retrieval import RetrievalServicer
from wireroom_rag.usecases.citations import ResolveCitation, VerifyCitations
from wireroom_rag.usecases.content import ReadContent
from wireroom_rag.usecases.delete import ORPHAN_AGE, DeleteDocument, SweepOrphans
from wireroom_rag.usecases.embed import EmbedTexts
from wireroom_rag.usecases.process import Processor
from wireroom_rag.usecases.retrieve import Retrieve
from wireroom_rag.usecases.upload import UploadDocument
from wireroom_rag.usecases.work import Worker


class _LoadedModel:
    """Embedder and chunker, which exist from `start` on."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self.embedder = Embedder(files)
        self._chunker: Chunker | None = None

    async def start(self) -> None:
        await ensure_model(self.files)
        await self.embedder.start()
        self._chunker = Chunker(self.embedder.tokenizer)

    def chunker(self) -> Chunker:
        if self._chunker is None:
            msg = "The embedding model is not loaded."
            raise RuntimeError(msg)
        return self._chunker


def build(settings: RagSettings, infra: Infra) -> Service:
    """Documents, index and retrieval; opens nothing."""
    database = infra.database("rag")
    data = Path(infra.data_dir("rag"))
    model = _LoadedModel(ModelFiles(Path(settings.model_dir) if settings.model_dir else data / "models"))
    blobs = ObjectBlobs.in_folder(data / "blobs", infra.clock)
    documents = DocumentStore(database)
    collections = CollectionStore(database)
    texts = TextReader(database)
    jobs = JobStore(database, lease_seconds=settings.lease_seconds)
    extractor = ExtractionProcess(
        ExtractionLimits(
            wall_seconds=settings.extraction_seconds,
            cpu_seconds=max(1, round(settings.extraction_seconds)),
            memory_bytes=settings.extraction_memory_bytes,
            max_pages=settings.max_pages,
            max_characters=settings.max_characters,
            idle_seconds=settings.extraction_idle_seconds,
        )
    )

    async def forget_articles(tenant_id: UUID, ids: list[UUID]) -> None:
        async with database.tenant(tenant_id) as connection:
            await remove_articles(connection, tenant_id, ids)

    processor = Processor(
        jobs=jobs,
        index=IndexWriter(database),
        blobs=blobs,
        extractor=extractor,
        articles=NewsArticles(infra.channel("news")),
        forget_articles=forget_articles,
        embeddings=model.embedder,
        chunker=model.chunker,
        max_characters=settings.max_characters,
    )
    worker = Worker(jobs, processor, poll_seconds=settings.poll_seconds, heartbeat_seconds=settings.heartbeat_seconds)
    sweep = SweepOrphans(documents, blobs, age=max(ORPHAN_AGE, timedelta(seconds=settings.sweep_seconds)))

    async def start() -> None:
        await model.start()
        await worker.start()

    async def stop() -> None:
        await worker.stop()
        await extractor.stop()
        await model.embedder.stop()

    async def sweep_orphans() -> None:
        await sweep()

    document_servicer = DocumentServicer(
        upload=UploadDocument(documents, blobs, max_bytes=settings.max_document_bytes),
        delete=DeleteDocument(documents, blobs),
        read=ReadContent(documents, blobs),
        documents=documents,
        wake=worker.wake,
    )
    retrieval_servicer = RetrievalServicer(
        retrieve=Retrieve(
            IndexReader(database, exact_up_to=settings.exact_scan_chunks), collections, model.embedder, model.chunker
        ),
        verify=VerifyCitations(texts),
        resolve=ResolveCitation(texts),
    )
    collection_servicer = CollectionServicer(collections, MemberStore(database))
    embedding_servicer = EmbeddingServicer(EmbedTexts(model.embedder, model.chunker))
    return Service(
        name="rag",
        rpc=(
            lambda server: rag_pb2_grpc.add_DocumentServiceServicer_to_server(document_servicer, server),
            lambda server: rag_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval_servicer, server),
            lambda server: collections_pb2_grpc.add_CollectionServiceServicer_to_server(collection_servicer, server),
            lambda server: embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding_servicer, server),
        ),
        subscriptions=(ArticleEvents(database, worker.wake).subscription(),),
        periodic=(Periodic("rag_orphan_sweep", settings.sweep_seconds, sweep_orphans),),
        checks={"database": database.ping, "embedding_model": model.embedder.ping, "worker": worker.ping},
        start=start,
        stop=stop,
        database=database,
    )
