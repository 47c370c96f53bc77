"""At least a given time between two requests to one host."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from wireroom_common.clock import Clock

_HOSTS_REMEMBERED = 10_000


class HostPacer:
    """Hands out turns per host in order of asking. Forgets hosts beyond 10,000, least recently used first."""

    def __init__(self, clock: Clock, gap: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._clock = clock
        self._gap = gap
        self._sleep = sleep
        self._free_at: OrderedDict[str, float] = OrderedDict()

    async def turn(self, host: str) -> None:
        """Return when a request to `host` may be sent."""
        now = self._clock.monotonic()
        at = max(now, self._free_at.get(host, now))
        self._free_at[host] = at + self._gap
        self._free_at.move_to_end(host)
        while len(self._free_at) > _HOSTS_REMEMBERED:
            self._free_at.popitem(last=False)
        if at > now:
            await self._sleep(at - now)
