"""The caller's API keys."""

from __future__ import annotations

from wireroom_auth.domain.api_keys import ApiKey
from wireroom_auth.domain.credentials import page_token_after, read_page_token
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import MANAGE_OWN
from wireroom_common.errors import invalid
from wireroom_common.principal import Principal

DEFAULT_PAGE = 50
LARGEST_PAGE = 200


class ListKeys:
    """Newest first, without the revoked ones."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def run(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[ApiKey], str]:
        """A page and the token of the next one (empty at the end). `page_size` 0 means 50; more than 200 gives 200."""
        caller.require(MANAGE_OWN)
        if page_size < 0:
            raise invalid("page_size_out_of_range", "The page size cannot be negative.", field="page_size")
        size = min(page_size or DEFAULT_PAGE, LARGEST_PAGE)
        before = read_page_token(page_token)
        found = await self._keys.page(caller.tenant(), caller.user_id(), before=before, limit=size + 1)
        page = found[:size]
        return page, page_token_after(page[-1].id) if len(found) > size else ""
