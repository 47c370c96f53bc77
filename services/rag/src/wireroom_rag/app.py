"""The composition root of the rag service."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from wireroom_common.runtime.service import Infra, Service
from wireroom_protos.rag.v1 import collections_pb2_grpc, embedding_pb2_grpc, generations_pb2_grpc, rag_pb2_grpc
from wireroom_rag.adapters import connections
from wireroom_rag.adapters.articles_rpc import NewsArticles
from wireroom_rag.adapters.articles_sql import remove_articles
from wireroom_rag.adapters.collection_members_sql import MemberStore
from wireroom_rag.adapters.collections_sql import CollectionStore
from wireroom_rag.adapters.generation_work_sql import GenerationJobs
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.retrieval_sql import IndexReader
from wireroom_rag.adapters.texts_sql import TextReader
from wireroom_rag.ingest_wiring import Ingest, blob_store
from wireroom_rag.kept_vector_wiring import kept_vectors, upkeep
from wireroom_rag.lifecycle_wiring import Lifecycle, document_store, quotas_of
from wireroom_rag.model_wiring import InstalledModels
from wireroom_rag.settings import RagSettings
from wireroom_rag.transport.collections import CollectionServicer
from wireroom_rag.transport.documents import DocumentServicer
from wireroom_rag.transport.embedding import EmbeddingServicer
from wireroom_rag.transport.events import ArticleEvents
from wireroom_rag.transport.generations import IndexServicer
from wireroom_rag.transport.retrieval import RetrievalServicer
from wireroom_rag.usecases.citations import ResolveCitation, VerifyCitations
from wireroom_rag.usecases.content import ReadContent
from wireroom_rag.usecases.embed import EmbedTexts
from wireroom_rag.usecases.process import Processor
from wireroom_rag.usecases.rebuild import Builder
from wireroom_rag.usecases.reindex import Reindex
from wireroom_rag.usecases.retrieve import Retrieve
from wireroom_rag.usecases.upload import UploadDocument
from wireroom_rag.usecases.vectors import GenerationVectors
from wireroom_rag.usecases.work import Worker


def build(settings: RagSettings, infra: Infra) -> Service:
    """Documents, index and retrieval; opens nothing."""
    database = infra.database("rag")
    data = Path(infra.data_dir("rag"))
    kept = kept_vectors(settings, infra, database)
    model = InstalledModels(settings, data, wrap=kept.of)
    generations = GenerationStore(database, model.models.default)
    index = IndexWriter(database)
    builder = Builder(
        GenerationJobs(database, lease_seconds=settings.lease_seconds),
        index,
        model.models,
        model.chunker,
        poll_seconds=settings.poll_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        keep_seconds=settings.generation_keep_seconds,
    )
    blobs = blob_store(settings, data, infra.clock)
    documents = document_store(settings, database)
    quotas = quotas_of(settings)
    collections = CollectionStore(database, quotas)
    lifecycle = Lifecycle(settings, infra, database, documents=documents, blobs=blobs, data=data)
    texts = TextReader(database)
    ingest = Ingest(settings, database, blobs, documents)

    async def forget_articles(tenant_id: UUID, ids: list[UUID]) -> None:
        async with connections.worker(database, tenant_id) as connection:
            await remove_articles(connection, tenant_id, ids)

    processor = Processor(
        jobs=ingest.jobs,
        index=index,
        blobs=blobs,
        extractor=ingest.extractor,
        scanner=ingest.scanner,
        articles=NewsArticles(infra.channel("news")),
        forget_articles=forget_articles,
        vectors=GenerationVectors(generations, model.models),
        chunker=model.chunker,
        max_characters=settings.max_characters,
    )
    worker = Worker(
        ingest.jobs,
        processor,
        lanes=ingest.lanes,
        poll_seconds=settings.poll_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )

    async def start() -> None:
        await model.start()
        await worker.start()
        await builder.start()

    async def stop() -> None:
        await builder.stop()
        await worker.stop()
        await ingest.stop()
        await model.stop()

    document_servicer = DocumentServicer(
        upload=UploadDocument(documents, blobs, max_bytes=settings.max_document_bytes),
        delete=lifecycle.delete,
        read=ReadContent(documents, blobs, scans=ingest.scanner is not None),
        documents=documents,
        wake=worker.wake,
    )
    retrieval_servicer = RetrievalServicer(
        retrieve=Retrieve(
            IndexReader(
                database,
                exact_up_to=settings.exact_scan_chunks,
                news_half_life_days=settings.news_half_life_days,
                clock=infra.clock,
            ),
            collections,
            generations=generations,
            models=model.models,
            chunker=model.chunker,
            reranker=model.reranker,
            query_seconds=settings.query_embedding_seconds,
        ),
        verify=VerifyCitations(texts),
        resolve=ResolveCitation(texts),
    )
    collection_servicer = CollectionServicer(collections, MemberStore(database, quotas))
    embedding_servicer = EmbeddingServicer(EmbedTexts(model.models, model.chunker))
    index_servicer = IndexServicer(Reindex(generations, model.models, builder.wake))
    return Service(
        name="rag",
        rpc=(
            lambda server: rag_pb2_grpc.add_DocumentServiceServicer_to_server(document_servicer, server),
            lambda server: rag_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval_servicer, server),
            lambda server: collections_pb2_grpc.add_CollectionServiceServicer_to_server(collection_servicer, server),
            lambda server: embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding_servicer, server),
            lambda server: generations_pb2_grpc.add_IndexServiceServicer_to_server(index_servicer, server),
            ingest.rpc(worker.wake),
            *lifecycle.rpc,
        ),
        subscriptions=(ArticleEvents(database, worker.wake).subscription(), lifecycle.subscription),
        periodic=(*lifecycle.periodic, *ingest.periodic, upkeep(settings, database)),
        checks={
            "database": database.ping,
            "embedding_model": model.embedder.ping,
            "worker": worker.ping,
            "builder": builder.ping,
        },
        start=start,
        stop=stop,
        database=database,
    )
