"""AddressService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.domain.address_blocks import AddressBlock
from wireroom_auth.transport.messages import timestamp
from wireroom_auth.usecases.block_address import BlockAddress, BlockOrder, LiftBlock, ListBlocks
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class AddressServicer(auth_pb2_grpc.AddressServiceServicer):
    """AddressService."""

    block_address: BlockAddress
    list_blocks: ListBlocks
    lift_block: LiftBlock

    async def BlockAddress(self, request: auth_pb2.BlockAddressRequest, context: Any) -> auth_pb2.BlockAddressResponse:  # noqa: ARG002, N802
        order = BlockOrder(
            network=request.network,
            principal=request.principal,
            violations=request.violations,
            reason=request.reason,
            ttl_seconds=request.ttl_seconds,
        )
        return auth_pb2.BlockAddressResponse(block=_message(await self.block_address.run(current_principal(), order)))

    async def ListBlocks(self, request: auth_pb2.ListBlocksRequest, context: Any) -> auth_pb2.ListBlocksResponse:  # noqa: ARG002, N802
        blocks, token = await self.list_blocks.run(current_principal(), request.page_size, request.page_token)
        return auth_pb2.ListBlocksResponse(blocks=[_message(block) for block in blocks], next_page_token=token)

    async def LiftBlock(self, request: auth_pb2.LiftBlockRequest, context: Any) -> auth_pb2.LiftBlockResponse:  # noqa: ARG002, N802
        await self.lift_block.run(current_principal(), request.id)
        return auth_pb2.LiftBlockResponse()


def _message(block: AddressBlock) -> auth_pb2.AddressBlock:
    return auth_pb2.AddressBlock(
        id=str(block.id),
        network=block.network,
        principal=block.principal,
        violations=block.violations,
        reason=block.reason,
        blocked_at=timestamp(block.blocked_at),
        until=timestamp(block.until),
    )
