"""Second factors in PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail, one_time_tokens
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.encryption import TOTP_SECRETS, Sealing
from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.one_time_tokens import LOGIN_ATTEMPTS, LOGIN_LIFE, TokenPurpose
from wireroom_auth.domain.second_factor import (
    SecondFactorState,
    accepted_step,
    mfa_token_invalid,
    normalised_code,
    recovery_code_of,
)
from wireroom_auth.ports.factor_store import PendingLogin
from wireroom_auth.ports.second_factors import Challenge
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2


class SqlSecondFactors:
    """All that happens to one user's factor queues on its row lock: no code is taken twice."""

    def __init__(self, database: Database, clock: Clock, sealing: Sealing) -> None:
        self._database = database
        self._clock = clock
        self._sealing = sealing

    async def challenge(self, user: User, methods: tuple[str, ...] = ("password",)) -> Challenge | None:
        if not user.second_factor:
            return None
        async with self._database.tenant(user.tenant_id) as connection:
            token = await one_time_tokens.issue(
                connection,
                tenant_id=user.tenant_id,
                user_id=user.id,
                purpose=TokenPurpose.FINISH_LOGIN,
                email=user.email,
                now=self._clock.now(),
                life=LOGIN_LIFE,
                # A password changed between the two steps raises the epoch, and the session is then not opened.
                data={"epoch": user.epoch, "methods": list(methods)},
            )
        return Challenge(token, int(LOGIN_LIFE.total_seconds()))

    async def state(self, tenant_id: UUID, user_id: UUID) -> SecondFactorState:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT f.confirmed_at, (SELECT count(*) FROM recovery_codes c WHERE c.tenant_id = f.tenant_id"
                        " AND c.user_id = f.user_id AND c.used_at IS NULL) AS codes_left FROM totp_factors f"
                        " WHERE f.tenant_id = :tenant_id AND f.user_id = :user_id AND f.confirmed_at IS NOT NULL"
                    ),
                    {"tenant_id": tenant_id, "user_id": user_id},
                )
            ).first()
        return SecondFactorState(row.confirmed_at, row.codes_left) if row else SecondFactorState(None, 0)

    async def enroll(self, user: User, secret: bytes) -> None:
        async with self._database.tenant(user.tenant_id) as connection:
            stored = await connection.execute(
                text(
                    "INSERT INTO totp_factors (tenant_id, user_id, secret_sealed, created_at)"
                    " VALUES (:tenant_id, :user_id, :sealed, :now) ON CONFLICT (tenant_id, user_id) DO UPDATE"
                    " SET secret_sealed = excluded.secret_sealed, created_at = excluded.created_at, last_step = 0"
                    " WHERE totp_factors.confirmed_at IS NULL"
                ),
                {
                    **_of(user),
                    "sealed": self._sealing.seal(TOTP_SECRETS, secret, bound_to=user.id.bytes),
                    "now": self._clock.now(),
                },
            )
            if stored.rowcount == 0:
                raise _exists()
            await self._record(connection, user, "second_factor.enrolled")

    async def confirm(self, user: User, code: str, recovery_codes: list[str]) -> bool:
        now = self._clock.now()
        async with self._database.tenant(user.tenant_id) as connection:
            row = await _locked(connection, user.tenant_id, user.id)
            if row is None:
                raise _not_enrolled()
            if row.confirmed_at is not None:
                raise _exists()
            step = accepted_step(
                self._secret(user.id, row.secret_sealed), normalised_code(code), now=now, last_step=row.last_step
            )
            if step is None:
                await self._record(connection, user, "second_factor.enabled", outcome="failure")
                return False
            await connection.execute(
                text(
                    "UPDATE totp_factors SET confirmed_at = :now, last_step = :step"
                    " WHERE tenant_id = :tenant_id AND user_id = :user_id"
                ),
                {**_of(user), "now": now, "step": step},
            )
            await connection.execute(
                text("INSERT INTO recovery_codes (tenant_id, user_id, code_hash) VALUES (:tenant_id, :user_id, :hash)"),
                [{**_of(user), "hash": _code_hash(recovery)} for recovery in recovery_codes],
            )
            await self._changed(connection, user, "enabled")
        return True

    async def disable(self, user: User, code: str) -> bool:
        async with self._database.tenant(user.tenant_id) as connection:
            row = await _locked(connection, user.tenant_id, user.id)
            if row is None or row.confirmed_at is None:
                raise _not_enrolled()
            if await self._accept(connection, user, code) is None:
                await self._record(connection, user, "second_factor.disabled", outcome="failure")
                return False
            await connection.execute(
                text("DELETE FROM totp_factors WHERE tenant_id = :tenant_id AND user_id = :user_id"), _of(user)
            )
            await self._changed(connection, user, "disabled")
        return True

    async def prove(self, user: User, code: str) -> bool:
        async with self._database.tenant(user.tenant_id) as connection:
            proven = await self._accept(connection, user, code) is not None
            if not proven:
                await self._record(connection, user, "second_factor.refused", outcome="failure")
        return proven

    async def pending(self, mfa_token: str) -> PendingLogin | None:
        tenant_id = await one_time_tokens.tenant_of(self._database, mfa_token, TokenPurpose.FINISH_LOGIN)
        if tenant_id is None:
            return None
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT {USER_COLUMNS}, o.data FROM one_time_tokens o"  # noqa: S608  constant
                        " JOIN users u ON u.tenant_id = o.tenant_id AND u.id = o.user_id"
                        " WHERE o.token_hash = :hash AND o.purpose = :purpose AND o.expires_at > :now"
                    ),
                    {"hash": digest(mfa_token), "purpose": TokenPurpose.FINISH_LOGIN.value, "now": self._clock.now()},
                )
            ).first()
        if row is None:
            return None
        # The epoch of the first step: what changed since then counts when the session is opened.
        return PendingLogin(replace(user_of(row), epoch=row.data["epoch"]), tuple(row.data["methods"]))

    async def finish(self, mfa_token: str, code: str) -> str | None:
        tenant_id = await one_time_tokens.tenant_of(self._database, mfa_token, TokenPurpose.FINISH_LOGIN)
        if tenant_id is None:
            raise mfa_token_invalid()
        async with self._database.tenant(tenant_id) as connection:
            token = await one_time_tokens.lock(connection, mfa_token, TokenPurpose.FINISH_LOGIN, now=self._clock.now())
            if token is None:
                raise mfa_token_invalid()
            user = await _user(connection, tenant_id, token.user_id)
            method = await self._accept(connection, user, code)
            if method is not None or token.attempts + 1 >= LOGIN_ATTEMPTS:
                # Of this login alone: a stranger who knows the password must not end the owner's.
                await one_time_tokens.spend_one(connection, token)
            else:
                await one_time_tokens.count_attempt(connection, token)
            if method is None:
                await self._record(connection, user, "second_factor.refused", outcome="failure")
        return method

    async def _accept(self, connection: AsyncConnection, user: User, code: str) -> str | None:
        """Take a code, under the factor's row lock; how it proves the user, or None."""
        now = self._clock.now()
        row = await _locked(connection, user.tenant_id, user.id)
        if row is None or row.confirmed_at is None:
            return None
        secret = self._secret(user.id, row.secret_sealed)
        step = accepted_step(secret, normalised_code(code), now=now, last_step=row.last_step)
        if step is not None:
            await connection.execute(
                text("UPDATE totp_factors SET last_step = :step WHERE tenant_id = :tenant_id AND user_id = :user_id"),
                {**_of(user), "step": step},
            )
            return "totp"
        recovery = recovery_code_of(code)
        if recovery is None or not await _spend_recovery_code(connection, user, recovery, now):
            return None
        await self._changed(connection, user, "recovery_code_used")
        return "recovery_code"

    async def _changed(self, connection: AsyncConnection, user: User, change: str) -> None:
        event = events_pb2.AuthSecondFactorChanged(user_id=str(user.id), change=change)
        await emit(connection, event, tenant_id=user.tenant_id, subject=str(user.id), actor=str(user.id))
        await self._record(connection, user, f"second_factor.{change}")

    async def _record(self, connection: AsyncConnection, user: User, action: str, *, outcome: str = "success") -> None:
        await audit_trail.record(
            connection, action, tenant_id=user.tenant_id, subject=str(user.id), actor=str(user.id), outcome=outcome
        )

    def _secret(self, user_id: UUID, sealed: bytes) -> bytes:
        return self._sealing.unseal(TOTP_SECRETS, sealed, bound_to=user_id.bytes)


