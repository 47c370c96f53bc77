"""Blocked client addresses."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Query, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

_TEXT = r"^[^\x00-\x1f\x7f]*$"
_LONGEST_TTL = 30 * 86_400


class BlockAddressInput(Input):
    """An IPv4 address, or an IPv6 address (its /64 is blocked). Without `principal` only anonymous callers are refused.

    `ttl_seconds` 0 means an hour. A block that is in force for the same network and principal takes over the new end.
    """

    network: Annotated[str, Field(min_length=2, max_length=64, pattern=_TEXT)]
    principal: Annotated[str, Field(max_length=200, pattern=_TEXT)] = ""
    reason: Annotated[str, Field(max_length=200, pattern=_TEXT)] = ""
    ttl_seconds: Annotated[int, Field(ge=0, le=_LONGEST_TTL)] = 0


class AddressBlockOutput(Output):
    """A block in force."""

    id: str
    network: str
    principal: str
    violations: int
    reason: str
    blocked_at: datetime | None
    until: datetime | None


class AddressBlocksOutput(Output):
    """A page of blocks, newest first."""

    blocks: list[AddressBlockOutput]
    next_page_token: str


def add_ip_block_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/ip-blocks`."""

    @api.get("/api/v1/admin/ip-blocks", tags=["administration"], responses=problem_responses())
    @access("ip:manage")
    async def list_address_blocks(
        page_size: Annotated[int, Query(ge=1, le=500, description="Entries per page")] = 50, page_token: PageToken = ""
    ) -> AddressBlocksOutput:
        answer = await services.addresses.ListBlocks(
            auth_pb2.ListBlocksRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return AddressBlocksOutput(blocks=[_block(entry) for entry in answer.blocks], next_page_token=answer.next_page_token)

    @api.post("/api/v1/admin/ip-blocks", status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access("ip:manage")
    async def block_address(body: BlockAddressInput) -> AddressBlockOutput:
        answer = await services.addresses.BlockAddress(
            auth_pb2.BlockAddressRequest(
                network=body.network, principal=body.principal, reason=body.reason, ttl_seconds=body.ttl_seconds
            ),
            timeout=timeout,
        )
        return _block(answer.block)

    @api.delete("/api/v1/admin/ip-blocks/{id}", status_code=204, tags=["administration"], responses=problem_responses(404))
    @access("ip:manage")
    async def lift_address_block(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.addresses.LiftBlock(auth_pb2.LiftBlockRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def _block(block: auth_pb2.AddressBlock) -> AddressBlockOutput:
    return AddressBlockOutput(
        id=block.id,
        network=block.network,
        principal=block.principal,
        violations=block.violations,
        reason=block.reason,
        blocked_at=moment(block, "blocked_at"),
        until=moment(block, "until"),
    )
