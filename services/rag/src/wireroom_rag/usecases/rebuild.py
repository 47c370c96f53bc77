"""The builder: takes generations from `building` to `serving`, and those that nobody reads any more out of the tables."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.chunking import Chunkers
from wireroom_rag.domain.document import LeaseLostError, VersionKey
from wireroom_rag.domain.generation import GenerationState, Task
from wireroom_rag.domain.passage import BuiltText
from wireroom_rag.ports.generations import GenerationQueue, GenerationWork, Models
from wireroom_rag.ports.index import IndexWriter
from wireroom_rag.usecases.passages import cut, embed_with

# Documents that are looked up at once, and turns after which other tenants' work has its turn.
_DOCUMENTS = 16
_TURNS = 8
_LONGEST_WAIT = 60.0
_WAKE_AFTER = 0.05
_OUTSIDE = (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED)

_log = structlog.get_logger(__name__)


class GenerationJobs(GenerationQueue, GenerationWork, Protocol):
    """Leases and steps."""


class Builder:
    """Runs until stopped; any number of replicas may. What was built stands in the index itself: nothing is lost with a process."""

    def __init__(
        self,
        jobs: GenerationJobs,
        index: IndexWriter,
        models: Models,
        chunkers: Chunkers,
        *,
        poll_seconds: float,
        heartbeat_seconds: float,
        keep_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._index = index
        self._models = models
        self._chunkers = chunkers
        self._poll_seconds = poll_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._keep_seconds = keep_seconds
        self._waker = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work."""
        self._loop = asyncio.create_task(self._run(), name="rag-generation-builder")

    async def stop(self) -> None:
        """Stop; the work goes back into the queue."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._loop = None

    async def ping(self) -> None:
        """Raise unless the builder runs."""
        if self._loop is None or self._loop.done():
            msg = "The builder of the index does not run."
            raise RuntimeError(msg)

    def wake(self) -> None:
        """There may be work. Cheap."""
        asyncio.get_running_loop().call_later(_WAKE_AFTER, self._waker.set)

    async def _run(self) -> None:
        while True:
            self._waker.clear()
            try:
                if await self._turn():
                    continue
            except Exception:  # noqa: BLE001 - whatever it was, the builder goes on
                _log.exception("builder_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._waker.wait()

    async def _turn(self) -> bool:
        task = await self._jobs.claim()
        if task is None:
            return False
        heartbeat = asyncio.create_task(self._renew(task))
        try:
            await self._work(task)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._jobs.release(task))
            raise
        except LeaseLostError:
            _log.info("generation_lost", generation=task.generation.number, tenant_id=str(task.tenant_id))
        except Exception as error:  # noqa: BLE001 - noted on the generation, tried again
            await self._postpone(task, error)
        else:
            await self._jobs.release(task)
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
        return True

    async def _work(self, task: Task) -> None:
        if task.generation.state is GenerationState.BUILDING:
            await self._build(task)
            return
        for _ in range(_TURNS):
            if not await self._jobs.drop_some(task):
                return

    async def _build(self, task: Task) -> None:
        for _ in range(_TURNS):
            # Behind the position first; then what came in, or changed, before documents were written to both.
            behind = await self._jobs.missing(task, _DOCUMENTS, from_start=False)
            keys = behind or await self._jobs.missing(task, _DOCUMENTS, from_start=True)
            for key in keys:
                await self._add(task, key)
                if behind:
                    await self._jobs.advance(task, key.document_id)
            if not keys and await self._jobs.switch(task, keep_seconds=self._keep_seconds):
                _log.info("generation_switched", generation=task.generation.number, tenant_id=str(task.tenant_id))
                return

    async def _add(self, task: Task, key: VersionKey) -> None:
        found = await self._jobs.text_of(key)
        if found is None:
            return
        content, title = found
        made = await cut(self._chunkers.of(task.generation.blueprint.chunker), content, title)
        vectors = await embed_with(self._models, task.tenant_id, task.generation, made.texts)
        built = BuiltText(key.document_id, key.version, made.chunks, vectors, made.terms, made.title_terms)
        await self._index.add(task.tenant_id, task.generation, built)

    async def _postpone(self, task: Task, error: Exception) -> None:
        where = {"generation": task.generation.number, "tenant_id": str(task.tenant_id)}
        wait = min(_LONGEST_WAIT, 0.5 * 2 ** min(task.attempts, 10))
        if isinstance(error, WireroomError) and error.kind in _OUTSIDE:
            _log.warning("generation_postponed", error=error.code, **where)
            text = error.detail
        else:
            _log.error("generation_failed_once", attempt=task.attempts, exc_info=error, **where)
            text = "A step failed; the log of the service tells why. It is tried again."
        await self._jobs.release(task, seconds=wait, error=text)

    async def _renew(self, task: Task) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            try:
                await self._jobs.renew(task)
            except Exception:  # noqa: BLE001 - logged with its traceback; the next beat tries again
                _log.exception("lease_not_renewed")
