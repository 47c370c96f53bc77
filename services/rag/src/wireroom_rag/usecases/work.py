"""The worker: claims due jobs, keeps their leases alive, processes them; woken in process, and by its own clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from wireroom_rag.domain.document import SMALL_BYTES, Job
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.processing import JobQueue
from wireroom_rag.usecases.process import Processor

# Articles of one batch, and batches at once: while one waits for the model, the other talks to the database.
_ARTICLES = 32
_ARTICLE_LOOPS = 2
# A waker may run just before its transaction commits.
_WAKE_AFTER = 0.05

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Lane:
    """What one loop takes, and how much of it at a time."""

    kind: SourceKind
    limit: int
    process: Callable[[Sequence[Job]], Coroutine[None, None, None]]
    max_size: int | None = None


class Worker:
    """Runs until stopped. Any number of replicas may run: leases keep them apart. `lanes`: documents at a time."""

    def __init__(
        self, jobs: JobQueue, processor: Processor, *, lanes: int, poll_seconds: float, heartbeat_seconds: float
    ) -> None:
        self._lanes = lanes
        self._jobs = jobs
        self._processor = processor
        self._poll_seconds = poll_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._wakers: list[asyncio.Event] = []

    async def start(self) -> None:
        """Begin to work."""
        documents = _Lane(SourceKind.DOCUMENT, 1, self._processor.documents)
        lanes = [documents] * self._lanes
        if self._lanes > 1:
            # However many large files there are: the small ones behind them need not wait.
            lanes[-1] = replace(documents, max_size=SMALL_BYTES)
        lanes += [_Lane(SourceKind.ARTICLE, _ARTICLES, self._processor.articles)] * _ARTICLE_LOOPS
        for lane in lanes:
            waker = asyncio.Event()
            self._wakers.append(waker)
            self._tasks.append(asyncio.create_task(self._loop(lane, waker), name=f"rag-{lane.kind.value}-worker"))

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

    async def _loop(self, lane: _Lane, waker: asyncio.Event) -> None:
        while True:
            waker.clear()
            try:
                jobs = await self._jobs.claim(lane.kind, lane.limit, max_size=lane.max_size)
                if jobs:
                    await self._leased(jobs[0].lease_token, lane.process(jobs))
                    continue
            except Exception:  # noqa: BLE001 - whatever it was, the worker goes on
                _log.exception("worker_failed", kind=lane.kind.value)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await waker.wait()

    async def _leased(self, token: UUID, work: Coroutine[None, None, None]) -> None:
        """Do the work while the leases last; it is given up when they are lost, for others or because the job was cancelled."""
        working = asyncio.create_task(work)
        heartbeat = asyncio.create_task(self._renew(token))
        try:
            await asyncio.wait((working, heartbeat), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            else:
                _log.info("work_given_up")
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._jobs.release(token))
            raise
        finally:
            heartbeat.cancel()
            working.cancel()
            await asyncio.gather(heartbeat, working, return_exceptions=True)

    async def _renew(self, token: UUID) -> None:
        """Until nothing is left to renew."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            try:
                if not await self._jobs.renew(token):
                    return
            except Exception:  # noqa: BLE001 - logged with its traceback; the next beat tries again
                # If it does not recover in time, the job is another worker's; nothing of ours will be written then.
                _log.exception("lease_not_renewed")
