"""Time limits that hold whatever happened to a worker: of jobs in one state, and of files in quarantine."""

from __future__ import annotations

from datetime import timedelta

import structlog

from wireroom_rag.domain.document import QUARANTINE, LeaseLostError
from wireroom_rag.ports.documents import BlobStore, SweepPositions
from wireroom_rag.ports.processing import OverdueJobs

_AT_ONCE = 100
_PARTS = 20
_SWEEP = "quarantine"

_log = structlog.get_logger(__name__)


class EndOverdueJobs:
    """Ends jobs that have been waiting, or stood in a later state, for too long; a worker that still has one gives it up."""

    def __init__(self, jobs: OverdueJobs, *, waiting_seconds: float, stage_seconds: float) -> None:
        self._jobs = jobs
        self._waiting_seconds = waiting_seconds
        self._stage_seconds = stage_seconds

    async def __call__(self) -> int:
        """How many were ended. Harmless to run on several replicas at once."""
        count = 0
        while jobs := await self._jobs.claim_overdue(self._waiting_seconds, self._stage_seconds, _AT_ONCE):
            for job in jobs:
                _log.warning("job_overdue", document_id=str(job.key.document_id), state=job.state.value)
                try:
                    await self._jobs.fail(
                        job,
                        "processing_overdue",
                        f"The document stood in the state '{job.state.value}' for longer than is allowed. Try it again.",
                    )
                    count += 1
                except LeaseLostError:
                    continue
        return count


class SweepQuarantine:
    """Deletes files that have been in quarantine for `keep`. A run looks at a part of them, the next one goes on behind it."""

    def __init__(self, blobs: BlobStore, positions: SweepPositions, *, keep: timedelta) -> None:
        self._blobs = blobs
        self._positions = positions
        self._keep = keep

    async def __call__(self) -> int:
        """How many were deleted."""
        count = 0
        position = await self._positions.position(_SWEEP)
        for _ in range(_PARTS):
            keys, position = await self._blobs.older_than(self._keep, prefix=QUARANTINE, after=position)
            await self._blobs.delete(keys)
            await self._positions.move(_SWEEP, position)
            count += len(keys)
            if not position:
                break
        return count
