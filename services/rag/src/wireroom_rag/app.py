"""The composition root of the rag service."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from wireroom_common.runtime.service import Infra, Service
from wireroom_protos.rag.v1 import (
    collections_pb2_grpc,
    embedding_pb2_grpc,
    file_batches_pb2_grpc,
    generations_pb2_grpc,
    rag_pb2_grpc,
)
from wireroom_rag.adapters import connections
from wireroom_rag.adapters.articles_rpc import NewsArticles
from wireroom_rag.adapters.articles_sql import remove_articles
from wireroom_rag.adapters.collection_members_sql import MemberStore
from wireroom_rag.adapters.collections_sql import CollectionStore
from wireroom_rag.adapters.file_batches_sql import FileBatchStore
from wireroom_rag.adapters.generation_work_sql import GenerationJobs
from wireroom_rag.adapters.generations_sql import GenerationStore
from wireroom_rag.adapters.index_sql import IndexWriter
from wireroom_rag.adapters.provider_terms_sql import ProviderTermsReader
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
from wireroom_rag.transport.file_batches import FileBatchServicer
from wireroom_rag.transport.generations import IndexServicer
from wireroom_rag.transport.retrieval import RetrievalServicer
from wireroom_rag.usecases.citations import ResolveCitation, VerifyCitations
from wireroom_rag.usecases.content import ReadContent
from wireroom_rag.usecases.embed import EmbedTexts
from wireroom_rag.usecases.passages import MakePassages
from wireroom_rag.usecases.process import Processor
from wireroom_rag.usecases.rebuild import Builder
from wireroom_rag.usecases.reindex import Reindex
from wireroom_rag.usecases.retrieve import Retrieve
from wireroom_rag.usecases.upload import UploadDocument
from wireroom_rag.usecases.work import Worker
from wireroom_rag.vector_wiring import VectorStore


def build(settings: RagSettings, infra: Infra) -> Service:
    """Documents, index and retrieval; opens nothing."""
    database = infra.database("rag")
    data = Path(infra.data_dir("rag"))
    kept = kept_vectors(settings, infra, database)
    terms = ProviderTermsReader(database)
    model = InstalledModels(settings, data, terms=terms, wrap=kept.of)
    vectors = VectorStore(settings, database, data)
    generations = GenerationStore(database, model.models.default, tables=vectors.tables, receivers=model.receivers)
    index = IndexWriter(database, outside=vectors.index)
    builder = Builder(
        GenerationJobs(database, lease_seconds=settings.lease_seconds, outside=vectors.index),
        index,
        model.models,
        model.chunkers,
        poll_seconds=settings.poll_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        keep_seconds=settings.generation_keep_seconds,
    )
    blobs = blob_store(settings, data, infra.clock)
    documents = document_store(settings, database)
    quotas = quotas_of(settings)
    collections = CollectionStore(database, quotas, model.receivers)
    lifecycle = Lifecycle(settings, infra, database, documents=documents, blobs=blobs, vectors=vectors, data=data)
    texts = TextReader(database)
    ingest = Ingest(settings, database, blobs, documents, infra.draining)

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
        passages=MakePassages(generations, model.models, model.chunkers),
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
        await vectors.stop()

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
                outside=vectors.index,
                exact_up_to=settings.exact_scan_chunks,
                news_half_life_days=settings.news_half_life_days,
                clock=infra.clock,
            ),
            collections,
            generations=generations,
            models=model.models,
            chunkers=model.chunkers,
            terms=terms,
            reranker=model.reranker,
            ranks=model.ranks,
            query_seconds=settings.query_embedding_seconds,
        ),
        verify=VerifyCitations(texts),
        resolve=ResolveCitation(texts),
    )
    members = MemberStore(database, quotas)
    collection_servicer = CollectionServicer(collections, members)
    batch_servicer = FileBatchServicer(FileBatchStore(database, members, quotas))
    embedding_servicer = EmbeddingServicer(EmbedTexts(model.models, model.chunkers))
    index_servicer = IndexServicer(Reindex(generations, model.models, builder.wake))
    return Service(
        name="rag",
        rpc=(
            lambda server: rag_pb2_grpc.add_DocumentServiceServicer_to_server(document_servicer, server),
            lambda server: rag_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval_servicer, server),
            lambda server: collections_pb2_grpc.add_CollectionServiceServicer_to_server(collection_servicer, server),
            lambda server: file_batches_pb2_grpc.add_FileBatchServiceServicer_to_server(batch_servicer, server),
            lambda server: embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding_servicer, server),
            lambda server: generations_pb2_grpc.add_IndexServiceServicer_to_server(index_servicer, server),
            ingest.rpc(worker.wake),
            *lifecycle.rpc,
        ),
        subscriptions=(ArticleEvents(database, worker.wake).subscription(), lifecycle.subscription),
        periodic=(*lifecycle.periodic, *ingest.periodic, *vectors.periodic, upkeep(settings, database)),
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
