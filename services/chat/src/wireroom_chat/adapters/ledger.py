"""Generations in PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.message import Message
from sqlalchemy import text

from wireroom_chat.ports import Generation, Settlement
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_SWEEP_LIMIT = 200
ABANDONED = "process_lost"


class SqlLedger:
    """The ledger of one service. Each method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def binds(self, generation: Generation) -> bool:
        del generation
        return False

    async def reserve(self, generation: Generation, micros: int) -> int:
        del generation
        return micros

    async def start(self, generation: Generation) -> None:
        async with self._database.tenant(generation.tenant_id) as connection:
            await connection.execute(
                text(
                    "INSERT INTO generations (tenant_id, id, user_id, completion_id, model, provider, status, started_at)"
                    " VALUES (:tenant_id, :id, :user_id, :completion_id, :model, :provider, 'running', :started_at)"
                ),
                {
                    "tenant_id": generation.tenant_id,
                    "id": generation.id,
                    "user_id": generation.user_id,
                    "completion_id": generation.completion_id,
                    "model": generation.model,
                    "provider": "",
                    "started_at": generation.started_at,
                },
            )

    async def settle(self, generation: Generation, settlement: Settlement) -> None:
        async with self._database.tenant(generation.tenant_id) as connection:
            result = await connection.execute(
                text(
                    "UPDATE generations SET status = :status, answer_mode = :answer_mode, error_code = :error_code, tokens_in = :tokens_in,"
                    " tokens_out = :tokens_out, provider = :provider, citations = :citations, first_token_ms = :first_token_ms, finished_at = :finished_at"
                    " WHERE tenant_id = :tenant_id AND id = :id AND status = 'running'"
                ),
                {
                    "tenant_id": generation.tenant_id,
                    "id": generation.id,
                    "status": settlement.status,
                    "answer_mode": settlement.answer_mode,
                    "error_code": settlement.error_code,
                    "tokens_in": settlement.tokens_in,
                    "tokens_out": settlement.tokens_out,
                    "provider": settlement.provider,
                    "citations": settlement.citations,
                    "first_token_ms": settlement.first_token_milliseconds,
                    "finished_at": settlement.finished_at,
                },
            )
            if result.rowcount:
                await emit(
                    connection,
                    _event(generation, settlement),
                    tenant_id=generation.tenant_id,
                    subject=generation.completion_id,
                    actor=str(generation.user_id),
                    # The ledger tells what was used. An answer that was lost on its way is made again: it stands nowhere else.
                    effect=False,
                )

    async def settle_abandoned(self, clock: Clock, older_than: timedelta) -> int:
        """Close the rows that a dead process left running for longer than any completion lasts; returns how many.

        Safe on several replicas: a row is closed by whoever locks it first.
        """
        now = clock.now()
        async with self._database.system() as connection:
            rows = (
                await connection.execute(
                    text(
                        "UPDATE generations SET status = 'failed', error_code = :error_code, finished_at = :now"
                        " WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM generations WHERE status = 'running' AND started_at < :before"
                        " ORDER BY started_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
                        " RETURNING tenant_id, user_id, completion_id, model, provider"
                    ),
                    {"error_code": ABANDONED, "now": now, "before": now - older_than, "limit": _SWEEP_LIMIT},
                )
            ).all()
            for row in rows:
                await emit(
                    connection,
                    events_pb2.ChatCompletionFailed(
                        completion_id=row.completion_id, model=row.model, provider=row.provider, error_code=ABANDONED
                    ),
                    tenant_id=row.tenant_id,
                    subject=row.completion_id,
                    actor=str(row.user_id),
                )
        return len(rows)


def _event(generation: Generation, settlement: Settlement) -> Message:
    if settlement.status == "completed":
        return events_pb2.ChatCompletionCompleted(
            completion_id=generation.completion_id,
            model=generation.model,
            provider=settlement.provider,
            answer_mode=settlement.answer_mode,
            tokens_in=settlement.tokens_in,
            tokens_out=settlement.tokens_out,
            first_token_milliseconds=settlement.first_token_milliseconds,
            milliseconds=settlement.milliseconds,
            citations=settlement.citations,
        )
    if settlement.status == "cancelled":
        return events_pb2.ChatCompletionCancelled(
            completion_id=generation.completion_id,
            model=generation.model,
            provider=settlement.provider,
            tokens_out=settlement.tokens_out,
        )
    return events_pb2.ChatCompletionFailed(
        completion_id=generation.completion_id,
        model=generation.model,
        provider=settlement.provider,
        error_code=settlement.error_code,
    )
