"""Generations, what they used and what that cost, in PostgreSQL; budgets hold before a call is made, not after."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from google.protobuf.message import Message
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wireroom_chat.adapters import ledger_statements as sql
from wireroom_chat.adapters.group_commit import GroupCommit
from wireroom_chat.domain.budgets import NO_LIMIT, THRESHOLDS, insufficient_quota
from wireroom_chat.ports.generations import Checkpoint, Generation, Origin, Settlement, UsagePart
from wireroom_common.bus import event_type
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_protos.events.v1 import events_pb2

_SWEEP_LIMIT = 200
ABANDONED = "process_lost"
# In `usage_daily` and wherever else a key is part of a primary key: no API key.
NO_KEY = UUID(int=0)
# A reservation that was made while its generation was being settled: nobody else releases it.
_ENDED_GRACE = timedelta(seconds=60)
# Transactions at a time; together as many as there are connections for prepared ones, which are the ledger's alone.
_WRITES = 3
_RESERVATIONS = 2
_UNBOUND_SECONDS = 5.0
_UNBOUND_MOST = 10_000

_propagator = TraceContextTextMapPropagator()


class _Row(NamedTuple):
    """A generation that began (`ends` False), or ended, as the statement for it takes it."""

    ends: bool
    json: bytes


class UnboundPayers:
    """Who was found without a budget in the last five seconds: at most 10,000 of them, forgotten by `forget`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[UUID, UUID, UUID | None], float] = OrderedDict()

    def add(self, generation: Generation) -> None:
        """No budget binds who pays for `generation`."""
        payer = _payer(generation)
        self._until[payer] = self._clock.monotonic() + _UNBOUND_SECONDS
        self._until.move_to_end(payer)
        while len(self._until) > _UNBOUND_MOST:
            self._until.popitem(last=False)

    def __contains__(self, generation: Generation) -> bool:
        return self._until.get(_payer(generation), 0.0) > self._clock.monotonic()

    def forget(self, tenant_id: UUID) -> None:
        """Budgets of the tenant have changed."""
        for payer in [payer for payer in self._until if payer[0] == tenant_id]:
            del self._until[payer]


