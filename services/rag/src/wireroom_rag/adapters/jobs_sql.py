"""The processing queue: versions whose state is not final, leased to one worker at a time.

All times are the database's, so that workers on hosts with different clocks agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.connections import worker
from wireroom_rag.domain.document import QUARANTINE, ExtractedText, Job, LeaseLostError, MalwareFoundError, State, VersionKey
from wireroom_rag.domain.scope import SourceKind

_PENDING = "('received', 'scanned', 'extracted', 'chunked', 'embedded')"
_DUE = f"""v.state IN {_PENDING} AND v.kind = :kind AND v.next_attempt_at <= now()
                           AND (v.leased_until IS NULL OR v.leased_until < now())"""
# Among so many of the oldest due jobs tenants take turns.
_WINDOW = 2_000
_JOB = """v.tenant_id, v.document_id, v.version, v.kind, v.state, v.attempts, v.created_at, v.title, v.media_type, v.size, v.blob_key,
                              v.published_at"""
_OWN_JOB = "tenant_id = :tenant_id AND document_id = :document_id AND version = :version AND lease_token = :lease_token"


def _own(job: Job) -> dict[str, object]:
    return {
        "tenant_id": job.key.tenant_id,
        "document_id": job.key.document_id,
        "version": job.key.version,
        "lease_token": job.lease_token,
    }


def _job(row: Row[Any], token: UUID) -> Job:
    return Job(
        key=VersionKey(row.tenant_id, row.document_id, row.version),
        kind=SourceKind(row.kind),
        state=State(row.state),
        lease_token=token,
        attempts=row.attempts,
        created_at=row.created_at,
        title=row.title,
        media_type=row.media_type,
        size=row.size,
        blob_key=row.blob_key,
        published_at=row.published_at,
    )


def _rejected(job: Job, code: str) -> Message:
    return events_pb2.RagDocumentRejected(document_id=str(job.key.document_id), version=job.key.version, reason_code=code)


class JobStore:
    """Claims, renews and ends jobs."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds

    async def claim(self, kind: SourceKind, limit: int, *, max_size: int | None = None) -> Sequence[Job]:
        """Lease up to `limit` due jobs: those of the tenants with the fewest in work first, of these the oldest.

        Jobs of workers that stopped renewing are among them. `max_size`: only files up to that many bytes.
        """
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    f"""
                    WITH busy AS (
                        SELECT tenant_id, count(*) AS jobs FROM document_versions
                         WHERE kind = :kind AND lease_token IS NOT NULL AND leased_until >= now() GROUP BY tenant_id
                    ), oldest AS (
                        SELECT v.tenant_id, v.document_id, v.version FROM document_versions v
                         WHERE {_DUE} AND (CAST(:max_size AS bigint) IS NULL OR v.size <= :max_size)
                         ORDER BY v.next_attempt_at LIMIT {_WINDOW}
                    ), due AS (
                        SELECT v.tenant_id, v.document_id, v.version
                          FROM document_versions v JOIN oldest USING (tenant_id, document_id, version) LEFT JOIN busy USING (tenant_id)
                         WHERE {_DUE}
                         ORDER BY COALESCE(busy.jobs, 0), v.next_attempt_at LIMIT :limit FOR UPDATE OF v SKIP LOCKED
                    )
                    UPDATE document_versions v
                       SET lease_token = :token, leased_until = now() + make_interval(secs => :lease), attempts = v.attempts + 1
                      FROM due
                     WHERE v.tenant_id = due.tenant_id AND v.document_id = due.document_id AND v.version = due.version
                    RETURNING {_JOB}
                    """  # noqa: S608 - constants of this file
                ),
                {
                    "token": (token := new_id()),
                    "lease": self._lease_seconds,
                    "kind": kind.value,
                    "limit": limit,
                    "max_size": max_size,
                },
            )
            return [_job(row, token) for row in rows]

    async def claim_overdue(self, waiting_seconds: float, stage_seconds: float, limit: int) -> Sequence[Job]:
        """Take over up to `limit` jobs that have stood in one state for too long, from whoever works on them."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    f"""
                    UPDATE document_versions v
                       SET lease_token = :token, leased_until = now() + make_interval(secs => :lease)
                      FROM (SELECT tenant_id, document_id, version FROM document_versions
                             WHERE state IN {_PENDING}
                               AND state_at < now() - make_interval(secs => CASE WHEN state IN ('received', 'scanned')
                                                                                 THEN :waiting ELSE :stage END)
                             LIMIT :limit FOR UPDATE SKIP LOCKED) due
                     WHERE v.tenant_id = due.tenant_id AND v.document_id = due.document_id AND v.version = due.version
                    RETURNING {_JOB}
                    """  # noqa: S608 - constants of this file
                ),
                {
                    "token": (token := new_id()),
                    "lease": self._lease_seconds,
                    "waiting": waiting_seconds,
                    "stage": stage_seconds,
                    "limit": limit,
                },
            )
            return [_job(row, token) for row in rows]

    async def renew(self, lease_token: UUID) -> bool:
        """Extend the leases taken with this token; False when none is held any more.

        Rows that are being finished right now are left alone: no wait, no deadlock.
        """
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    f"""
                    UPDATE document_versions v SET leased_until = now() + make_interval(secs => :lease)
                      FROM (SELECT tenant_id, document_id, version FROM document_versions
                             WHERE lease_token = :token AND state IN {_PENDING} FOR UPDATE SKIP LOCKED) mine
                     WHERE v.tenant_id = mine.tenant_id AND v.document_id = mine.document_id AND v.version = mine.version
                    """  # noqa: S608 - a constant of this file
                ),
                {"token": lease_token, "lease": self._lease_seconds},
            )
            held = await connection.execute(
                text(f"SELECT 1 FROM document_versions WHERE lease_token = :token AND state IN {_PENDING} LIMIT 1"),  # noqa: S608 - a constant of this file
                {"token": lease_token},
            )
            return held.first() is not None

    async def release(self, lease_token: UUID) -> None:
        """Give back what is held with this token, at once and uncounted (the worker stops)."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE document_versions SET leased_until = NULL, lease_token = NULL, attempts = attempts - 1"  # noqa: S608 - a constant of this file
                    f" WHERE lease_token = :token AND state IN {_PENDING}"
                ),
                {"token": lease_token},
            )

    async def retry_later(self, job: Job, seconds: float, *, counted: bool) -> None:
        """Give the lease back; the job is due again after `seconds`. `counted=False` takes the attempt back (the world was at fault)."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE document_versions SET leased_until = NULL, lease_token = NULL, attempts = attempts - :uncount,"  # noqa: S608 - a constant of this file
                    f" next_attempt_at = now() + make_interval(secs => :seconds) WHERE {_OWN_JOB}"
                ),
                {**_own(job), "seconds": seconds, "uncount": 0 if counted else 1},
            )

    async def age_seconds(self, job: Job) -> float:
        """How long ago the job was received, by the database's clock."""
        async with self._database.system() as connection:
            now: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()
        return (now - job.created_at).total_seconds()

    async def text_of(self, job: Job) -> ExtractedText | None:
        """The text that an earlier stage stored; None before that stage."""
        async with worker(self._database, job.key.tenant_id) as connection:
            row = (
                await connection.execute(
                    text(f"SELECT content, page_starts FROM document_versions WHERE {_OWN_JOB}"),  # noqa: S608 - a constant of this file
                    _own(job),
                )
            ).one_or_none()
        if row is None:
            raise LeaseLostError
        return ExtractedText(row.content, tuple(row.page_starts)) if row.content is not None else None

    async def scanned(self, job: Job) -> None:
        """`received → scanned`."""
        await self._advance(job, "state = 'scanned'", {})

    async def quarantine(self, job: Job, malware: MalwareFoundError) -> str:
        """`rejected`, and the file's key is one in quarantine; event and audit leave with it."""
        key = f"{QUARANTINE}{job.blob_key}"
        async with worker(self._database, job.key.tenant_id) as connection:
            await self._update(
                connection,
                job,
                "state = 'rejected', reason_code = :code, reason = :reason, blob_key = :key, lease_token = NULL, leased_until = NULL",
                {"code": malware.code, "reason": malware.reason, "key": key},
            )
            await emit(connection, _rejected(job, malware.code), tenant_id=job.key.tenant_id, subject=str(job.key.document_id))
            await audit_trail.record(
                connection,
                "document.quarantined",
                tenant_id=job.key.tenant_id,
                subject=str(job.key.document_id),
                actor="",
                version=str(job.key.version),
                signature=malware.signature,
            )
        return key

    async def extracted(self, job: Job, found: ExtractedText) -> None:
        """`received` or `scanned` → `extracted`, with the text."""
        await self._advance(
            job,
            "state = 'extracted', content = :content, page_starts = CAST(:starts AS integer[]), pages = :pages",
            {"content": found.content, "starts": list(found.page_starts), "pages": len(found.page_starts)},
        )

    async def chunked(self, job: Job, count: int) -> None:
        """`extracted → chunked`."""
        await self._advance(job, "state = 'chunked', chunks = :chunks", {"chunks": count})

    async def embedded(self, job: Job) -> None:
        """`chunked → embedded`."""
        await self._advance(job, "state = 'embedded'", {})

    async def reject(self, job: Job, code: str, reason: str) -> None:
        """The content cannot be used."""
        await self._end(job, State.REJECTED, code, reason, _rejected(job, code))

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Processing gave up."""
        event = events_pb2.RagDocumentFailed(document_id=str(job.key.document_id), version=job.key.version, reason_code=code)
        await self._end(job, State.FAILED, code, reason, event)

    async def _advance(self, job: Job, change: str, values: dict[str, object]) -> None:
        async with worker(self._database, job.key.tenant_id) as connection:
            await self._update(connection, job, change, values)

    async def _end(self, job: Job, state: State, code: str, reason: str, event: Message) -> None:
        async with worker(self._database, job.key.tenant_id) as connection:
            await self._update(
                connection,
                job,
                "state = :state, reason_code = :code, reason = :reason, lease_token = NULL, leased_until = NULL",
                {"state": state.value, "code": code, "reason": reason},
            )
            await emit(connection, event, tenant_id=job.key.tenant_id, subject=str(job.key.document_id))

    async def _update(self, connection: AsyncConnection, job: Job, change: str, values: dict[str, object]) -> None:
        updated = await connection.execute(
            text(f"UPDATE document_versions SET {change}, updated_at = now() WHERE {_OWN_JOB}"),  # noqa: S608 - constants of this file
            {**_own(job), **values},
        )
        if not updated.rowcount:
            raise LeaseLostError