async def _locked(connection: AsyncConnection, tenant_id: UUID, user_id: UUID) -> Row[Any] | None:
    found = await connection.execute(
        text(
            "SELECT secret_sealed, confirmed_at, last_step FROM totp_factors WHERE tenant_id = :tenant_id AND user_id = :user_id"
            " FOR UPDATE"
        ),
        {"tenant_id": tenant_id, "user_id": user_id},
    )
    return found.first()


async def _user(connection: AsyncConnection, tenant_id: UUID, user_id: UUID) -> User:
    found = await connection.execute(
        text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
        {"tenant_id": tenant_id, "id": user_id},
    )
    return user_of(found.one())


async def _spend_recovery_code(connection: AsyncConnection, user: User, code: str, now: datetime) -> bool:
    spent = await connection.execute(
        text(
            "UPDATE recovery_codes SET used_at = :now WHERE tenant_id = :tenant_id AND user_id = :user_id AND code_hash = :hash"
            " AND used_at IS NULL"
        ),
        {**_of(user), "hash": digest(code), "now": now},
    )
    return spent.rowcount == 1


def _code_hash(shown: str) -> bytes:
    code = recovery_code_of(shown)
    if code is None:
        raise ValueError("not a recovery code")
    return digest(code)


def _of(user: User) -> dict[str, object]:
    return {"tenant_id": user.tenant_id, "user_id": user.id}


def _exists() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT, "second_factor_exists", "A second factor is in force already; disable it before you enrol another."
    )


def _not_enrolled() -> WireroomError:
    return WireroomError(ErrorKind.CONFLICT, "second_factor_not_enrolled", "There is no second factor; enrol one first.")
