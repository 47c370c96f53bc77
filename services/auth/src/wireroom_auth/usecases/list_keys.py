"""The caller's API keys."""

from __future__ import annotations

from wireroom_auth.domain.api_keys import ApiKey
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import MANAGE_OWN
from wireroom_auth.usecases.paging import page_of
from wireroom_common.principal import Principal


class ListKeys:
    """Newest first, without the revoked ones."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def run(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[ApiKey], str]:
        """A page and the token of the next one (empty at the end). `page_size` 0 means 50; more than 200 gives 200."""
        caller.require(MANAGE_OWN)
        tenant_id, owner_id = caller.tenant(), caller.user_id()
        return await page_of(
            lambda before, limit: self._keys.page(tenant_id, owner_id, before=before, limit=limit), page_size, page_token
        )
