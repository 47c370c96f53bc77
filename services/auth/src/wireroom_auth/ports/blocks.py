"""Blocked client addresses."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.address_blocks import AddressBlock


class Blocks(Protocol):
    """Blocks of the installation. Each change is audited in the installation's chain and told to the gateways."""

    async def put(self, block: AddressBlock, *, replace: bool) -> AddressBlock:
        """The block in force for its network and principal: `block`, unless there was one already.

        With `replace` the one in force takes over the end, violations and reason of `block`.
        """

    async def page(self, *, now: datetime, after: UUID | None, limit: int) -> list[AddressBlock]:
        """Blocks in force, newest first, from after the block `after`."""

    async def lift(self, block_id: UUID, *, by: str, now: datetime) -> bool:
        """End a block that is in force; False if there is none with this id."""

    async def purge(self, ended_before: datetime, *, limit: int) -> int:
        """Forget blocks that ended or ran out before; returns how many went."""
