"""Counters of this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from wireroom_common.clock import Clock
from wireroom_gateway.limits.sliding import MICROSECONDS, SlidingWindow
from wireroom_gateway.limits.store import Counter, CounterState, Verdict

MAX_KEYS = 50_000


class MemoryCounterStore:
    """At most `max_keys` counters; the one not used for longest goes first.

    `share` divides every quota (at least one request stays): with N replicas that each count alone, N shares add up to the quota.
    """

    def __init__(self, clock: Clock, *, share: int = 1, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._share = share
        self._max_keys = max_keys
        self._windows: OrderedDict[str, SlidingWindow] = OrderedDict()

    async def take(self, counters: Sequence[Counter]) -> Verdict:
        now = int(self._clock.monotonic() * MICROSECONDS)
        windows = [self._window(counter) for counter in counters]
        before = [window.usage(now) for window in windows]
        allowed = all(usage.count < window.quota for usage, window in zip(before, windows, strict=True))
        if allowed:
            for window in windows:
                window.charge(now)
        states = []
        for counter, window, earlier in zip(counters, windows, before, strict=True):
            after = window.usage(now)
            remaining = max(0, window.quota - after.count)
            states.append(CounterState(counter, earlier.count < window.quota, remaining, after.reset_us / MICROSECONDS))
        return Verdict(allowed, states)

    def _window(self, counter: Counter) -> SlidingWindow:
        quota = max(1, counter.limit.quota // self._share)
        window = self._windows.get(counter.key)
        if window is None or window.quota != quota:
            window = self._windows[counter.key] = SlidingWindow(quota, counter.limit.window * MICROSECONDS)
        self._windows.move_to_end(counter.key)
        while len(self._windows) > self._max_keys:
            self._windows.popitem(last=False)
        return window
