"""One making of a value per process, however many callers want it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """Makings under way, by name. One goes on when the caller who began it leaves, and ends when nobody waits any more."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[T]] = {}
        self._waiting: dict[asyncio.Task[T], int] = {}

    async def share(self, name: str, make: Callable[[], Coroutine[Any, Any, T] | Awaitable[T]]) -> T:
        """What `make` returns or raises: of this call, or of the one that is under way."""
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.create_task(_awaited(make), name=f"cache {name}")
            self._under_way[name] = task
            self._waiting[task] = 0
            task.add_done_callback(lambda done: self._landed(name, done))
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            if task in self._waiting:
                self._waiting[task] -= 1
                if not self._waiting[task] and not task.done():
                    # The next caller begins anew.
                    self._landed(name, task)
                    task.cancel()

    def _landed(self, name: str, task: asyncio.Task[T]) -> None:
        self._waiting.pop(task, None)
        if self._under_way.get(name) is task:
            del self._under_way[name]
        if task.done() and not task.cancelled():
            # Read here: when all who waited have left, nobody else does.
            task.exception()


async def _awaited(make: Callable[[], Awaitable[T]]) -> T:
    return await make()