class SqlLedger:
    """The ledger of one service. Each method is one short transaction, of one statement where no budget has just begun or run out.

    Of rows and settlements of one tenant those that wait at the same moment are written by one transaction.

    A generation counts for the UTC day and month in which it started, however long it runs.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.unbound = UnboundPayers(clock)
        # However many tenants wait: here they do so for as long as it takes, at the pool of connections they would give up.
        self._writing = asyncio.Semaphore(_WRITES)
        self._reserving = asyncio.Semaphore(_RESERVATIONS)
        self._rows = GroupCommit(self._write)

    def binds(self, generation: Generation) -> bool:
        """False only if `reserve` has found, less than five seconds ago, that nothing binds this payer."""
        return generation not in self.unbound

    async def start(self, generation: Generation, checkpoint: Checkpoint | None = None) -> None:
        """Write the row of a running completion; nothing when it stands there, running or settled."""
        row = {**_identity(generation), "checkpoint": checkpoint}
        await self._rows.add(generation.tenant_id, generation.id, _Row(ends=False, json=orjson.dumps(row)))

    async def _write(self, tenant_id: UUID, rows: Sequence[_Row]) -> None:
        starts, settlements = [row.json for row in rows if not row.ends], [row.json for row in rows if row.ends]
        tenant = str(tenant_id)
        async with self._writing, self._database.prepared_tenant(tenant_id) as transaction:
            if starts:
                transaction.add(sql.START, tenant, _array(starts))
            if settlements:
                charged = await transaction.run(sql.SETTLE, tenant, _array(settlements))
                if news := [told for place in map(orjson.loads, charged) if (told := _passed(place)) is not None]:
                    transaction.add(sql.TELL, tenant, orjson.dumps(news).decode())

    async def reserve(self, generation: Generation, micros: int) -> int:
        """Add `micros` to what is set aside in every budget that binds the payer, or in none.

        Returns what is left of the tightest of them, NO_LIMIT when there is none.
        """
        rows = await self._try_reserve(generation, max(0, micros))
        if any(not row["open"] for row in rows):
            # A transaction of its own: it must not wait for others' rows while it holds locks.
            async with self._reserving, self._database.tenant(generation.tenant_id) as connection:
                await connection.execute(sql.OPEN_PERIODS, _payer_values(generation))
            rows = await self._try_reserve(generation, max(0, micros))
        if not rows:
            self.unbound.add(generation)
            return NO_LIMIT
        if any(row["remaining"] is None for row in rows):
            tightest = min(rows, key=lambda row: row["cap"] - (row["spent"] or 0) - (row["reserved"] or 0))
            raise insufficient_quota(tightest["scope"], tightest["period"], tightest["cap"])
        return max(0, min(int(row["remaining"]) for row in rows))

    async def _try_reserve(self, generation: Generation, micros: int) -> list[dict[str, Any]]:
        tenant = str(generation.tenant_id)
        asked = {**_payer_values(generation), "micros": micros, "id": generation.id, "now": self._clock.now()}
        async with self._reserving, self._database.prepared_tenant(generation.tenant_id) as transaction:
            found = await transaction.run(sql.RESERVE, tenant, orjson.dumps(asked).decode())
            rows = [orjson.loads(row) for row in found]
            if all(row["open"] for row in rows) and (news := [_refused(row) for row in rows if _refuses(row, micros)]):
                transaction.add(sql.TELL, tenant, orjson.dumps(news).decode())
        return rows

    async def settle(self, generation: Generation, settlement: Settlement) -> None:
        """Works without `start`, too: the row is then written as it ended."""
        day = generation.started_at.astimezone(UTC).date()
        row = {
            **_identity(generation),
            "payer_key": generation.key_id or NO_KEY,
            "day": day,
            "month": day.replace(day=1),
            "provider": settlement.provider,
            "answering_model": settlement.parts[-1].model if settlement.parts else generation.model,
            "status": settlement.status,
            "answer_mode": settlement.answer_mode,
            "error_code": settlement.error_code,
            "tokens_in": settlement.tokens_in,
            "tokens_out": settlement.tokens_out,
            "citations": settlement.citations,
            "first_token_ms": settlement.first_token_milliseconds,
            "finished_at": settlement.finished_at,
            # What is spent is what the parts cost, whatever else the settlement says.
            "micros": sum(part.micros for part in settlement.parts),
            "path": settlement.path,
            "cache": settlement.cache,
            "retrieval": settlement.retrieval,
            "parts": [_part_row(part) for part in settlement.parts],
            "traceparent": _traceparent(),
            # Not by `emit`, which would be a round trip each. No idempotency key is claimed: the ledger tells what was used; an answer
            # that was lost on its way is made again, it stands nowhere else.
            "events": [_event_row(_ending(generation, settlement))],
        }
        await self._rows.add(generation.tenant_id, generation.id, _Row(ends=True, json=orjson.dumps(row)))

    async def settle_abandoned(self, clock: Clock, older_than: timedelta) -> int:
        """Close the rows that a dead process left running for longer than any completion lasts; returns how many.

        Of what its calls used the prompt of the first one is known: that is booked, what was set aside is released. Safe on several
        replicas.
        """
        now = clock.now()
        async with self._database.system() as connection:
            rows = (await connection.execute(sql.ABANDONED, {"before": now - older_than, "limit": _SWEEP_LIMIT})).all()
        for row in rows:
            generation = Generation(
                id=row.id,
                tenant_id=row.tenant_id,
                user_id=row.user_id,
                key_id=row.key_id,
                completion_id=row.completion_id,
                model=row.model,
                started_at=row.started_at,
                origin=Origin(row.origin_kind, row.origin_id),
            )
            await self.settle(generation, _lost(now, row.checkpoint))
        return len(rows)

    async def release_orphans(self, older_than: timedelta) -> int:
        """Release what was set aside for generations that have ended or were never written; returns for how many."""
        now = self._clock.now()
        async with self._database.system() as connection:
            found = (
                await connection.execute(
                    sql.ORPHANS,
                    {"unwritten_before": now - older_than, "ended_before": now - _ENDED_GRACE, "limit": _SWEEP_LIMIT},
                )
            ).all()
        for row in found:
            async with self._database.tenant(row.tenant_id) as connection:
                await connection.execute(sql.RELEASE, {"tenant_id": row.tenant_id, "id": row.generation_id})
        return len(found)


def _refuses(row: Mapping[str, Any], micros: int) -> bool:
    """Whether this budget is what refused, and the first time in its period."""
    return row["remaining"] is None and not row["refused"] and row["spent"] + row["reserved"] + micros > row["cap"]


def _refused(row: Mapping[str, Any]) -> dict[str, object]:
    event = events_pb2.ChatBudgetExhausted(
        budget_id=row["budget_id"],
        scope=row["scope"],
        subject=row["subject"],
        period=row["period"],
        period_start=row["period_start"],
        limit_micros=row["cap"],
        spent_micros=row["spent"],
        reserved_micros=row["reserved"],
    )
    return _news(row, [event], refused=True)


def _passed(row: Mapping[str, Any]) -> dict[str, object] | None:
    """What is to be told of a budget that was charged."""
    passed = [percent for percent in THRESHOLDS if row["notified"] < percent and row["spent"] * 100 >= row["cap"] * percent]
    if not passed or row["micros"] <= 0:
        return None
    events = [
        events_pb2.ChatBudgetThreshold(
            budget_id=row["budget_id"],
            scope=row["scope"],
            subject=row["subject"],
            period=row["period"],
            period_start=row["period_start"],
            percent=percent,
            limit_micros=row["cap"],
            spent_micros=row["spent"],
        )
        for percent in passed
    ]
    return _news(row, events, percent=max(passed))


def _news(row: Mapping[str, Any], events: Sequence[Message], *, refused: bool = False, percent: int = 0) -> dict[str, object]:
    return {
        "budget_id": row["budget_id"],
        "subject": row["subject"],
        "period_start": row["period_start"],
        "refused": refused,
        "percent": percent,
        "traceparent": _traceparent(),
        "events": [_event_row(event) for event in events],
    }


def _event_row(event: Message) -> dict[str, object]:
    return {"id": new_id(), "type": event_type(event), "data": b64encode(event.SerializeToString()).decode("ascii")}


def _traceparent() -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def _payer(generation: Generation) -> tuple[UUID, UUID, UUID | None]:
    return generation.tenant_id, generation.user_id, generation.key_id


def _array(rows: Sequence[bytes]) -> str:
    return (b"[" + b",".join(rows) + b"]").decode()


def _identity(generation: Generation) -> dict[str, object]:
    return {
        "id": generation.id,
        "user_id": generation.user_id,
        "key": str(generation.key_id) if generation.key_id else "",
        "completion_id": generation.completion_id,
        "model": generation.model,
        "started_at": generation.started_at,
        "origin_kind": generation.origin.kind,
        "origin_id": generation.origin.id,
    }


def _payer_values(generation: Generation) -> dict[str, Any]:
    return payer_values(generation.tenant_id, generation.user_id, generation.key_id, generation.started_at)


def payer_values(tenant_id: UUID, user_id: UUID, key_id: UUID | None, moment: datetime) -> dict[str, Any]:
    """The parameters of the binding budgets of a payer at a moment."""
    day = moment.astimezone(UTC).date()
    return {
        "tenant_id": tenant_id,
        "user": str(user_id),
        "key": str(key_id) if key_id else "",
        "user_id": user_id,
        "key_id": key_id or NO_KEY,
        "day": day,
        "month": day.replace(day=1),
    }


def _part_row(part: UsagePart) -> dict[str, object]:
    return {
        "number": part.number,
        "provider": part.provider,
        "model": part.model,
        "key": part.key,
        "tokens_in": part.tokens_in,
        "tokens_out": part.tokens_out,
        "reported": part.reported,
        "counted_out": part.counted_out,
        "micros": part.micros,
        "price_version": part.price_version,
        "status": part.status,
        "error_code": part.error_code,
        "first_token_ms": max(0, part.first_token_milliseconds),
    }


def _lost(now: datetime, checkpoint: dict[str, Any] | None) -> Settlement:
    known = Checkpoint(**checkpoint) if checkpoint else None
    parts: tuple[UsagePart, ...] = ()
    if known is not None:
        parts = (
            UsagePart(
                number=1,
                provider=known.provider,
                model=known.model,
                key=known.key,
                tokens_in=known.tokens_in,
                tokens_out=0,
                reported=False,
                counted_out=0,
                micros=known.micros,
                price_version=known.price_version,
                status="failed",
                error_code=ABANDONED,
                first_token_milliseconds=0,
            ),
        )
    return Settlement(
        status="failed",
        answer_mode="",
        error_code=ABANDONED,
        parts=parts,
        tokens_in=known.tokens_in if known else 0,
        tokens_out=0,
        micros=known.micros if known else 0,
        citations=0,
        cache="",
        first_token_milliseconds=0,
        milliseconds=0,
        finished_at=now,
    )


def _billed(generation: Generation, settlement: Settlement) -> events_pb2.ChatUsage | None:
    parts = settlement.parts
    if not parts:
        return None
    return events_pb2.ChatUsage(
        key_id=str(generation.key_id) if generation.key_id else "",
        micros=sum(part.micros for part in parts),
        tokens_in=sum(part.tokens_in for part in parts),
        tokens_out=sum(part.tokens_out for part in parts),
        attempts=len(parts),
        price_version=parts[-1].price_version,
    )


def _ending(generation: Generation, settlement: Settlement) -> Message:
    usage = _billed(generation, settlement)
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
            usage=usage,
        )
    if settlement.status == "cancelled":
        return events_pb2.ChatCompletionCancelled(
            completion_id=generation.completion_id,
            model=generation.model,
            provider=settlement.provider,
            tokens_out=settlement.tokens_out,
            usage=usage,
        )
    return events_pb2.ChatCompletionFailed(
        completion_id=generation.completion_id,
        model=generation.model,
        provider=settlement.provider,
        error_code=settlement.error_code,
        usage=usage,
    )
