"""Pages of lists that go from the newest id to the oldest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

from wireroom_auth.domain.credentials import page_token_after, read_page_token
from wireroom_common.errors import invalid

DEFAULT_PAGE = 50
LARGEST_PAGE = 200


class Identified(Protocol):
    """What has an id by which its list is ordered."""

    @property
    def id(self) -> UUID:
        """Its id."""


T = TypeVar("T", bound=Identified)


async def page_of(
    load: Callable[[UUID | None, int], Awaitable[list[T]]], page_size: int, page_token: str, *, largest: int = LARGEST_PAGE
) -> tuple[list[T], str]:
    """A page and the token of the next one (empty at the end). `load(before, limit)`; `page_size` 0 means 50, more than `largest` that."""
    if page_size < 0:
        raise invalid("page_size_out_of_range", "The page size cannot be negative.", field="page_size")
    size = min(page_size or DEFAULT_PAGE, largest)
    found = await load(read_page_token(page_token), size + 1)
    page = found[:size]
    return page, page_token_after(page[-1].id) if len(found) > size else ""
