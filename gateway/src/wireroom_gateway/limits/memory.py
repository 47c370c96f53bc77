"""Counters of this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from wireroom_common.clock import Clock
from wireroom_gateway.limits.sliding import MICROSECONDS, SlidingWindow
from wireroom_gateway.limits.store import Counter, CounterState, Verdict, Violations

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

    async def take(self, counters: Sequence[Counter], violations: Violations | None = None) -> Verdict:
        """As the port says. Violations are not counted: what one replica saw is no ground to block anyone everywhere."""
        del violations
        now = round(self._clock.monotonic() * MICROSECONDS)
        windows = [self._window(counter) for counter in counters]
        before = [window.usage(now).count for window in windows]
        full = [count >= window.quota for count, window in zip(before, windows, strict=True)]
        allowed = not any(is_full and not counter.limit.shadow for is_full, counter in zip(full, counters, strict=True))
        if allowed:
            for window, is_full in zip(windows, full, strict=True):
                if not is_full:
                    window.charge(now)
        states = []
        for counter, window, is_full in zip(counters, windows, full, strict=True):
            after = window.usage(now)
            states.append(CounterState(counter, not is_full, max(0, window.quota - after.count), after.reset_us / MICROSECONDS))
        return Verdict(allowed, states)

    def note(self, counters: Sequence[Counter]) -> None:
        """Count a request that the shared store let pass: what it still allows, should it have to stand in, is known then."""
        now = round(self._clock.monotonic() * MICROSECONDS)
        for counter in counters:
            self._window(counter).note(now)

    def _window(self, counter: Counter) -> SlidingWindow:
        quota = max(1, counter.limit.quota // self._share)
        window_us = counter.limit.window * MICROSECONDS
        window = self._windows.get(counter.key)
        if window is None:
            window = self._windows[counter.key] = SlidingWindow(quota, window_us)
        elif (window.quota, window.window_us) != (quota, window_us):
            window = self._windows[counter.key] = window.resized(quota, window_us)
        else:
            self._windows.move_to_end(counter.key)
            return window
        self._windows.move_to_end(counter.key)
        while len(self._windows) > self._max_keys:
            self._windows.popitem(last=False)
        return window
