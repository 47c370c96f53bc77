"""Invitations in PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, insert_account, unique_email, user_of
from wireroom_auth.adapters.directory_transaction import DirectoryTransaction, directory_transaction
from wireroom_auth.adapters.mail_outbox import MailOutbox
from wireroom_auth.domain.credentials import digest, hex_digest_or_empty
from wireroom_auth.domain.directory import MANAGE_TENANTS, MANAGE_USERS
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.invitations import Invitation, invitation_invalid, tenant_has_admin
from wireroom_auth.domain.mail import MailKind
from wireroom_auth.domain.roles import reach_of, require_covered
from wireroom_auth.errors import email_taken
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal

_COLUMNS = "i.id, i.tenant_id, i.email, i.roles, i.invited_by, i.by_operator, i.created_at, i.expires_at, i.accepted_at"
_KEEP = timedelta(days=30)
_BATCH = 1000


class SqlInvitations:
    """Found by the digest of their token; created, withdrawn and spent under the tenant's lock."""

    def __init__(self, database: Database, clock: Clock, mail: MailOutbox) -> None:
        self._database = database
        self._clock = clock
        self._mail = mail

    async def create(self, caller: Principal, invitation: Invitation, token: str, *, max_pending: int) -> None:
        async with directory_transaction(self._database, invitation.tenant_id) as change:
            if invitation.by_operator:
                if await change.has_admin():
                    raise tenant_has_admin()
            else:
                held = await change.held_by(caller, MANAGE_USERS)
                require_covered(reach_of(invitation.roles, await change.custom_roles(invitation.roles)), held)
            await _require_room(change, invitation, max_pending)
            await change.connection.execute(
                text(
                    "INSERT INTO invitations (tenant_id, id, email, roles, token_hash, invited_by, by_operator, created_at, expires_at)"
                    " VALUES (:tenant_id, :id, :email, :roles, :hash, :invited_by, :by_operator, :created_at, :expires_at)"
                ),
                {
                    "tenant_id": invitation.tenant_id,
                    "id": invitation.id,
                    "email": invitation.email,
                    "roles": list(invitation.roles),
                    "hash": digest(token),
                    "invited_by": invitation.invited_by,
                    "by_operator": invitation.by_operator,
                    "created_at": invitation.created_at,
                    "expires_at": invitation.expires_at,
                },
            )
            details = {
                "roles": list(invitation.roles),
                "email_sha256": hex_digest_or_empty(invitation.email),
                "by_operator": invitation.by_operator,
            }
            await change.record("invitation.created", subject=str(invitation.id), actor=caller.subject, details=details)
            if invitation.by_operator:
                await audit_trail.record(
                    change.connection,
                    "invitation.created",
                    tenant_id=None,
                    subject=str(invitation.id),
                    actor=caller.subject,
                    details={**details, "tenant_id": str(invitation.tenant_id)},
                )
            await self._mail.enqueue(
                change.connection,
                tenant_id=invitation.tenant_id,
                user_id=None,
                to=invitation.email,
                kind=MailKind.INVITATION,
                data={"token": token},
                give_up_at=invitation.expires_at,
            )

    async def page(self, tenant_id: UUID, *, before: UUID | None, limit: int) -> list[Invitation]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM invitations i WHERE i.tenant_id = :tenant_id"  # noqa: S608  constant
                    " AND (CAST(:before AS uuid) IS NULL OR i.id < :before) ORDER BY i.id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "before": before, "limit": limit},
            )
            return [_invitation_of(row) for row in rows]

    async def revoke(self, caller: Principal, invitation_id: UUID) -> None:
        async with directory_transaction(self._database, caller.tenant()) as change:
            await change.held_by(caller, MANAGE_USERS)
            place = {"tenant_id": change.tenant_id, "id": invitation_id}
            found = (
                await change.connection.execute(
                    text("SELECT accepted_at FROM invitations WHERE tenant_id = :tenant_id AND id = :id"), place
                )
            ).first()
            if found is None:
                raise not_found("invitation")
            if found.accepted_at is not None:
                raise WireroomError(
                    ErrorKind.CONFLICT, "invitation_accepted", "The invitation was accepted; disable or delete the user instead."
                )
            await change.connection.execute(text("DELETE FROM invitations WHERE tenant_id = :tenant_id AND id = :id"), place)
            await change.record("invitation.revoked", subject=str(invitation_id), actor=caller.subject)

    async def find(self, token: str, *, now: datetime) -> Invitation | None:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT {_COLUMNS}, {USER_COLUMNS} FROM invitations i"  # noqa: S608  constants
                        # Ids of users are unique over all tenants: an operator invites from another one.
                        " JOIN users u ON u.id = i.invited_by AND (u.tenant_id = i.tenant_id OR i.by_operator)"
                        " JOIN tenants t ON t.tenant_id = i.tenant_id AND t.disabled_at IS NULL"
                        " WHERE i.token_hash = :hash AND i.accepted_at IS NULL AND i.expires_at > :now"
                    ),
                    {"hash": digest(token), "now": now},
                )
            ).first()
        return _invitation_of(row) if row is not None and _may_still_invite(user_of(row), by_operator=row.by_operator) else None

    async def accept(self, invitation: Invitation, token: str, account: Account) -> None:
        actor = str(account.user.id)
        with unique_email():
            async with directory_transaction(self._database, invitation.tenant_id) as change:
                if change.tenant_disabled or not await _spend(change, invitation, token, self._clock.now()):
                    raise invitation_invalid()
                await _require_backing(change, invitation)
                await insert_account(change.connection, account, via="invitation", actor=actor)
                await change.record(
                    "invitation.accepted",
                    subject=str(invitation.id),
                    actor=actor,
                    details={"invited_by": str(invitation.invited_by)},
                )

    async def purge(self) -> None:
        """Remove a batch of invitations that expired a month ago."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT tenant_id, id FROM invitations WHERE expires_at < :before LIMIT :batch)"
                    " DELETE FROM invitations i USING past WHERE i.tenant_id = past.tenant_id AND i.id = past.id"
                ),
                {"before": self._clock.now() - _KEEP, "batch": _BATCH},
            )


def _invitation_of(row: Row[Any]) -> Invitation:
    return Invitation(
        id=row.id,
        tenant_id=row.tenant_id,
        email=row.email,
        roles=tuple(row.roles),
        invited_by=row.invited_by,
        by_operator=row.by_operator,
        created_at=row.created_at,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
    )


def _may_still_invite(inviter: User, *, by_operator: bool) -> bool:
    needed = MANAGE_TENANTS if by_operator else MANAGE_USERS
    return inviter.disabled_at is None and needed in inviter.grantable_to_keys


async def _require_room(change: DirectoryTransaction, invitation: Invitation, max_pending: int) -> None:
    """Make room for the invitation: an earlier one to the same address goes."""
    place = {"tenant_id": invitation.tenant_id, "email": invitation.email, "now": invitation.created_at}
    taken = await change.connection.execute(text("SELECT 1 FROM users WHERE tenant_id = :tenant_id AND email = :email"), place)
    if taken.first() is not None:
        raise email_taken()
    await change.connection.execute(
        text("DELETE FROM invitations WHERE tenant_id = :tenant_id AND email = :email AND accepted_at IS NULL"), place
    )
    pending = await change.connection.execute(
        text("SELECT count(*) FROM invitations WHERE tenant_id = :tenant_id AND accepted_at IS NULL AND expires_at > :now"), place
    )
    if pending.scalar_one() >= max_pending:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "invitation_limit_reached",
            f"{max_pending} invitations of the tenant wait to be accepted, which is the limit; withdraw one first.",
        )


async def _spend(change: DirectoryTransaction, invitation: Invitation, token: str, now: datetime) -> bool:
    spent = await change.connection.execute(
        text(
            "UPDATE invitations SET accepted_at = :now WHERE tenant_id = :tenant_id AND id = :id AND token_hash = :hash"
            " AND accepted_at IS NULL AND expires_at > :now RETURNING id"
        ),
        {"tenant_id": invitation.tenant_id, "id": invitation.id, "hash": digest(token), "now": now},
    )
    return spent.first() is not None


async def _require_backing(change: DirectoryTransaction, invitation: Invitation) -> None:
    """An invitation gives no more than who made it could give now, and an operator's nothing once there is an Admin."""
    if invitation.by_operator:
        if await change.has_admin():
            raise invitation_invalid()
        return
    inviter = await change.find_user(invitation.invited_by)
    if inviter is None or not _may_still_invite(inviter, by_operator=False):
        raise invitation_invalid()
    try:
        require_covered(reach_of(invitation.roles, await change.custom_roles(invitation.roles)), inviter.grantable_to_keys)
    except WireroomError:
        # A role is gone or gives more than the inviter holds by now. Neither is a stranger's business.
        raise invitation_invalid() from None
