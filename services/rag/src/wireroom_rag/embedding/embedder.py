"""Runs the embedding model off the event loop, with bounded queues."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # has no stubs
from tokenizers import Tokenizer

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.embedding.files import DIMENSIONS, MAX_TOKENS, ModelFiles
from wireroom_rag.embedding.processes import PassageProcesses

# Texts of one turn in the queue: at most half a second of work, after which other callers' texts have theirs.
BATCH = 16
_QUEUE = 64
# Seconds without work after which memory is given back.
_IDLE_AFTER = 1.0


class TextTooLongError(ValueError):
    """A text has more tokens than the model reads; nothing is ever cut silently."""


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """The model's tokenizer, without its built-in cutting and padding."""
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Model:
    """The loaded model. Thread-safe; one call uses one core."""

    def __init__(self, files: ModelFiles) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # The arena keeps the largest batch's memory for ever; without it, memory goes back after each call.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(str(files.graph), options, providers=["CPUExecutionProvider"])
        self.tokenizer = load_tokenizer(files)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [len(texts), 384]; TextTooLongError when one has more than 256 tokens.

        One run per text: activations are quantised per run, so a text's vector would depend on its neighbours. On one core a batch is
        no faster anyway (sixteen long texts take half as long again), and takes ten times the memory.
        """
        encodings = self.tokenizer.encode_batch(list(texts))
        longest = max(len(encoding.ids) for encoding in encodings)
        if longest > MAX_TOKENS:
            msg = f"A text has {longest} tokens; the model reads {MAX_TOKENS}."
            raise TextTooLongError(msg)
        return np.vstack([self._run(encoding.ids) for encoding in encodings])

    def _run(self, tokens: Sequence[int]) -> Vectors:
        ids = np.array([tokens], dtype=np.int64)
        (vector,) = self._session.run(["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(vector, dtype=np.float32)


class _Lane:
    """One thread with a bounded queue."""

    def __init__(self, name: str, model: Model) -> None:
        self._model = model
        self._queue: queue.Queue[tuple[Sequence[str], Future[Vectors]] | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        future: Future[Vectors] = Future()
        try:
            self._queue.put_nowait((texts, future))
        except queue.Full:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "embedding_busy",
                "Too many texts wait for the embedding model; try again shortly.",
                retry_after=1,
            ) from None
        return await asyncio.wrap_future(future)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _next(self) -> tuple[Sequence[str], Future[Vectors]] | None:
        try:
            return self._queue.get(timeout=_IDLE_AFTER)
        except queue.Empty:
            _return_memory()
            return self._queue.get()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            texts, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._model.embed(texts))
            except BaseException as error:  # noqa: BLE001 - the waiting coroutine gets it, whatever it is
                future.set_exception(error)


def _return_memory() -> None:
    """Give what batches took back to the system: the C library keeps up to 100 MB of it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Embedder:
    """Embeds queries and passages. Queries have a thread of their own, so that they never wait behind an ingest.

    `processes` embed the passages; 0 for a second thread of this process instead.
    """

    def __init__(self, files: ModelFiles, *, processes: int = 0) -> None:
        self._files = files
        self._processes = PassageProcesses(files, processes) if processes else None
        self._model: Model | None = None
        self._lanes: tuple[_Lane, _Lane] | None = None

    async def start(self) -> None:
        """Load the model; FileNotFoundError when it was not built."""
        if not self._files.is_built():
            msg = f"No embedding model in {self._files.directory}."
            raise FileNotFoundError(msg)
        self._model = await asyncio.to_thread(Model, self._files)
        self._lanes = (_Lane("embed-queries", self._model), _Lane("embed-passages", self._model))

    async def stop(self) -> None:
        """Finish what runs and end the threads."""
        if self._lanes is not None:
            for lane in self._lanes:
                await asyncio.to_thread(lane.stop)
        self._lanes = None
        self._model = None
        if self._processes is not None:
            await self._processes.stop()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        if self._model is None:
            msg = "The embedder is not started."
            raise RuntimeError(msg)
        return self._model.tokenizer

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of any number of texts, each of at most 256 tokens."""
        lane = self._lane(1)
        if self._processes is not None:
            return await self._processes.embed(texts)
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for first in range(0, len(texts), BATCH):
            vectors[first : first + BATCH] = await lane.embed(texts[first : first + BATCH])
        return vectors

    async def query(self, windows: Sequence[str]) -> Vectors:
        """One unit vector [384] of a query; one longer than the model reads comes as several windows, which are averaged."""
        lane = self._lane(0)
        parts = [await lane.embed(windows[first : first + BATCH]) for first in range(0, len(windows), BATCH)]
        mean = np.vstack(parts).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), dtype=np.float32)

    async def ping(self) -> None:
        """Raise unless the model is loaded and its threads run."""
        if self._lanes is None or not all(lane.alive() for lane in self._lanes):
            raise WireroomError(ErrorKind.UNAVAILABLE, "embedding_model_not_loaded", "The embedding model is not loaded.")

    def _lane(self, index: int) -> _Lane:
        if self._lanes is None:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "embedding_model_not_loaded", "The embedding model is not loaded.", retry_after=5
            )
        return self._lanes[index]
