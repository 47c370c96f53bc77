"""The local model in processes of its own: passages on several cores, none of it in the service's memory."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.embedding.files import DIMENSIONS, ModelFiles

# Texts of one task: each is run by itself, so that memory does not grow with them.
_BATCH = 16
# Tasks that may wait, for each process.
_WAITING = 64

# Of a worker process: it has one model for its lifetime, and no other way to reach it.
_worker: list[object] = []


class PassageProcesses:
    """`processes` workers, each with one thread and its own copy of the model (about 110 MB); started by the first text."""

    def __init__(self, files: ModelFiles, processes: int) -> None:
        self._files = files
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._places = asyncio.Semaphore(2 * processes)
        self._waiting = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), 384]. UNAVAILABLE when too much waits, or a worker died."""
        batches = [list(texts[first : first + _BATCH]) for first in range(0, len(texts), _BATCH)]
        if not batches:
            return np.empty((0, DIMENSIONS), dtype=np.float32)
        if self._waiting >= _WAITING * self._processes:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "embedding_busy",
                "Too many texts wait for the embedding model; try again shortly.",
                retry_after=1,
            )
        self._waiting += len(batches)
        try:
            return np.vstack(await asyncio.gather(*(self._batch(batch) for batch in batches)))
        finally:
            self._waiting -= len(batches)

    async def stop(self) -> None:
        """End the workers."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    async def _batch(self, texts: list[str]) -> Vectors:
        async with self._places:
            pool = self._started()
            try:
                return await asyncio.wrap_future(pool.submit(_embed, texts))
            except BrokenProcessPool:
                if self._pool is pool:
                    self._pool = None
                    pool.shutdown(wait=False, cancel_futures=True)
                raise WireroomError(
                    ErrorKind.UNAVAILABLE, "embedding_process_died", "A process of the embedding model died.", retry_after=1
                ) from None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: the service has threads and connections that a copy must not have.
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_load,
                initargs=(str(self._files.directory),),
            )
        return self._pool


def _load(directory: str) -> None:
    from wireroom_rag.embedding.embedder import Model  # noqa: PLC0415 - the embedder has a pool of these

    parent = multiprocessing.parent_process()
    if parent is not None:
        # A service that was killed tells nobody: its workers must not stay behind.
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    _worker[:] = [Model(ModelFiles(Path(directory)))]


def _leave_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _embed(texts: list[str]) -> Vectors:
    from wireroom_rag.embedding.embedder import Model  # noqa: PLC0415 - as above

    (model,) = _worker
    if not isinstance(model, Model):
        raise TypeError
    return model.embed(texts)
