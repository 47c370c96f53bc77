"""The service's side of the parser process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import struct
import sys
from datetime import datetime
from typing import Any

from wireroom_news.domain.articles import Entry, ParsedFeed
from wireroom_news.fetching.failures import FeedError

_LENGTH = struct.Struct(">I")
_START_SECONDS = 20.0
# A process that has read this many documents is replaced: parsers fragment memory.
_DOCUMENTS_PER_PROCESS = 500
_MAX_ANSWER = 512 * 1024 * 1024


class ParserProcess:
    """One warm parser process, made when needed, killed when a document takes too long or when idle. Documents are read in turn."""

    def __init__(self, *, timeout: float, memory_bytes: int, idle_seconds: float) -> None:
        self._timeout = timeout
        self._memory = memory_bytes
        self._idle = idle_seconds
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._documents = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether the process exists now."""
        return self._process is not None and self._process.returncode is None

    async def parse(self, body: bytes, *, url: str, content_type: str, fetched_at: datetime) -> ParsedFeed:
        """The feed in `body`; FeedError `feed_not_a_feed` or, when the document exceeds time or memory, `feed_too_complex`."""
        request = {"url": url, "content_type": content_type, "fetched_at": fetched_at.isoformat(), "size": len(body)}
        async with self._turn:
            if self._reaper is not None:
                self._reaper.cancel()
                self._reaper = None
            try:
                answer = await self._answer(json.dumps(request).encode(), body)
            except (TimeoutError, OSError, EOFError, ValueError):
                await self._kill()
                raise FeedError("feed_too_complex", "The feed takes too much time or memory to read.") from None
            except BaseException:
                # Cancelled in the middle of an exchange: what the pipe holds belongs to nobody.
                await asyncio.shield(self._kill())
                raise
            self._reaper = asyncio.get_running_loop().call_later(self._idle, self._reap)
        if answer.get("error") == "limit":
            raise FeedError("feed_too_complex", "The feed takes too much time or memory to read.")
        if "feed" not in answer:
            raise FeedError("feed_not_a_feed", "The address leads to something that is not an RSS, Atom or JSON feed.")
        return _feed(answer["feed"])

    async def close(self) -> None:
        """End the process."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        async with self._turn:
            await self._kill()
        await asyncio.gather(*self._stopping)

    async def _answer(self, request: bytes, body: bytes) -> dict[str, Any]:
        try:
            return await self._ask(request, body)
        except (ConnectionError, EOFError):
            # The process ended, perhaps for a reason that has nothing to do with this document: a new one gets one try.
            await self._kill()
            return await self._ask(request, body)

    async def _ask(self, request: bytes, body: bytes) -> dict[str, Any]:
        if not self.running or self._documents >= _DOCUMENTS_PER_PROCESS:
            await self._kill()
            await self._start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError
        self._documents += 1
        # The first document pays for the process's start.
        limit = self._timeout + (_START_SECONDS if self._documents == 1 else 0)
        async with asyncio.timeout(limit):
            try:
                process.stdin.write(_LENGTH.pack(len(request)) + request + body)
                await process.stdin.drain()
            except RuntimeError as error:
                # How uvloop says that the pipe is closed already, before the end of the process has been noticed.
                raise ConnectionResetError from error
            size = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))[0]
            if size > _MAX_ANSWER:
                raise EOFError
            answer: dict[str, Any] = await asyncio.to_thread(json.loads, await process.stdout.readexactly(size))
            return answer

    async def _start(self) -> None:
        # Nothing of our environment (secrets, proxies) but what Python needs to find its packages.
        environment = {
            name: os.environ[name]
            for name in ("PATH", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "LANG", "LD_LIBRARY_PATH")
            if name in os.environ
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "wireroom_news.parsing.worker", str(self._memory), str(math.ceil(self._timeout)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=environment, limit=1024 * 1024,
        )  # fmt: skip
        self._documents = 0

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        # The transport closes its pipes in its own time; a loop that ends sooner would leave them to the garbage collector.
        if process.stdin is not None:
            process.stdin.close()

    def _reap(self) -> None:
        self._reaper = None
        if not self._turn.locked():
            task = asyncio.get_running_loop().create_task(self._reap_in_turn())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def _reap_in_turn(self) -> None:
        async with self._turn:
            if self._reaper is None:
                await self._kill()


def _feed(data: dict[str, Any]) -> ParsedFeed:
    entries = tuple(
        Entry(**{**entry, "published_at": datetime.fromisoformat(entry["published_at"]) if entry["published_at"] else None})
        for entry in data["entries"]
    )
    return ParsedFeed(title=data["title"], site_url=data["site_url"], entries=entries, truncated=data["truncated"])
