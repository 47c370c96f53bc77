"""Block, list and unblock client addresses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from wireroom_auth.domain.address_blocks import AddressBlock, block_end, checked_violations, counted_network, plain_text
from wireroom_auth.ports.blocks import Blocks
from wireroom_auth.usecases.paging import page_of
from wireroom_common.clock import Clock
from wireroom_common.errors import not_found
from wireroom_common.ids import new_id, parse_id
from wireroom_common.principal import Principal, PrincipalKind

MANAGE = "ip:manage"
LARGEST_PAGE = 500
_KEEP_ENDED = timedelta(days=30)
_BATCH = 1000
_BATCHES_PER_RUN = 20


@dataclass(frozen=True)
class BlockOrder:
    """What is to be blocked, and for how long."""

    network: str
    principal: str = ""
    violations: int = 0
    reason: str = ""
    ttl_seconds: int = 0


class BlockAddress:
    """For the gateway, which counts violations, and for operators."""

    def __init__(self, blocks: Blocks, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock

    async def run(self, caller: Principal, order: BlockOrder) -> AddressBlock:
        """The block in force.

        What the gateway reports while a block is in force changes nothing (several replicas see the same violations); an operator's
        order sets its end anew.
        """
        automatic = _is_gateway(caller)
        if not automatic:
            caller.require(MANAGE)
        now = self._clock.now()
        block = AddressBlock(
            id=new_id(),
            network=counted_network(order.network),
            principal=plain_text(order.principal, "principal"),
            violations=checked_violations(order.violations),
            reason=plain_text(order.reason, "reason"),
            blocked_by=caller.subject,
            blocked_at=now,
            until=block_end(now, order.ttl_seconds),
        )
        return await self._blocks.put(block, replace=not automatic)


class ListBlocks:
    """For the gateway's resynchronisation and for operators."""

    def __init__(self, blocks: Blocks, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock

    async def run(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[AddressBlock], str]:
        """A page of the blocks in force, newest first, and the token of the next one. `page_size` 0 means 50; at most 500."""
        if not _is_gateway(caller):
            caller.require(MANAGE)
        now = self._clock.now()
        return await page_of(
            lambda after, limit: self._blocks.page(now=now, after=after, limit=limit), page_size, page_token, largest=LARGEST_PAGE
        )


class LiftBlock:
    """For operators."""

    def __init__(self, blocks: Blocks, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock

    async def run(self, caller: Principal, block_id: str) -> None:
        """NOT_FOUND if no block with this id is in force."""
        caller.require(MANAGE)
        if not await self._blocks.lift(parse_id(block_id, "block"), by=caller.subject, now=self._clock.now()):
            raise not_found("block")


class PurgeBlocks:
    """Forgets blocks 30 days after their end; the audit trail keeps them."""

    def __init__(self, blocks: Blocks, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock

    async def run(self) -> None:
        """One round; safe on several replicas at once."""
        before = self._clock.now() - _KEEP_ENDED
        for _ in range(_BATCHES_PER_RUN):
            if await self._blocks.purge(before, limit=_BATCH) < _BATCH:
                break


def _is_gateway(caller: Principal) -> bool:
    return caller.kind is PrincipalKind.SERVICE and caller.subject == "gateway"
