"""Several extraction processes, one of which large files never get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.domain.document import SMALL_BYTES, ExtractedText


class ExtractionPool:
    """Implements `Extractor` with up to `processes` files at a time; processes start when they are needed and end when idle."""

    def __init__(self, limits: ExtractionLimits, *, processes: int) -> None:
        self._free = [ExtractionProcess(limits) for _ in range(processes)]
        self._all = tuple(self._free)
        self._any = asyncio.Semaphore(processes)
        self._for_large = asyncio.Semaphore(max(1, processes - 1))

    @property
    def pids(self) -> tuple[int, ...]:
        """The running subprocesses."""
        return tuple(process.pid for process in self._all if process.pid is not None)

    async def extract(self, media_type: str, size: int, data: AsyncIterator[bytes]) -> ExtractedText:
        if size <= SMALL_BYTES:
            return await self._extract(media_type, size, data)
        async with self._for_large:
            return await self._extract(media_type, size, data)

    async def stop(self) -> None:
        """End the subprocesses."""
        for process in self._all:
            await process.stop()

    async def _extract(self, media_type: str, size: int, data: AsyncIterator[bytes]) -> ExtractedText:
        async with self._any:
            # The one used last is the one that runs.
            process = self._free.pop()
            try:
                return await process.extract(media_type, size, data)
            finally:
                self._free.append(process)
