"""The sliding window, pure: no window of the given length ever holds more than the quota.

Exact up to 1,000 requests: a log of timestamps. Above that, timestamps are rounded up to a sixtieth of the window, which bounds memory
and errs to the safe side: never more than the quota, and a request counts at most one sixtieth of the window too long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

EXACT_UP_TO = 1_000
SLOTS = 60
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Usage:
    """How a window stands. `reset_us`: microseconds until the oldest counted request leaves it; 0 when it is empty."""

    count: int
    reset_us: int


def slot_length(quota: int, window_us: int) -> int:
    """The rounding of timestamps in microseconds; 1 means none."""
    return 1 if quota <= EXACT_UP_TO else -(-window_us // SLOTS)


class SlidingWindow:
    """One counter. Times are microseconds that do not go back."""

    def __init__(self, quota: int, window_us: int) -> None:
        self.quota = quota
        self.window_us = window_us
        self._slot = slot_length(quota, window_us)
        # (time, requests at that time), oldest first
        self._log: deque[list[int]] = deque()
        self._count = 0

    def resized(self, quota: int, window_us: int) -> SlidingWindow:
        """The same requests under another limit."""
        other = SlidingWindow(quota, window_us)
        other._log = deque([at, count] for at, count in self._log)
        other._count = self._count
        return other

    def usage(self, now_us: int) -> Usage:
        """The state at `now_us`; forgets what has left the window."""
        while self._log and self._log[0][0] <= now_us - self.window_us:
            self._count -= self._log.popleft()[1]
        reset = self._log[0][0] + self.window_us - now_us if self._log else 0
        return Usage(self._count, reset)

    def charge(self, now_us: int) -> None:
        """Count one request. The caller has looked at `usage` before."""
        stamp = -(-now_us // self._slot) * self._slot
        log = self._log
        if log and log[-1][0] >= stamp:
            log[-1][1] += 1
        else:
            log.append([stamp, 1])
        self._count += 1

    def note(self, now_us: int) -> None:
        """Count one request that was let pass elsewhere. When full, it takes the place of the oldest one."""
        log = self._log
        while log and log[0][0] <= now_us - self.window_us:
            self._count -= log.popleft()[1]
        if self._count >= self.quota:
            log[0][1] -= 1
            self._count -= 1
            if not log[0][1]:
                log.popleft()
        self.charge(now_us)
