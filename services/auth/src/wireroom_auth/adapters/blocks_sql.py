"""Blocked addresses in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.domain.address_blocks import AddressBlock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_COLUMNS = "id, network, principal, violations, reason, blocked_by, blocked_at, until"
_TRIES = 3


class SqlBlocks:
    """The unique index lets one block per network and principal be in force, over all replicas."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, block: AddressBlock, *, replace: bool) -> AddressBlock:
        values: dict[str, Any] = {
            "id": block.id,
            "network": block.network,
            "principal": block.principal,
            "violations": block.violations,
            "reason": block.reason,
            "blocked_by": block.blocked_by,
            "now": block.blocked_at,
            "until": block.until,
        }
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE address_blocks SET ended_at = until"
                    " WHERE network = :network AND principal = :principal AND ended_at IS NULL AND until <= :now"
                ),
                values,
            )
            for _ in range(_TRIES):
                inserted = await connection.execute(
                    text(
                        "INSERT INTO address_blocks (id, network, principal, violations, reason, blocked_by, blocked_at, until)"
                        " VALUES (:id, :network, :principal, :violations, :reason, :blocked_by, :now, :until)"
                        " ON CONFLICT (network, principal) WHERE ended_at IS NULL DO NOTHING"
                    ),
                    values,
                )
                if inserted.rowcount == 1:
                    await _tell(connection, block, "address.blocked")
                    return block
                live = await _live(connection, values)
                # None: lifted between the two statements.
                if live is not None:
                    return await _renew(connection, live, values) if replace else live
        raise WireroomError(
            ErrorKind.CONFLICT, "block_contended", "The block is being changed by others at this moment; try again."
        )

    async def page(self, *, now: datetime, after: UUID | None, limit: int) -> list[AddressBlock]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM address_blocks WHERE ended_at IS NULL AND until > :now"  # noqa: S608  constant
                    " AND (CAST(:after AS uuid) IS NULL OR id < :after) ORDER BY id DESC LIMIT :limit"
                ),
                {"now": now, "after": after, "limit": limit},
            )
            return [_block(row) for row in rows]

    async def lift(self, block_id: UUID, *, by: str, now: datetime) -> bool:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "UPDATE address_blocks SET ended_at = :now WHERE id = :id AND ended_at IS NULL AND until > :now"  # noqa: S608  constant
                        f" RETURNING {_COLUMNS}"
                    ),
                    {"id": block_id, "now": now},
                )
            ).first()
            if row is None:
                return False
            block = _block(row)
            event = events_pb2.GatewayIpUnblocked(block_id=str(block.id), network=block.network, principal=block.principal)
            await emit(connection, event, tenant_id=None, subject=str(block.id), actor=by)
            await audit_trail.record(
                connection, "address.unblocked", tenant_id=None, subject=block.network, actor=by, details=_details(block)
            )
        return True

    async def purge(self, ended_before: datetime, *, limit: int) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT id FROM address_blocks WHERE until < :before LIMIT :limit)"
                    " DELETE FROM address_blocks USING past WHERE address_blocks.id = past.id"
                ),
                {"before": ended_before, "limit": limit},
            )
        return result.rowcount


async def _live(connection: AsyncConnection, values: dict[str, Any]) -> AddressBlock | None:
    row = (
        await connection.execute(
            text(
                f"SELECT {_COLUMNS} FROM address_blocks"  # noqa: S608  constant
                " WHERE network = :network AND principal = :principal AND ended_at IS NULL FOR UPDATE"
            ),
            values,
        )
    ).first()
    return _block(row) if row else None


async def _renew(connection: AsyncConnection, live: AddressBlock, values: dict[str, Any]) -> AddressBlock:
    changed = await connection.execute(
        text(
            "UPDATE address_blocks SET until = :until, violations = :violations, reason = :reason,"  # noqa: S608  constant
            f" blocked_by = :blocked_by WHERE id = :live RETURNING {_COLUMNS}"
        ),
        {**values, "live": live.id},
    )
    renewed = _block(changed.one())
    await _tell(connection, renewed, "address.block_changed")
    return renewed


async def _tell(connection: AsyncConnection, block: AddressBlock, action: str) -> None:
    until = Timestamp()
    until.FromDatetime(block.until)
    event = events_pb2.GatewayIpBlocked(
        block_id=str(block.id),
        network=block.network,
        principal=block.principal,
        violations=block.violations,
        until=until,
    )
    await emit(connection, event, tenant_id=None, subject=str(block.id), actor=block.blocked_by)
    await audit_trail.record(
        connection, action, tenant_id=None, subject=block.network, actor=block.blocked_by, details=_details(block)
    )


def _details(block: AddressBlock) -> dict[str, Any]:
    return {
        "block_id": str(block.id),
        "principal": block.principal,
        "violations": block.violations,
        "reason": block.reason,
        "until": block.until.isoformat(),
    }


def _block(row: Any) -> AddressBlock:
    return AddressBlock(
        id=row.id,
        network=row.network,
        principal=row.principal,
        violations=row.violations,
        reason=row.reason,
        blocked_by=row.blocked_by,
        blocked_at=row.blocked_at,
        until=row.until,
    )
