"""Password resets and address verification in PostgreSQL."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail, one_time_tokens
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.mail_outbox import MailOutbox
from wireroom_auth.adapters.passwords_sql import set_password
from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.mail import MailKind
from wireroom_auth.domain.one_time_tokens import RESET_LIFE, VERIFY_LIFE, TokenPurpose
from wireroom_common.bus.catalogue import event_type
from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "auth.mails"
_MAILS_PER_HOUR = 3
_MOST_WAITING = 10_000
_BATCH = 100
_HOUR = timedelta(hours=1)
_Mailed = events_pb2.AuthUserRegistered | events_pb2.AuthPasswordChanged | events_pb2.AuthSecondFactorChanged
_MAILED: dict[str, type[_Mailed]] = {
    event_type(kind()): kind
    for kind in (events_pb2.AuthUserRegistered, events_pb2.AuthPasswordChanged, events_pb2.AuthSecondFactorChanged)
}


class SqlPasswordResets:
    """Requests of strangers are noted as they come; `answer_requests` finds out later whom they concern."""

    def __init__(self, database: Database, clock: Clock, mail: MailOutbox) -> None:
        self._database = database
        self._clock = clock
        self._mail = mail

    @property
    def configured(self) -> bool:
        return self._mail.configured

    async def request(self, email: str, client_ip: str) -> None:
        async with self._database.system() as connection:
            stored = await connection.execute(
                text(
                    "INSERT INTO reset_requests (id, email, client_ip, created_at) SELECT :id, :email, :client_ip, :now"
                    " WHERE (SELECT count(*) FROM (SELECT 1 FROM reset_requests LIMIT :most) waiting) < :most"
                ),
                {"id": new_id(), "email": email, "client_ip": client_ip, "now": self._clock.now(), "most": _MOST_WAITING},
            )
        if stored.rowcount == 0:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "reset_requests_busy", "Very many ask at once; try again in a minute.", retry_after=60
            )

    async def answer_requests(self) -> None:
        """Write the mails of a batch of requests, at most three per account and hour; safe on several replicas at once."""
        now = self._clock.now()
        async with self._database.system() as connection:
            requests = (
                await connection.execute(
                    text(
                        "DELETE FROM reset_requests WHERE id IN (SELECT id FROM reset_requests ORDER BY id LIMIT :batch"
                        " FOR UPDATE SKIP LOCKED) RETURNING email, client_ip"
                    ),
                    {"batch": _BATCH},
                )
            ).all()
            for request in requests:
                found = await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.email = :email"),  # noqa: S608  constant
                    {"email": request.email},
                )
                row = found.first()
                if row is None or row.user_disabled_at is not None:
                    continue
                user = user_of(row)
                if await _mails_lately(connection, user, MailKind.RESET, now - _HOUR) >= _MAILS_PER_HOUR:
                    continue
                await self._mail.enqueue_token(
                    connection,
                    tenant_id=user.tenant_id,
                    user_id=user.id,
                    to=user.email,
                    kind=MailKind.RESET,
                    purpose=TokenPurpose.RESET_PASSWORD,
                    life=RESET_LIFE,
                )
                await audit_trail.record(
                    connection,
                    "password.reset_requested",
                    tenant_id=user.tenant_id,
                    subject=str(user.id),
                    actor="",
                    details={"client_ip": request.client_ip},
                )

    async def account(self, token: str) -> User | None:
        tenant_id = await one_time_tokens.tenant_of(self._database, token, TokenPurpose.RESET_PASSWORD)
        if tenant_id is None:
            return None
        async with self._database.tenant(tenant_id) as connection:
            found = await connection.execute(
                text(
                    f"SELECT {USER_COLUMNS} FROM one_time_tokens o JOIN users u ON u.tenant_id = o.tenant_id AND u.id = o.user_id"  # noqa: S608  constant
                    " WHERE o.token_hash = :hash AND o.expires_at > :now AND u.email = o.email"
                ),
                {"hash": digest(token), "now": self._clock.now()},
            )
            row = found.first()
        return user_of(row) if row is not None and row.user_disabled_at is None else None

    async def finish(self, token: str, password_hash: str) -> bool:
        tenant_id = await one_time_tokens.tenant_of(self._database, token, TokenPurpose.RESET_PASSWORD)
        if tenant_id is None:
            return False
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            held = await one_time_tokens.lock(connection, token, TokenPurpose.RESET_PASSWORD, now=now)
            if held is None:
                return False
            await one_time_tokens.spend(connection, held)
            # Half-finished logins were begun with the old password.
            await connection.execute(
                text("DELETE FROM one_time_tokens WHERE tenant_id = :tenant_id AND user_id = :user_id AND purpose = :purpose"),
                {"tenant_id": tenant_id, "user_id": held.user_id, "purpose": TokenPurpose.FINISH_LOGIN.value},
            )
            # The token came by mail to this address.
            if not await _mark_verified(connection, tenant_id, held.user_id, held.email, now):
                return False
            user = await _user(connection, tenant_id, held.user_id)
            if user.disabled_at is not None:
                return False
            await set_password(connection, user, password_hash, via="reset", now=now)
        return True


class SqlEmailVerification:
    """Tokens are bound to the address they were sent to."""

    def __init__(self, database: Database, clock: Clock, mail: MailOutbox) -> None:
        self._database = database
        self._clock = clock
        self._mail = mail

    @property
    def configured(self) -> bool:
        return self._mail.configured

    async def send(self, user: User) -> bool:
        now = self._clock.now()
        async with self._database.tenant(user.tenant_id) as connection:
            # The user's row serialises the count.
            await connection.execute(
                text("SELECT 1 FROM users WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE"),
                {"tenant_id": user.tenant_id, "id": user.id},
            )
            if await _mails_lately(connection, user, MailKind.VERIFY, now - _HOUR) >= _MAILS_PER_HOUR:
                return False
            await self._write(connection, user.tenant_id, user.id, user.email, MailKind.VERIFY)
        return True

    async def verify(self, token: str) -> tuple[UUID, UUID] | None:
        tenant_id = await one_time_tokens.tenant_of(self._database, token, TokenPurpose.VERIFY_EMAIL)
        if tenant_id is None:
            return None
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            held = await one_time_tokens.lock(connection, token, TokenPurpose.VERIFY_EMAIL, now=now)
            if held is None:
                return None
            await one_time_tokens.spend(connection, held)
            if not await _mark_verified(connection, tenant_id, held.user_id, held.email, now):
                return None
        return tenant_id, held.user_id

    async def on_event(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """Work of `auth.mails`: what happened to an account is mailed to its user."""
        if not self._mail.configured:
            return
        payload = _MAILED[envelope.type].FromString(envelope.data)
        row = (
            await connection.execute(
                text(
                    "SELECT tenant_id, id, email, email_verified_at, password_hash IS NULL AS without_password FROM users"
                    " WHERE id = :id AND disabled_at IS NULL"
                ),
                {"id": UUID(payload.user_id)},
            )
        ).first()
        if row is None:
            return
        if isinstance(payload, events_pb2.AuthUserRegistered):
            # Lets them confirm the address. Who has no password yet gets another mail, from whoever made the account.
            if row.email_verified_at is None and not row.without_password:
                await self._write(connection, row.tenant_id, row.id, row.email, MailKind.WELCOME)
            return
        kind = (
            MailKind.PASSWORD_CHANGED if isinstance(payload, events_pb2.AuthPasswordChanged) else MailKind.SECOND_FACTOR_CHANGED
        )
        await self._mail.enqueue(connection, tenant_id=row.tenant_id, user_id=row.id, to=row.email, kind=kind, data={})

    async def _write(self, connection: AsyncConnection, tenant_id: UUID, user_id: UUID, email: str, kind: MailKind) -> None:
        await self._mail.enqueue_token(
            connection,
            tenant_id=tenant_id,
            user_id=user_id,
            to=email,
            kind=kind,
            purpose=TokenPurpose.VERIFY_EMAIL,
            life=VERIFY_LIFE,
        )


async def _user(connection: AsyncConnection, tenant_id: UUID, user_id: UUID) -> User:
    found = await connection.execute(
        text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
        {"tenant_id": tenant_id, "id": user_id},
    )
    return user_of(found.one())


async def _mails_lately(connection: AsyncConnection, user: User, kind: MailKind, since: object) -> int:
    count: int = await connection.scalar(
        text(
            "SELECT count(*) FROM mails WHERE tenant_id = :tenant_id AND user_id = :user_id AND kind = :kind AND created_at > :since"
        ),
        {"tenant_id": user.tenant_id, "user_id": user.id, "kind": kind.value, "since": since},
    )
    return count


async def _mark_verified(connection: AsyncConnection, tenant_id: UUID, user_id: UUID, email: str, now: object) -> bool:
    """False if the user has another address by now. Telling of it once is enough."""
    row = (
        await connection.execute(
            text("SELECT email_verified_at FROM users WHERE tenant_id = :tenant_id AND id = :id AND email = :email FOR UPDATE"),
            {"tenant_id": tenant_id, "id": user_id, "email": email},
        )
    ).first()
    if row is None or row.email_verified_at is not None:
        return row is not None
    await connection.execute(
        text("UPDATE users SET email_verified_at = :now WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": tenant_id, "id": user_id, "now": now},
    )
    event = events_pb2.AuthEmailVerified(user_id=str(user_id), email_sha256=hashlib.sha256(email.encode()).hexdigest())
    await emit(connection, event, tenant_id=tenant_id, subject=str(user_id), actor=str(user_id))
    await audit_trail.record(connection, "email.verified", tenant_id=tenant_id, subject=str(user_id), actor=str(user_id))
    return True
