"""Argon2id, and bcrypt for imported hashes, in a small thread pool."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import bcrypt
from pwdlib.hashers.argon2 import Argon2Hasher

from wireroom_auth.adapters.common_passwords import is_common
from wireroom_auth.domain.password_hashes import BCRYPT_BYTES, is_bcrypt, work_of
from wireroom_auth.domain.passwords import check_new_password, common_password, is_too_long, normalised, personal_words
from wireroom_common.errors import ErrorKind, WireroomError

T = TypeVar("T")

# Kinds of work that a failed check goes through; beyond it, the rarest kinds tell themselves by their time.
_MAX_KINDS = 4


class Argon2Passwords:
    """Hashes and verifies; at most `workers` at a time, at most `queue` waiting, the rest refused.

    A check that fails costs the same whoever was asked for: once each kind of work that stored hashes need (`equalise`).
    """

    def __init__(self, *, memory_kib: int, time_cost: int, parallelism: int, workers: int, queue: int) -> None:
        self._hasher = Argon2Hasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism)
        self._current = f"argon2id:{memory_kib}:{time_cost}:{parallelism}"
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="password")
        self._room = workers + queue
        # By kind of work: a hash that no password fits, to stand in where there is none of that kind to check.
        self._stand_ins: dict[str, str] = {}

    async def equalise(self, works: Sequence[str]) -> None:
        """Say which kinds of work (`work_of`) stored hashes need, the most frequent first. The current one always counts."""
        wanted = list(dict.fromkeys([self._current, *(work for work in works if work)]))[:_MAX_KINDS]
        fresh = {work: await self._run(partial(_stand_in, work)) for work in wanted if work not in self._stand_ins}
        self._stand_ins = {work: self._stand_ins.get(work) or fresh[work] for work in wanted}

    async def hash(self, password: str) -> str:
        text = normalised(password)
        return await self._run(lambda: self._hasher.hash(text))

    async def hash_new(self, password: str, *, email: str, name: str) -> str:
        text = normalised(password)

        def work() -> str:
            check_new_password(password, email=email, name=name)
            if is_common(text, personal_words(email, name)):
                raise common_password()
            return self._hasher.hash(text)

        return await self._run(work)

    async def verify(self, password: str, password_hash: str | None, *, usable: bool = True) -> bool:
        # What is too long was never stored; it is not hashed either, a short text is in its place.
        too_long = is_too_long(password)
        text = "" if too_long else normalised(password)
        stand_ins = dict(self._stand_ins)

        def work() -> bool:
            fits = False
            if password_hash is not None:
                fits = self._fits(text, password_hash) and not too_long
                if fits and usable:
                    return True
                stand_ins.pop(work_of(password_hash), None)
            for stand_in in stand_ins.values():
                self._fits(text, stand_in)
            return fits

        return await self._run(work)

    def is_current(self, password_hash: str) -> bool:
        return work_of(password_hash) == self._current

    def close(self) -> None:
        """End the threads; waiting work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fits(self, text: str, password_hash: str) -> bool:
        try:
            if is_bcrypt(password_hash):
                return bcrypt.checkpw(text.encode("utf-8", "surrogatepass")[:BCRYPT_BYTES], password_hash.encode("ascii"))
            return self._hasher.verify(text, password_hash)
        except ValueError:
            # A stored hash that cannot be read fits nothing.
            return False

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


def _stand_in(work: str) -> str:
    kind, *numbers = work.split(":")
    nobody_knows = secrets.token_urlsafe(32)
    if kind == "bcrypt":
        return bcrypt.hashpw(nobody_knows.encode(), bcrypt.gensalt(int(numbers[0]))).decode()
    memory, passes, lanes = map(int, numbers)
    return Argon2Hasher(memory_cost=memory, time_cost=passes, parallelism=lanes).hash(nobody_knows)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
