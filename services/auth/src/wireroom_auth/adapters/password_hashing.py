"""Argon2id in a small thread pool."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pwdlib.hashers.argon2 import Argon2Hasher

from wireroom_auth.domain.passwords import is_too_long, normalised
from wireroom_common.errors import ErrorKind, WireroomError

T = TypeVar("T")


class Argon2Passwords:
    """Hashes and verifies; at most `workers` at a time, at most `queue` waiting, the rest refused."""

    def __init__(self, *, memory_kib: int, time_cost: int, parallelism: int, workers: int, queue: int) -> None:
        self._hasher = Argon2Hasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism)
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="password")
        self._room = workers + queue
        self._dummy_hash = ""

    async def prepare(self) -> None:
        """Make the hash that stands in for unknown users, so that their first login costs no more than others."""
        self._dummy_hash = await self._run(lambda: self._hasher.hash(secrets.token_urlsafe(32)))

    async def hash(self, password: str) -> str:
        text = normalised(password)
        return await self._run(lambda: self._hasher.hash(text))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        # What is too long was never stored; it is not hashed either, a short text is in its place.
        possible = password_hash is not None and not is_too_long(password)
        text = "" if is_too_long(password) else normalised(password)
        against = password_hash if password_hash is not None else self._dummy_hash
        fits = await self._run(lambda: self._hasher.verify(text, against))
        return fits and possible

    def close(self) -> None:
        """End the threads; waiting work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._room == 0:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "password_checks_busy", "Too many logins at once; try again in a second.", retry_after=1
            )
        self._room -= 1
        future = self._pool.submit(work)
        # Freed when the work is done, not when the caller gave up: a cancelled caller's hash still occupies a thread.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._release))
        return await asyncio.wrap_future(future)

    def _release(self) -> None:
        self._room += 1


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
