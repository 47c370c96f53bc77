"""The extractor: one warm subprocess, started on demand, killed when it hangs, ended when idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

from wireroom_rag.domain.document import ExtractedText, RejectedError
from wireroom_rag.extraction.protocol import MAX_HEADER, PREFIX, Reply, Request, encode_header
from wireroom_rag.ports.processing import ExtractionCrashedError

# Only what Python itself needs: a parser of hostile files must hold no secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_WORKER = (sys.executable, "-P", "-m", "wireroom_rag.extraction.worker")
# How a process ends that broke at a file, not one that was ended: at the next try it would break again.
_BROKEN = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE})


@dataclass(frozen=True)
class ExtractionLimits:
    """What one file may use."""

    wall_seconds: float
    cpu_seconds: int
    memory_bytes: int
    max_pages: int
    max_characters: int
    idle_seconds: float


class ExtractionProcess:
    """Implements `Extractor`; one file at a time."""

    def __init__(self, limits: ExtractionLimits, *, command: Sequence[str] = _WORKER) -> None:
        self._limits = limits
        self._command = tuple(command)
        self._process: Process | None = None
        self._one_at_a_time = asyncio.Lock()
        self._idle: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running subprocess, if any."""
        return self._process.pid if self._process is not None else None

    async def extract(self, media_type: str, size: int, data: AsyncIterator[bytes]) -> ExtractedText:
        async with self._one_at_a_time:
            self._stop_idling()
            process = self._process
            if process is None or process.returncode is not None:
                process = await self._start()
            done = False
            try:
                async with asyncio.timeout(self._limits.wall_seconds):
                    reply, text = await self._exchange(process, media_type, size, data)
                done = True
            except TimeoutError:
                raise RejectedError("document_too_complex", "Reading the document takes longer than is allowed.") from None
            except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError):
                code = await process.wait()
                if code == -signal.SIGXCPU:
                    raise RejectedError("document_too_complex", "Reading the document takes longer than is allowed.") from None
                if code in _BROKEN:
                    raise RejectedError(
                        "document_unreadable", "Reading the document broke the reader: it is damaged, or made to do so."
                    ) from None
                msg = f"The extraction process ended with {code}."
                raise ExtractionCrashedError(msg) from None
            finally:
                if not done:
                    await self._kill()
            self._idle = asyncio.create_task(self._end_when_idle())
        if reply["code"]:
            raise RejectedError(reply["code"], reply["reason"])
        return ExtractedText(text, tuple(reply["page_starts"]))

    async def stop(self) -> None:
        """End the subprocess."""
        self._stop_idling()
        await self._kill()

    async def _exchange(self, process: Process, media_type: str, size: int, data: AsyncIterator[bytes]) -> tuple[Reply, str]:
        if process.stdin is None or process.stdout is None:
            msg = "The extraction process has no pipes."
            raise ExtractionCrashedError(msg)
        request: Request = {
            "media_type": media_type,
            "size": size,
            "max_pages": self._limits.max_pages,
            "max_characters": self._limits.max_characters,
            "cpu_seconds": self._limits.cpu_seconds,
            "memory_bytes": self._limits.memory_bytes,
        }
        process.stdin.write(encode_header(request))
        async for block in data:
            process.stdin.write(block)
            await process.stdin.drain()
        await process.stdin.drain()
        (length,) = PREFIX.unpack(await process.stdout.readexactly(PREFIX.size))
        if length > MAX_HEADER:
            msg = "The extraction process answered out of protocol."
            raise ExtractionCrashedError(msg)
        reply = cast("Reply", json.loads(await process.stdout.readexactly(length)))
        body = await process.stdout.readexactly(reply["size"])
        return reply, await asyncio.to_thread(body.decode, "utf-8")

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, start_new_session=True
        )
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Its session is its own: what it may have started ends with it, also when it has ended itself. SIGKILL cannot be ignored.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._limits.idle_seconds)
        async with self._one_at_a_time:
            self._idle = None
            await self._kill()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
