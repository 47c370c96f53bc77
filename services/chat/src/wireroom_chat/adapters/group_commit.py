"""Writes of many that wait at the same moment, in one transaction."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError

_MOST = 64

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    key: UUID
    item: T
    written: asyncio.Future[None]


class GroupCommit(Generic[T]):
    """`write` gets the items of one tenant, at most 64 with different keys, and must write all of them or none.

    One transaction of a tenant is under way at a time; what comes meanwhile waits for the next. Nobody waits to make a group larger.
    """

    def __init__(self, write: Callable[[UUID, Sequence[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: dict[UUID, list[_Entry[T]]] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def add(self, tenant_id: UUID, key: UUID, item: T) -> None:
        """Return when the item is committed; raise what its own writing raised. Written even if the caller is cancelled meanwhile."""
        entry = _Entry(key, item, asyncio.get_running_loop().create_future())
        waiting = self._waiting.get(tenant_id)
        if waiting is not None:
            waiting.append(entry)
        else:
            self._waiting[tenant_id] = [entry]
            # A context of its own: the writer works for others, too.
            task = contextvars.Context().run(asyncio.create_task, self._write_all(tenant_id))
            self._writers.add(task)
            task.add_done_callback(self._writers.discard)
        await entry.written

    async def _write_all(self, tenant_id: UUID) -> None:
        waiting = self._waiting[tenant_id]
        try:
            # Those that are ready to run in this turn of the loop come along.
            await asyncio.sleep(0)
            while waiting:
                group: dict[UUID, _Entry[T]] = {}
                later = []
                for entry in waiting:
                    if entry.key in group or len(group) >= _MOST:
                        later.append(entry)
                    else:
                        group[entry.key] = entry
                waiting[:] = later
                await self._write_group(tenant_id, list(group.values()))
        finally:
            del self._waiting[tenant_id]
            for entry in waiting:
                entry.written.cancel()

    async def _write_group(self, tenant_id: UUID, group: list[_Entry[T]]) -> None:
        try:
            await self._write(tenant_id, [entry.item for entry in group])
        except asyncio.CancelledError:
            for entry in group:
                entry.written.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on to those who wait
            away = isinstance(error, WireroomError) and error.kind is ErrorKind.UNAVAILABLE
            if len(group) == 1 or away:
                _tell(group, error)
                return
            # One of them cannot be written: it alone is to fail.
            for entry in group:
                await self._write_group(tenant_id, [entry])
        else:
            _tell(group, None)


def _tell(group: list[_Entry[T]], error: Exception | None) -> None:
    for entry in group:
        if entry.written.done():
            continue
        if error is None:
            entry.written.set_result(None)
        else:
            entry.written.set_exception(error)
