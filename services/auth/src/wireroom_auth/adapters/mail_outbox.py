"""Mails to send: written in the transaction of what they tell of, encrypted, because they hold one-time tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import one_time_tokens
from wireroom_auth.adapters.encryption import MAILS, Sealing
from wireroom_auth.domain.invitations import Invitation
from wireroom_auth.domain.mail import DEFAULT_LIFE, MailKind, retry_after
from wireroom_auth.domain.one_time_tokens import TokenPurpose
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.ids import new_id

_KEEP_FINISHED = timedelta(days=30)


@dataclass(frozen=True)
class WaitingMail:
    """A mail that is leased to one sender."""

    tenant_id: UUID
    id: UUID
    kind: MailKind
    to: str
    attempts: int
    token: str = field(default="", repr=False)


class MailOutbox:
    """The table `mails`. Without a mail server (`configured` False) nothing is written."""

    def __init__(self, clock: Clock, sealing: Sealing, *, configured: bool) -> None:
        self._clock = clock
        self._sealing = sealing
        self.configured = configured

    async def enqueue(
        self,
        connection: AsyncConnection,
        *,
        tenant_id: UUID,
        user_id: UUID | None,
        to: str,
        kind: MailKind,
        data: Mapping[str, str],
        give_up_at: datetime | None = None,
    ) -> bool:
        """Write a mail in the caller's transaction (of the tenant, or of the system role); False if no mail server is configured.

        `to` is a normalised address; `data["token"]` is the one-time token of kinds that carry a link. It is not sent after
        `give_up_at` (default: a day), which should be when the token expires.
        """
        if not self.configured:
            return False
        mail_id, now = new_id(), self._clock.now()
        content = json.dumps({"to": to, "data": dict(data)}).encode()
        await connection.execute(
            text(
                "INSERT INTO mails (tenant_id, id, user_id, kind, state, content_sealed, created_at, next_attempt_at, give_up_at)"
                " VALUES (:tenant_id, :id, :user_id, :kind, 'waiting', :content, :now, :now, :give_up_at)"
            ),
            {
                "tenant_id": tenant_id,
                "id": mail_id,
                "user_id": user_id,
                "kind": kind.value,
                "content": self._sealing.seal(MAILS, content, bound_to=mail_id.bytes),
                "now": now,
                "give_up_at": give_up_at or now + DEFAULT_LIFE,
            },
        )
        return True

    async def enqueue_token(
        self,
        connection: AsyncConnection,
        *,
        tenant_id: UUID,
        user_id: UUID,
        to: str,
        kind: MailKind,
        purpose: TokenPurpose,
        life: timedelta,
    ) -> None:
        """Make a one-time token for the user and a mail that carries it, in the caller's transaction."""
        now = self._clock.now()
        token = await one_time_tokens.issue(
            connection, tenant_id=tenant_id, user_id=user_id, purpose=purpose, email=to, now=now, life=life
        )
        await self.enqueue(
            connection, tenant_id=tenant_id, user_id=user_id, to=to, kind=kind, data={"token": token}, give_up_at=now + life
        )

    async def invite(self, connection: AsyncConnection, invitation: Invitation, token: str) -> None:
        """Write the mail that carries an invitation's token."""
        await self.enqueue(
            connection,
            tenant_id=invitation.tenant_id,
            user_id=None,
            to=invitation.email,
            kind=MailKind.INVITATION,
            data={"token": token},
            give_up_at=invitation.expires_at,
        )

    async def lease(self, database: Database, *, limit: int, seconds: float) -> list[WaitingMail]:
        """Mails that are due, for this sender alone until the lease ends; those past their time are given up."""
        now = self._clock.now()
        async with database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE mails SET state = 'given_up', content_sealed = NULL, finished_at = :now, problem = 'too late: ' || problem"
                    " WHERE state = 'waiting' AND give_up_at <= :now AND (leased_until IS NULL OR leased_until <= :now)"
                ),
                {"now": now},
            )
            rows = (
                await connection.execute(
                    text(
                        "WITH due AS MATERIALIZED (SELECT tenant_id, id FROM mails WHERE state = 'waiting' AND next_attempt_at <= :now"
                        " AND (leased_until IS NULL OR leased_until <= :now) ORDER BY next_attempt_at LIMIT :limit"
                        " FOR UPDATE SKIP LOCKED)"
                        " UPDATE mails m SET leased_until = :until, attempts = m.attempts + 1 FROM due"
                        " WHERE m.tenant_id = due.tenant_id AND m.id = due.id"
                        " RETURNING m.tenant_id, m.id, m.kind, m.attempts, m.content_sealed"
                    ),
                    {"now": now, "until": now + timedelta(seconds=seconds), "limit": limit},
                )
            ).all()
        found = []
        for row in rows:
            content = json.loads(self._sealing.unseal(MAILS, row.content_sealed, bound_to=row.id.bytes))
            found.append(
                WaitingMail(
                    row.tenant_id, row.id, MailKind(row.kind), content["to"], row.attempts, content["data"].get("token", "")
                )
            )
        return found

    async def finish(self, database: Database, mail: WaitingMail, *, problem: str = "") -> None:
        """The mail was taken by the server, or, with a `problem`, never will be; its content is removed."""
        await self._change(
            database,
            mail,
            "state = :state, content_sealed = NULL, finished_at = :now, leased_until = NULL, problem = :problem",
            state="given_up" if problem else "sent",
            problem=problem,
        )

    async def postpone(self, database: Database, mail: WaitingMail, *, problem: str) -> None:
        """Try again after a pause that grows with the attempts."""
        await self._change(
            database,
            mail,
            "next_attempt_at = :next, leased_until = NULL, problem = :problem",
            next=self._clock.now() + retry_after(mail.attempts),
            problem=problem,
        )

    async def _change(self, database: Database, mail: WaitingMail, assignments: str, **values: object) -> None:
        async with database.system() as connection:
            await connection.execute(
                text(
                    f"UPDATE mails SET {assignments} WHERE tenant_id = :tenant_id AND id = :id AND state = 'waiting'"  # noqa: S608  constants of this class
                    " AND attempts = :attempts"
                ),
                {"now": self._clock.now(), "tenant_id": mail.tenant_id, "id": mail.id, "attempts": mail.attempts, **values},
            )

    async def purge(self, database: Database) -> None:
        """Remove a batch of what was finished a month ago."""
        async with database.system() as connection:
            await connection.execute(
                text(
                    "WITH old AS MATERIALIZED (SELECT tenant_id, id FROM mails WHERE state <> 'waiting' AND finished_at < :before"
                    " LIMIT 1000) DELETE FROM mails m USING old WHERE m.tenant_id = old.tenant_id AND m.id = old.id"
                ),
                {"before": self._clock.now() - _KEEP_FINISHED},
            )
