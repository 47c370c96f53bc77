"""Wait for a state instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]], *, within: float = 10.0, every: float = 0.02, what: str = ""
) -> Any:
    """The first truthy value of `condition()` (which may be a coroutine function); AssertionError after `within` seconds.

    AssertionErrors raised by the condition count as "not yet"; the last one is the cause of the final failure.
    """
    deadline = time.monotonic() + within
    last: Any = None
    cause: BaseException | None = None
    while True:
        try:
            last = condition()
            if inspect.isawaitable(last):
                last = await last
            cause = None
        except AssertionError as error:
            cause = error
            last = None
        if last:
            return last
        if time.monotonic() > deadline:
            msg = f"Not within {within} s: {what or getattr(condition, '__name__', 'condition')} (last value: {last!r})"
            raise AssertionError(msg) from cause
        await asyncio.sleep(every)
