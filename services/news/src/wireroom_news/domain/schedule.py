"""When a feed is fetched next."""

from __future__ import annotations

from datetime import datetime, timedelta

LONGEST_PAUSE = timedelta(hours=24)
FAILURES_UNTIL_DEGRADED = 3


def after_success(now: datetime, interval_seconds: int) -> datetime:
    """One interval later."""
    return now + timedelta(seconds=interval_seconds)


def after_failure(now: datetime, interval_seconds: int, failures: int, retry_after: float = 0.0) -> datetime:
    """Twice as long with each failure, at least what the server asked for, never more than a day: a sick feed is tried for ever."""
    doubled = interval_seconds * 2.0 ** min(failures, 24)
    return now + min(timedelta(seconds=max(min(doubled, LONGEST_PAUSE.total_seconds()), retry_after)), LONGEST_PAUSE)
