"""What takes files in and through their states, put together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.runtime.service import Periodic, RpcRegistration
from wireroom_protos.rag.v1 import processing_pb2_grpc
from wireroom_rag.adapters.blobs import BucketAccess, ObjectBlobs
from wireroom_rag.adapters.clamd import ClamdScanner
from wireroom_rag.adapters.extraction_pool import ExtractionPool
from wireroom_rag.adapters.extraction_process import ExtractionLimits
from wireroom_rag.adapters.file_upkeep_sql import FileUpkeep
from wireroom_rag.adapters.jobs_sql import JobStore
from wireroom_rag.adapters.steering_sql import SteeringStore
from wireroom_rag.ports.documents import DocumentStore
from wireroom_rag.settings import RagSettings
from wireroom_rag.transport.processing import ProcessingServicer
from wireroom_rag.usecases.overdue import EndOverdueJobs, SweepQuarantine
from wireroom_rag.usecases.watch import WatchDocument

# How often jobs are looked for that have stood for too long; that is hours, so it need not be often.
_OVERDUE_SECONDS = 30.0
# Documents in work beyond those that are read: while some wait for the model, others can be read.
_WAITING_LANES = 2


def bucket_access(settings: RagSettings) -> BucketAccess:
    """How buckets are reached."""
    return BucketAccess(
        settings.blobs_endpoint,
        settings.blobs_region,
        settings.blobs_access_key,
        settings.blobs_secret_key.get_secret_value(),
        settings.blobs_seconds,
    )


def blob_store(settings: RagSettings, data: Path, clock: Clock) -> ObjectBlobs:
    """Where the settings say, or in the folder of the service's data."""
    return ObjectBlobs.at(settings.blobs, data / "blobs", clock, bucket_access(settings))


class Ingest:
    """Queue, scanner and readers; what people ask of them; what watches over them."""

    def __init__(
        self,
        settings: RagSettings,
        database: Database,
        blobs: ObjectBlobs,
        documents: DocumentStore,
        draining: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._blobs = blobs
        self._documents = documents
        self._positions = FileUpkeep(database)
        self._steering = SteeringStore(database)
        self._watch = WatchDocument(documents, self._steering, draining=draining)
        self.jobs = JobStore(database, lease_seconds=settings.lease_seconds)
        self.scanner = ClamdScanner(settings.clamd, timeout=settings.clamd_seconds) if settings.clamd else None
        self.lanes = settings.extraction_processes + _WAITING_LANES
        self.extractor = ExtractionPool(
            ExtractionLimits(
                wall_seconds=settings.extraction_seconds,
                cpu_seconds=max(1, round(settings.extraction_seconds)),
                memory_bytes=settings.extraction_memory_bytes,
                max_pages=settings.max_pages,
                max_characters=settings.max_characters,
                idle_seconds=settings.extraction_idle_seconds,
            ),
            processes=settings.extraction_processes,
        )

    def rpc(self, wake: Callable[[], None]) -> RpcRegistration:
        """`wake` tells the worker that there may be work."""
        servicer = ProcessingServicer(
            steering=self._steering, chunks=self._steering, watch=self._watch, documents=self._documents, wake=wake
        )
        return lambda server: processing_pb2_grpc.add_ProcessingServiceServicer_to_server(servicer, server)

    @property
    def periodic(self) -> tuple[Periodic, ...]:
        """Ends jobs that stand for too long; removes files that are kept no longer."""
        overdue = EndOverdueJobs(
            self.jobs, waiting_seconds=self._settings.waiting_max_seconds, stage_seconds=self._settings.stage_max_seconds
        )
        quarantine = SweepQuarantine(self._blobs, self._positions, keep=timedelta(days=self._settings.quarantine_days))

        async def end_overdue_jobs() -> None:
            await overdue()

        async def sweep_files() -> None:
            await quarantine()

        return (
            Periodic("rag_overdue_jobs", _OVERDUE_SECONDS, end_overdue_jobs),
            Periodic("rag_file_sweep", self._settings.sweep_seconds, sweep_files),
        )

    async def stop(self) -> None:
        """End what runs."""
        await self._watch.stop()
        await self.extractor.stop()
