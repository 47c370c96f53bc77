"""Calls that wait for a connection: a peer that is down is UNAVAILABLE, not slow."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from typing import Protocol

import grpc.aio

from wireroom_common.rpc.failures import unavailable_error

_STEPS = 6


class WaitingCall(Protocol):
    """A call that may not be under way."""

    def fail(self, failure: BaseException) -> None:
        """End it, unless it has ended."""


class ConnectionWait:
    """Gives up the calls of a channel that wait `seconds` for a connection in vain; one task for all of them.

    In steps: an event loop that was held up has not seen the connection that is there, and gets the chance to.
    """

    def __init__(self, channel: grpc.aio.Channel, seconds: float) -> None:
        self._channel = channel
        self._step = seconds / _STEPS
        self._steps = 0
        # In the order in which they are given up, each with the step after which it is.
        self._calls: deque[tuple[int, WaitingCall]] = deque()
        self._watching: asyncio.Task[None] | None = None

    def add(self, call: WaitingCall) -> None:
        """A call that was begun without a connection."""
        # The step that is under way is not a whole one.
        self._calls.append((self._steps + _STEPS + (self._watching is not None), call))
        if self._watching is None:
            # A context of its own: it serves other calls than the one that happens to be the first.
            self._watching = asyncio.get_running_loop().create_task(self._watch(), context=contextvars.Context())

    async def close(self) -> None:
        """The channel is closed, which has ended its calls."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        ready = asyncio.create_task(self._channel.channel_ready())
        try:
            while self._calls:
                await asyncio.wait((ready,), timeout=self._step)
                if ready.done():
                    break
                self._steps += 1
                while self._calls and self._calls[0][0] <= self._steps:
                    self._calls.popleft()[1].fail(unavailable_error())
        finally:
            # The calls are under way, or have ended with the channel.
            self._calls.clear()
            self._watching = None
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
