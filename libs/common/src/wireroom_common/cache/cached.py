"""Functions whose results are kept."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from wireroom_common.cache.cache import Cache
from wireroom_common.cache.keys import Key

P = ParamSpec("P")
T = TypeVar("T")


def cached(cache: Cache[T], key: Callable[P, Key]) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """`cached(cache, key)(function)`: `function`, whose results are kept under `key` of its arguments (`Cache.get_or_make`)."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await cache.get_or_make(key(*args, **kwargs), lambda: function(*args, **kwargs))

        return call

    return decorate
