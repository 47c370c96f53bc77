"""One link to each address of a target: made, kept, replaced."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import structlog

from wireroom_common.error_text import describe_error
from wireroom_common.rpc.multiplex.addresses import addresses_of, changes
from wireroom_common.rpc.multiplex.link import Link, LinkFailedError, LinkUnsupportedError
from wireroom_common.rpc.signing import PrincipalSigner

_FIRST_DELAY = 0.1
_LAST_DELAY = 2.0
_DELAY_GROWTH = 1.6
# A link that held so long was none of a series of failures.
_STEADY_SECONDS = 1.0
# How often a peer that serves ordinary calls only is asked again, and a name resolved again.
_ASK_AGAIN_SECONDS = 30.0
_RESOLVE_SECONDS = 30.0
_RESOLVE_PAUSE = 1.0

_log = structlog.get_logger(__name__)


class LinkPool:
    """Begins to connect with `start`. `changed` is called whenever `state` may be another."""

    def __init__(self, target: str, changed: Callable[[], None], signer: PrincipalSigner | None = None) -> None:
        self._target = target
        self._signer = signer
        self._changed = changed
        self._ready: list[Link] = []
        # Addresses of peers that serve ordinary calls only, and of those that could not be reached at the last attempt.
        self._plain: set[str] = set()
        self._failing: set[str] = set()
        self._turn = 0
        self._unresolved = False
        self._resolving: asyncio.Task[None] | None = None
        self._resolve_again = asyncio.Event()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        # Every task that has not ended, also of addresses that are none any more.
        self._tasks: set[asyncio.Task[None]] = set()
        # Every link that has not ended, by the task that ends with it.
        self._links: dict[asyncio.Task[None], Link] = {}

    @property
    def has_links(self) -> bool:
        """Whether a call can be sent now."""
        return bool(self._ready)

    @property
    def has_plain_peers(self) -> bool:
        """Whether some peers serve ordinary calls only."""
        return bool(self._plain)

    def start(self) -> None:
        """Connect, unless that was begun before."""
        if self._resolving is None:
            self._resolving = self._task(self._resolve())

    def pick(self) -> Link | None:
        """The next link in turn; None for an ordinary call, where the turn is that of a peer which serves no other. Needs either."""
        self._turn += 1
        index = self._turn % (len(self._ready) + len(self._plain))
        return self._ready[index] if index < len(self._ready) else None

    def state(self) -> grpc.ChannelConnectivity:
        """As of a channel; of plain peers, that somebody is there."""
        if self._ready or self._plain:
            return grpc.ChannelConnectivity.READY
        if self._resolving is None:
            return grpc.ChannelConnectivity.IDLE
        if self._unresolved or (self._keepers and len(self._failing) >= len(self._keepers)):
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        return grpc.ChannelConnectivity.CONNECTING

    async def close(self) -> None:
        """End everything now."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links.values()):
            await link.close()

    async def _resolve(self) -> None:
        while True:
            self._resolve_again.clear()
            try:
                self._keep(await addresses_of(self._target))
                self._unresolved = False
            except (OSError, UnicodeError, OverflowError):
                # There is no such name, or it can be none.
                self._unresolved = not self._keepers
            self._changed()
            if not changes(self._target):
                return
            await asyncio.sleep(_RESOLVE_PAUSE)
            if not self._unresolved:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RESOLVE_SECONDS):
                        await self._resolve_again.wait()

    def _keep(self, addresses: list[str]) -> None:
        for address in self._keepers.keys() - set(addresses):
            self._keepers.pop(address).cancel()
            self._plain.discard(address)
            self._failing.discard(address)
        for address in addresses:
            if address not in self._keepers:
                self._keepers[address] = self._task(self._keep_link(address))

    async def _keep_link(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        delay = _FIRST_DELAY
        while True:
            link = Link(address, self._signer)
            try:
                ending = await link.open()
            except LinkUnsupportedError:
                self._note(address, plain=True)
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                continue
            except LinkFailedError:
                self._note(address, failing=True)
                self._resolve_again.set()
            else:
                opened = loop.time()
                await self._use(address, link, ending)
                if loop.time() - opened >= _STEADY_SECONDS:
                    delay = _FIRST_DELAY
                    continue
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            delay = min(delay * _DELAY_GROWTH, _LAST_DELAY)

    async def _use(self, address: str, link: Link, ending: asyncio.Task[None]) -> None:
        self._links[ending] = link
        ending.add_done_callback(self._links.pop)
        self._ready.append(link)
        self._note(address)
        try:
            await link.leaving.wait()
        finally:
            self._ready.remove(link)
            link.retire()
            self._changed()

    def _note(self, address: str, *, plain: bool = False, failing: bool = False) -> None:
        for members, member in ((self._plain, plain), (self._failing, failing)):
            if member:
                members.add(address)
            else:
                members.discard(address)
        self._changed()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Outlives the call that caused it, and must not carry that one's principal and log fields."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("rpc_link_keeper_died", target=self._target, error=describe_error(error))
