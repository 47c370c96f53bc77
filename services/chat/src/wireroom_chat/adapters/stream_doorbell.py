"""Waits for new entries of many Redis streams over one connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

Entry = tuple[bytes, dict[bytes, bytes]]

_BLOCK_MILLISECONDS = 100
_ENTRIES = 100
_PAUSE = 0.5

log = structlog.get_logger()


class Doorbell:
    """One XREAD for all who wait. Who begins to wait while it is under way is served by the next one, 100 ms later at most."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: dict[bytes, dict[asyncio.Future[Sequence[Entry]], int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, key: bytes, after_seq: int, seconds: float) -> Sequence[Entry]:
        """Entries with an id above `after_seq`; none when none came in time."""
        answer: asyncio.Future[Sequence[Entry]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[answer] = after_seq
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return ()
        finally:
            waiting = self._waiting.get(key, {})
            waiting.pop(answer, None)
            if not waiting:
                self._waiting.pop(key, None)

    async def stop(self) -> None:
        """Nobody is served any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._waiting:
            asked = {key: dict(answers) for key, answers in self._waiting.items()}
            positions: dict[Any, Any] = {key: str(min(answers.values())) for key, answers in asked.items()}
            try:
                found = await self._client.xread(positions, count=_ENTRIES, block=_BLOCK_MILLISECONDS)
            except (RedisError, OSError):
                log.warning("chat.streams.doorbell.failed", exc_info=True)
                await asyncio.sleep(_PAUSE)
                continue
            for key, entries in _pairs(found):
                for answer in asked.get(key, ()):
                    if not answer.done():
                        answer.set_result(entries)


def _pairs(found: Any) -> Sequence[tuple[bytes, Sequence[Entry]]]:
    """The client gives a list of pairs or a mapping, by protocol version."""
    if not found:
        return ()
    if isinstance(found, dict):
        return [(key, entries[0]) for key, entries in found.items()]
    return [(key, entries) for key, entries in found]
