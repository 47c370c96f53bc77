"""Effects that happen once however often their request is repeated: the key of the request is written in the effect's transaction.

The gateway derives a key from a client's `Idempotency-Key` (who, which route, which key) and sends it with its calls. While a servicer
serves such a call, `outbox.emit` claims the key, so that every change that tells of itself is covered: another call with the same key
fails with CONFLICT before it changes anything. This is what holds when a gateway dies between an effect and the storing of its answer.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.db.schema import TENANT_EXPRESSION
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.rpc.context import current_effect_key

# Stands for "no tenant" in the table's key.
NO_TENANT = UUID(int=0)
# A tenant's transaction claims for that tenant, also where it tells the installation: row-level security shows it no other rows.
_CLAIMANT = f"COALESCE({TENANT_EXPRESSION}, :tenant_id)"
_CLAIM = text(
    "INSERT INTO idempotency (tenant_id, key_hash, call_id, subject)"  # noqa: S608 - constants
    f" VALUES ({_CLAIMANT}, :key_hash, :call_id, :subject) ON CONFLICT DO NOTHING"
)
_CLAIMED = text(
    f"SELECT call_id, subject FROM idempotency WHERE tenant_id = {_CLAIMANT} AND key_hash = :key_hash"  # noqa: S608 - constants
)


async def claim_effect(connection: AsyncConnection, tenant_id: UUID | None, subject: str) -> None:
    """Record, in the caller's transaction, that the call being served has changed `subject`; nothing without a key.

    CONFLICT `idempotency_effect_exists`, naming what was changed, if another call with the same key has done so. Waits for such a call's
    transaction to end. Further changes of the same call pass.
    """
    key = current_effect_key()
    if key is None:
        return
    row = {"tenant_id": tenant_id or NO_TENANT, "key_hash": key.value, "call_id": key.call_id, "subject": subject}
    written = await connection.execute(_CLAIM, row)
    if written.rowcount:
        return
    first = (await connection.execute(_CLAIMED, row)).one()
    if first.call_id != key.call_id:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "idempotency_effect_exists",
            f"A request with this Idempotency-Key has taken effect before, on '{first.subject}', but its answer was lost. Look that up;"
            " for another change use another key.",
        )


async def purge_effects(database: Database, older_than: timedelta, *, limit: int = 5000) -> int:
    """Delete at most `limit` claims older than `older_than`; returns how many went.

    `older_than` must exceed the time for which the gateway answers a repeated key from its store.
    """
    async with database.system() as connection:
        result = await connection.execute(
            text(
                "WITH old AS MATERIALIZED (SELECT tenant_id, key_hash FROM idempotency WHERE created_at < now() - :age"
                " ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
                " DELETE FROM idempotency USING old"
                " WHERE idempotency.tenant_id = old.tenant_id AND idempotency.key_hash = old.key_hash"
            ),
            {"age": older_than, "limit": limit},
        )
    return result.rowcount
