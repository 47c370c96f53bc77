"""The part of the composition root that keeps, limits and deletes: quotas, access lists, retention, deletion, erasure."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from wireroom_common.bus import Subscription
from wireroom_common.db import Database
from wireroom_common.runtime.service import Infra, Periodic, RpcRegistration
from wireroom_protos.rag.v1 import access_pb2_grpc, privacy_pb2_grpc
from wireroom_rag.adapters.access_sql import AccessStore
from wireroom_rag.adapters.deletion_sql import DeletionStore
from wireroom_rag.adapters.documents_sql import DocumentStore
from wireroom_rag.adapters.erasure_sql import ErasureStore
from wireroom_rag.adapters.export_sql import ExportStore
from wireroom_rag.adapters.file_upkeep_sql import FileUpkeep
from wireroom_rag.adapters.lifecycle_metrics import LifecycleMetrics
from wireroom_rag.adapters.receipt_key import ReceiptKey
from wireroom_rag.adapters.retention_sql import RetentionStore
from wireroom_rag.adapters.versions_sql import LimitStore, VersionReader
from wireroom_rag.domain.access import Access
from wireroom_rag.domain.quota import Quota, Quotas
from wireroom_rag.ports.documents import BlobStore
from wireroom_rag.settings import RagSettings
from wireroom_rag.transport.access import AccessServicer
from wireroom_rag.transport.erasure import ErasureEvents, ReceiptServicer
from wireroom_rag.transport.export import ExportServicer
from wireroom_rag.usecases.delete import ORPHAN_AGE, CompleteErasures, DeleteDocument, DeleteDroppedFiles, Purge, SweepOrphans
from wireroom_rag.usecases.retain import Retain
from wireroom_rag.usecases.vector_upkeep import CountVectors
from wireroom_rag.vector_wiring import VectorStore


def quotas_of(settings: RagSettings) -> Quotas:
    """The installation's limits."""
    return Quotas(
        tenant=Quota(settings.tenant_max_documents, settings.tenant_max_bytes),
        user=Quota(settings.user_max_documents, settings.user_max_bytes),
        collection=Quota(settings.collection_max_documents, settings.collection_max_bytes),
    )


def document_store(settings: RagSettings, database: Database) -> DocumentStore:
    """Documents with the installation's default access and limits."""
    return DocumentStore(database, access=Access(settings.document_access), quotas=quotas_of(settings))


class Lifecycle:
    """What the service declares of it."""

    def __init__(
        self,
        settings: RagSettings,
        infra: Infra,
        database: Database,
        *,
        documents: DocumentStore,
        blobs: BlobStore,
        vectors: VectorStore,
        data: Path,
    ) -> None:
        metrics = LifecycleMetrics(infra.registry)
        self._count_vectors = CountVectors(vectors.removals, metrics)
        tombstones, erasures = DeletionStore(database), ErasureStore(database)
        self._purge = Purge(tombstones, vectors.remove, blobs)
        files = FileUpkeep(database)
        self._delete_dropped = DeleteDroppedFiles(files, blobs)
        self._complete = CompleteErasures(erasures, ReceiptKey(data / "receipts"))
        self._sweep = SweepOrphans(
            documents, tombstones, blobs, files, metrics, age=max(ORPHAN_AGE, timedelta(seconds=settings.sweep_seconds))
        )
        self._retain = Retain(
            RetentionStore(database),
            self._delete_dropped,
            metrics.ended,
            versions_kept=settings.versions_kept,
            version_days=settings.version_days,
            article_days=settings.article_days,
        )
        self.delete = DeleteDocument(tombstones, self._purge)
        access = AccessServicer(
            AccessStore(database), documents, VersionReader(database), LimitStore(database, quotas_of(settings))
        )
        receipts = ReceiptServicer(erasures)
        export = ExportServicer(ExportStore(database))
        self.rpc: tuple[RpcRegistration, ...] = (
            lambda server: access_pb2_grpc.add_AccessServiceServicer_to_server(access, server),
            lambda server: access_pb2_grpc.add_ReceiptServiceServicer_to_server(receipts, server),
            lambda server: privacy_pb2_grpc.add_DocumentExportServiceServicer_to_server(export, server),
        )
        self.subscription: Subscription = ErasureEvents(database).subscription()
        self.periodic = (
            Periodic("rag_purge", settings.purge_seconds, self.purge),
            Periodic("rag_orphan_sweep", settings.sweep_seconds, self.sweep),
            Periodic("rag_cleanup_old_content", settings.retention_seconds, self.cleanup_old_content),
        )

    async def purge(self) -> None:
        """Take up deletions that were interrupted, and sign what is complete."""
        await self._purge()
        await self._delete_dropped()
        await self._complete()

    async def sweep(self) -> None:
        """Remove and count left-overs."""
        await self._sweep()
        await self._count_vectors()

    async def cleanup_old_content(self) -> None:
        """Let go of what is kept no longer."""
        await self._retain()
