"""The worker: claims due jobs, keeps their leases alive, processes them; woken in process, and by its own clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from wireroom_rag.domain.document import Job
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.processing import JobQueue
from wireroom_rag.usecases.process import Processor

# Articles of one batch, and batches at once: while one waits for the model, the other talks to the database.
_ARTICLES = 32
_ARTICLE_LOOPS = 2
# A waker may run just before its transaction commits.
_WAKE_AFTER = 0.05

_log = structlog.get_logger(__name__)


class Worker:
    """Runs until stopped. Any number of replicas may run: leases keep them apart."""

    def __init__(self, jobs: JobQueue, processor: Processor, *, poll_seconds: float, heartbeat_seconds: float) -> None:
        self._jobs = jobs
        self._processor = processor
        self._poll_seconds = poll_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._wakers: list[asyncio.Event] = []

    async def start(self) -> None:
        """Begin to work."""
        loops = [(SourceKind.DOCUMENT, 1, self._processor.documents)]
        loops += [(SourceKind.ARTICLE, _ARTICLES, self._processor.articles)] * _ARTICLE_LOOPS
        for kind, limit, process in loops:
            waker = asyncio.Event()
            self._wakers.append(waker)
            self._tasks.append(asyncio.create_task(self._loop(kind, limit, process, waker), name=f"rag-{kind.value}-worker"))

    async def stop(self) -> None:
        """Stop; jobs in work go back into the queue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._wakers.clear()

    def wake(self) -> None:
        """There may be work. Cheap; may be called from within the transaction that makes the work."""
        asyncio.get_running_loop().call_later(_WAKE_AFTER, self._set_wakers)

    async def ping(self) -> None:
        """Raise unless every loop runs."""
        if not self._tasks or any(task.done() for task in self._tasks):
            msg = "The worker does not run."
            raise RuntimeError(msg)

    def _set_wakers(self) -> None:
        for waker in self._wakers:
            waker.set()

    async def _loop(
        self, kind: SourceKind, limit: int, process: Callable[[Sequence[Job]], Awaitable[None]], waker: asyncio.Event
    ) -> None:
        while True:
            waker.clear()
            try:
                jobs = await self._jobs.claim(kind, limit)
                if jobs:
                    async with self._leased(jobs[0].lease_token):
                        await process(jobs)
                    continue
            except Exception:  # noqa: BLE001 - whatever it was, the worker goes on
                _log.exception("worker_failed", kind=kind.value)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await waker.wait()

    @asynccontextmanager
    async def _leased(self, token: UUID) -> AsyncIterator[None]:
        heartbeat = asyncio.create_task(self._renew(token))
        try:
            yield
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._jobs.release(token))
            raise
        finally:
            heartbeat.cancel()

    async def _renew(self, token: UUID) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            try:
                await self._jobs.renew(token)
            except Exception:  # noqa: BLE001 - logged with its traceback; the next beat tries again
                # If it does not recover in time, the job is another worker's; nothing of ours will be written then.
                _log.exception("lease_not_renewed")
