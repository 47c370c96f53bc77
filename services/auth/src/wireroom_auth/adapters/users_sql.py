"""Users in PostgreSQL, as administrators change them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.account_erasure import erase_account
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, insert_account, unique_email, user_of
from wireroom_auth.adapters.directory_transaction import DirectoryTransaction, directory_transaction
from wireroom_auth.adapters.epochs import raise_epoch
from wireroom_auth.adapters.erasures_sql import begin, tell_deleted
from wireroom_auth.adapters.mail_outbox import MailOutbox
from wireroom_auth.domain.directory import MANAGE_USERS, UserChange, own_account
from wireroom_auth.domain.erasure import ErasureOrder
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.mail import MailKind
from wireroom_auth.domain.one_time_tokens import VERIFY_LIFE, TokenPurpose
from wireroom_auth.domain.roles import reach_of, require_covered
from wireroom_common.db import Database
from wireroom_common.errors import invalid
from wireroom_common.outbox import emit
from wireroom_common.principal import Principal
from wireroom_protos.events.v1 import events_pb2


class SqlUsers:
    """The rules that need what is stored are checked under the tenant's lock."""

    def __init__(self, database: Database, mail: MailOutbox) -> None:
        self._database = database
        self._mail = mail

    async def create(self, caller: Principal, account: Account) -> User:
        user = account.user
        with unique_email():
            async with directory_transaction(self._database, caller.tenant()) as change:
                held = await change.held_by(caller, MANAGE_USERS)
                require_covered(reach_of(user.roles, await change.custom_roles(user.roles)), held)
                await insert_account(change.connection, account, via="created", actor=caller.subject)
                if account.password_hash is None and self._mail.configured:
                    await self._ask_for_password(change.connection, user)
                return await change.user(user.id)

    async def page(self, tenant_id: UUID, *, query: str, before: UUID | None, limit: int) -> list[User]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id"  # noqa: S608  constant
                    " AND (:query = '' OR u.email ILIKE :pattern OR u.name ILIKE :pattern)"
                    " AND (CAST(:before AS uuid) IS NULL OR u.id < :before) ORDER BY u.id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "query": query, "pattern": _containing(query), "before": before, "limit": limit},
            )
            return [user_of(row) for row in rows]

    async def update(self, caller: Principal, user_id: UUID, change: UserChange, *, now: datetime) -> User:
        async with directory_transaction(self._database, caller.tenant()) as transaction:
            held = await transaction.held_by(caller, MANAGE_USERS)
            before = await transaction.user(user_id)
            if change.disabled and user_id == caller.user_id():
                raise own_account()
            require_covered(before.grantable_to_keys, held)
            if change.roles is not None:
                require_covered(reach_of(change.roles, await transaction.custom_roles(change.roles)), held)
            after = _changed(before, change, now)
            await transaction.connection.execute(
                text(
                    "UPDATE users SET name = :name, roles = :roles, disabled_at = :disabled_at"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {
                    "tenant_id": before.tenant_id,
                    "id": user_id,
                    "name": after.name,
                    "roles": list(after.roles),
                    "disabled_at": after.disabled_at,
                },
            )
            await transaction.require_left(_active_roles(before) - _active_roles(after))
            await _tell(transaction, before, after, caller, now)
            return await transaction.user(user_id)

    async def delete(self, caller: Principal, order: ErasureOrder) -> None:
        async with directory_transaction(self._database, caller.tenant()) as transaction:
            held = await transaction.held_by(caller, MANAGE_USERS)
            user = await transaction.user(_of_user(order))
            if user.id == caller.user_id():
                raise own_account()
            require_covered(user.grantable_to_keys, held)
            if order.transfer_to is not None:
                await _require_heir(transaction, user, order.transfer_to)
            connection = transaction.connection
            await raise_epoch(connection, user.tenant_id, user.id, "deleted", order.requested_at, actor=caller.subject)
            # Sessions, refresh tokens and keys go with the row; what was audited stays.
            counts = await erase_account(connection, user, actor=caller.subject)
            await transaction.require_left(_active_roles(user))
            await tell_deleted(connection, order)
            await begin(connection, order, counts)
            details = {"roles": list(user.roles), "erasure": str(order.id), "transfer_to": str(order.transfer_to or "")}
            await transaction.record("user.deleted", subject=str(user.id), actor=caller.subject, details=details)

    async def _ask_for_password(self, connection: AsyncConnection, user: User) -> None:
        await self._mail.enqueue_token(
            connection,
            tenant_id=user.tenant_id,
            user_id=user.id,
            to=user.email,
            kind=MailKind.SET_PASSWORD,
            purpose=TokenPurpose.RESET_PASSWORD,
            life=VERIFY_LIFE,
        )


def _containing(query: str) -> str:
    escaped = query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _changed(user: User, change: UserChange, now: datetime) -> User:
    disabled_at = user.disabled_at
    if change.disabled is not None:
        disabled_at = (disabled_at or now) if change.disabled else None
    return replace(
        user,
        name=user.name if change.name is None else change.name,
        roles=user.roles if change.roles is None else change.roles,
        disabled_at=disabled_at,
    )


def _active_roles(user: User) -> frozenset[str]:
    return frozenset(user.roles) if user.disabled_at is None else frozenset()


async def _tell(transaction: DirectoryTransaction, before: User, after: User, caller: Principal, now: datetime) -> None:
    """Void what the change makes void; events and audit of each part of the change."""
    connection, subject, actor = transaction.connection, str(before.id), caller.subject

    if before.name != after.name:
        await transaction.record("user.renamed", subject=subject, actor=actor)
    if set(before.roles) != set(after.roles):
        await raise_epoch(connection, before.tenant_id, before.id, "roles", now, actor=actor)
        changed = events_pb2.AuthRoleChanged(user_id=subject, before=sorted(before.roles), after=sorted(after.roles))
        await emit(connection, changed, tenant_id=before.tenant_id, subject=subject, actor=actor)
        details = {"before": sorted(before.roles), "after": sorted(after.roles)}
        await transaction.record("user.roles_changed", subject=subject, actor=actor, details=details)
    if before.disabled_at is None and after.disabled_at is not None:
        await raise_epoch(connection, before.tenant_id, before.id, "disabled", now, actor=actor)
        disabled = events_pb2.AuthUserDisabled(user_id=subject, by=actor)
        await emit(connection, disabled, tenant_id=before.tenant_id, subject=subject, actor=actor)
        await transaction.record("user.disabled", subject=subject, actor=actor)
    if before.disabled_at is not None and after.disabled_at is None:
        # Nothing to void: what was issued before the user was disabled is void since then.
        enabled = events_pb2.AuthUserEnabled(user_id=subject, by=actor)
        await emit(connection, enabled, tenant_id=before.tenant_id, subject=subject, actor=actor)
        await transaction.record("user.enabled", subject=subject, actor=actor)


def _of_user(order: ErasureOrder) -> UUID:
    if order.user_id is None:
        msg = "The order names no user."
        raise ValueError(msg)
    return order.user_id


async def _require_heir(transaction: DirectoryTransaction, leaver: User, heir_id: UUID) -> None:
    heir = await transaction.find_user(heir_id)
    if heir is None or heir.disabled_at is not None or heir.id == leaver.id:
        raise invalid(
            "transfer_target_invalid",
            "What the user shared can go to another user of this tenant who may sign in; name one, or have it erased.",
            field="to",
        )
