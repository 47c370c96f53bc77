"""Failed logins in PostgreSQL, so that they are the same for all replicas and outlast a restart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.domain.login_backoff import AttemptKeys, BackoffTerms, Failures
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError

_READ = text("SELECT key, failures, failed_at, blocked_until, known_at FROM login_attempts WHERE key = ANY (:keys)")
_READ_LOCKED = text(f"{_READ.text} ORDER BY key FOR UPDATE")


@dataclass(frozen=True)
class _State:
    """The rows of one attempt, and what the database's clock said when they were read."""

    now: datetime
    rows: dict[bytes, Failures]
    known: bool

    def judged(self, keys: AttemptKeys) -> list[bytes]:
        """The counts that decide about the attempt."""
        if self.known and keys.pair is not None:
            return [keys.pair]
        return [key for key in (keys.address, keys.network) if key is not None]


class SqlBackoff:
    """Counts by the database's clock: a replica whose own is wrong neither lengthens nor shortens a delay."""

    def __init__(self, database: Database, *, account: BackoffTerms, network: BackoffTerms) -> None:
        self._database = database
        self._account = account
        self._network = network

    async def check(self, email: str, client_ip: str) -> None:
        keys = AttemptKeys.of(email, client_ip)
        async with self._database.system() as connection:
            _refuse_while_waiting(await _read(connection, keys), keys)

    async def settle(self, email: str, client_ip: str, *, failed: bool) -> None:
        keys = AttemptKeys.of(email, client_ip)
        async with self._database.system() as connection:
            judged = (await _read(connection, keys)).judged(keys)
            if failed:
                # Rows to lock, so that parallel failures count each other. In one order everywhere: no deadlock.
                for key in sorted(judged):
                    await connection.execute(
                        text("INSERT INTO login_attempts (key) VALUES (:key) ON CONFLICT DO NOTHING"), {"key": key}
                    )
            # A right guess waits for the wrong ones that run beside it, too: it is judged after them.
            state = await _read(connection, keys, lock=True)
            _refuse_while_waiting(state, keys)
            if failed:
                await self._count(connection, keys, state)

    async def forget(self, email: str, client_ip: str) -> None:
        keys = AttemptKeys.of(email, client_ip)
        # The network's count stays: a login of one's own must not pay for guessing at others.
        async with self._database.system() as connection:
            await connection.execute(
                text("UPDATE login_attempts SET failures = 0, failed_at = NULL, blocked_until = NULL WHERE key = :key"),
                {"key": keys.address},
            )
            if keys.pair is not None:
                await connection.execute(
                    text(
                        "INSERT INTO login_attempts (key, known_at) VALUES (:key, clock_timestamp()) ON CONFLICT (key) DO UPDATE"
                        " SET failures = 0, failed_at = NULL, blocked_until = NULL, known_at = excluded.known_at"
                    ),
                    {"key": keys.pair},
                )

    async def _count(self, connection: AsyncConnection, keys: AttemptKeys, state: _State) -> None:
        for key in state.judged(keys):
            terms = self._network if key == keys.network else self._account
            failures = state.rows.get(key, Failures()).after_failure(terms, state.now)
            await connection.execute(
                text(
                    "UPDATE login_attempts SET failures = :failures, failed_at = :failed_at, blocked_until = :blocked_until"
                    " WHERE key = :key"
                ),
                {
                    "key": key,
                    "failures": failures.count,
                    "failed_at": failures.failed_at,
                    "blocked_until": failures.blocked_until,
                },
            )


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return now


async def _read(connection: AsyncConnection, keys: AttemptKeys, *, lock: bool = False) -> _State:
    found = await connection.execute(
        _READ_LOCKED if lock else _READ,
        {"keys": keys.all()},
    )
    rows = {bytes(row.key): row for row in found}
    pair = rows.get(keys.pair) if keys.pair is not None else None
    return _State(
        now=await _now(connection),
        rows={key: Failures(row.failures, row.failed_at, row.blocked_until) for key, row in rows.items()},
        known=pair is not None and pair.known_at is not None,
    )


def _refuse_while_waiting(state: _State, keys: AttemptKeys) -> None:
    wait = max((state.rows[key].wait(state.now).total_seconds() for key in state.judged(keys) if key in state.rows), default=0.0)
    if wait > 0:
        seconds = math.ceil(wait)
        raise WireroomError(
            ErrorKind.RATE_LIMITED,
            "login_backoff",
            f"Too many failed logins; try again in {seconds} s.",
            retry_after=wait,
        )
