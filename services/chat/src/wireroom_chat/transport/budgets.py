"""`BudgetService`: protobuf in and out, and who may see what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_chat.adapters.budgets_sql import SqlBudgets
from wireroom_chat.adapters.usage_sql import GROUPS, SqlUsage, UsageQuery
from wireroom_chat.domain.budgets import ALL_TIME, Budget, BudgetTerms, Period, Scope, Spending
from wireroom_chat.domain.usage_csv import csv_lines
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal, PrincipalKind, current_principal
from wireroom_protos.chat.v1 import budgets_pb2, budgets_pb2_grpc

MANAGE = "budgets:manage"
READ_OWN = "usage:read:own"
READ_TENANT = "usage:read:tenant"
_CALLS = "call"
_LONGEST = timedelta(days=400)
_PAGE, _LARGEST_PAGE = 50, 200
_SUM_HEADER = ("requests", "failed", "attempts", "tokens_in", "tokens_out", "micros")
_CALL_COLUMNS = (
    "at", "generation_id", "number", "user_id", "key_id", "provider", "model", "provider_key", "tokens_in", "tokens_out",
    "reported", "counted_out", "micros", "price_version", "status", "error_code", "first_token_ms",
)  # fmt: skip


class BudgetServicer(budgets_pb2_grpc.BudgetServiceServicer):
    """Errors leave as WireroomErrors; the rpc server renders them."""

    def __init__(self, budgets: SqlBudgets, usage: SqlUsage, clock: Clock) -> None:
        self._budgets = budgets
        self._usage = usage
        self._clock = clock

    async def PutBudget(self, request: budgets_pb2.PutBudgetRequest, context: Any) -> budgets_pb2.PutBudgetResponse:  # noqa: N802 - rpc name
        del context
        caller = _permitted(MANAGE)
        terms = BudgetTerms(
            _one_of(Scope, request.scope, "scope"),
            request.subject,
            _one_of(Period, request.period, "period"),
            request.cap_micros,
            request.enabled,
        ).checked()
        budget, created = await self._budgets.put(caller.tenant(), terms, actor=caller.subject)
        return budgets_pb2.PutBudgetResponse(budget=_budget(budget), created=created)

    async def ListBudgets(self, request: budgets_pb2.ListBudgetsRequest, context: Any) -> budgets_pb2.ListBudgetsResponse:  # noqa: N802 - rpc name
        del context
        caller = _permitted(MANAGE)
        size = _page_size(request.page_size)
        after = parse_id(request.page_token, "page") if request.page_token else None
        found = await self._budgets.page(caller.tenant(), after=after, limit=size + 1)
        return budgets_pb2.ListBudgetsResponse(
            budgets=[_budget(budget) for budget in found[:size]],
            next_page_token=str(found[size - 1].id) if len(found) > size else "",
        )

    async def DeleteBudget(self, request: budgets_pb2.DeleteBudgetRequest, context: Any) -> budgets_pb2.DeleteBudgetResponse:  # noqa: N802 - rpc name
        del context
        caller = _permitted(MANAGE)
        await self._budgets.delete(caller.tenant(), parse_id(request.id, "budget"), actor=caller.subject)
        return budgets_pb2.DeleteBudgetResponse()

    async def GetSpending(self, request: budgets_pb2.GetSpendingRequest, context: Any) -> budgets_pb2.GetSpendingResponse:  # noqa: N802 - rpc name
        del request, context
        caller = _permitted(READ_OWN)
        key_id = UUID(caller.credential_id) if caller.kind is PrincipalKind.API_KEY else None
        found = await self._budgets.spending(caller.tenant(), caller.user_id(), key_id)
        return budgets_pb2.GetSpendingResponse(spending=[_spending(spending) for spending in found])

    async def QueryUsage(self, request: budgets_pb2.QueryUsageRequest, context: Any) -> budgets_pb2.QueryUsageResponse:  # noqa: N802 - rpc name
        del context
        query, reach = self._query(request)
        group = _group(request.group_by, GROUPS)
        size = _page_size(request.page_size)
        rows = await self._usage.page(query, group, after=_after(request.page_token), limit=size + 1)
        return budgets_pb2.QueryUsageResponse(
            rows=[_usage_row(row) for row in rows[:size]],
            next_page_token=f"+{rows[size - 1].name}" if len(rows) > size else "",
            from_day=query.first.isoformat(),
            to_day=query.last.isoformat(),
            group_by=group,
            reach=reach,
            total=_usage_row(await self._usage.total(query)),
        )

    async def ExportUsage(  # noqa: N802 - rpc name
        self, request: budgets_pb2.ExportUsageRequest, context: Any
    ) -> AsyncIterator[budgets_pb2.ExportUsageResponse]:
        del context
        query, _ = self._query(request)
        group = _group(request.group_by, {*GROUPS, _CALLS})
        columns = _CALL_COLUMNS if group == _CALLS else ("name", *_SUM_HEADER)
        header = _CALL_COLUMNS if group == _CALLS else (group, *_SUM_HEADER)
        yield budgets_pb2.ExportUsageResponse(data=csv_lines([header]))
        pages = self._usage.calls(query) if group == _CALLS else self._usage.groups(query, group)
        async for rows in pages:
            lines = [[_plain(getattr(row, column)) for column in columns] for row in rows]
            yield budgets_pb2.ExportUsageResponse(data=csv_lines(lines))

    async def GetGeneration(  # noqa: N802 - rpc name
        self, request: budgets_pb2.GetGenerationRequest, context: Any
    ) -> budgets_pb2.GetGenerationResponse:
        del context
        caller = _permitted(READ_OWN)
        found = None
        try:
            # A completion is called after its generation: `chatcmpl-` and the id's 32 digits.
            generation_id = UUID(request.id.rpartition("-")[2] if request.id.count("-") == 1 else request.id)
        except ValueError:
            generation_id = None
        if generation_id is not None:
            found = await self._usage.generation(caller.tenant(), generation_id)
        if found is None or (found[0]["user_id"] != caller.user_id() and READ_TENANT not in caller.permissions):
            raise not_found("generation")
        row, calls = found
        return _generation(row, calls)

    def _query(self, request: budgets_pb2.QueryUsageRequest | budgets_pb2.ExportUsageRequest) -> tuple[UsageQuery, str]:
        caller = _permitted(READ_OWN)
        wide = READ_TENANT in caller.permissions
        reach = request.reach or ("tenant" if wide else "own")
        if reach not in ("own", "tenant"):
            raise invalid("reach_unknown", "The reach is 'own' or 'tenant'.", field="reach")
        if reach == "tenant":
            caller.require(READ_TENANT)
        today = self._clock.now().astimezone(UTC).date()
        last = _day(request.to_day, "to") or today
        first = _day(request.from_day, "from") or min(today, last).replace(day=1)
        if not first <= last <= first + _LONGEST:
            raise invalid(
                "period_invalid", f"The first day comes before the last, and at most {_LONGEST.days} days after it.", field="from"
            )
        return UsageQuery(caller.tenant(), first, last, None if reach == "tenant" else caller.user_id()), reach


def _permitted(permission: str) -> Principal:
    caller = current_principal()
    caller.require(permission)
    return caller


def _one_of(kind: Any, value: str, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise invalid(f"{name}_unknown", f"The {name} is one of {', '.join(kind)}.", field=name) from None


def _group(value: str, known: Any) -> str:
    group = value or "day"
    if group not in known:
        raise invalid("group_unknown", f"Usage is grouped by {', '.join(sorted(known))}.", field="group_by")
    return group


def _page_size(asked: int) -> int:
    if not 0 <= asked <= _LARGEST_PAGE:
        raise invalid("page_size_invalid", f"A page has 1 to {_LARGEST_PAGE} entries.", field="page_size")
    return asked or _PAGE


def _after(token: str) -> str | None:
    if not token:
        return None
    # The sign tells the empty group (no key) from no token.
    if not token.startswith("+") or "\x00" in token:
        raise invalid("page_token_invalid", "This is not a page token of this list.", field="page_token")
    return token[1:]


def _day(text: str, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise invalid("day_invalid", "A day is written like 2026-03-31.", field=name) from None


def _plain(value: Any) -> object:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (str, UUID)):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else int(value)


def _timestamp(moment: Any) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _budget(budget: Budget) -> budgets_pb2.Budget:
    return budgets_pb2.Budget(
        id=str(budget.id),
        scope=budget.terms.scope.value,
        subject=budget.terms.subject,
        period=budget.terms.period.value,
        cap_micros=budget.terms.cap,
        enabled=budget.terms.enabled,
        source=budget.source,
        created_at=_timestamp(budget.created_at),
        updated_at=_timestamp(budget.updated_at),
    )


def _spending(spending: Spending) -> budgets_pb2.Spending:
    return budgets_pb2.Spending(
        budget=_budget(spending.budget),
        subject=spending.subject,
        period_start="" if spending.period_start == ALL_TIME else spending.period_start.isoformat(),
        spent_micros=spending.spent,
        reserved_micros=spending.reserved,
        remaining_micros=spending.remaining,
    )


def _usage_row(row: Any) -> budgets_pb2.UsageRow:
    return budgets_pb2.UsageRow(group=row.name, **{name: int(getattr(row, name)) for name in _SUM_HEADER})


def _generation(row: Any, calls: Any) -> budgets_pb2.GetGenerationResponse:
    answer = budgets_pb2.GetGenerationResponse(
        id=row["completion_id"],
        user_id=str(row["user_id"]),
        key_id=str(row["key_id"] or ""),
        model=row["model"],
        provider=row["provider"],
        status=row["status"],
        answer_mode=row["answer_mode"],
        error_code=row["error_code"],
        path=row["path"],
        cache=row["cache"],
        retrieval=row["retrieval"],
        tokens_in=row["tokens_in"],
        tokens_out=row["tokens_out"],
        micros=row["micros"],
        citations=row["citations"],
        first_token_milliseconds=row["first_token_ms"] or 0,
        started_at=_timestamp(row["started_at"]),
        attempts=[
            budgets_pb2.GenerationAttempt(
                number=call["number"],
                provider=call["provider"],
                model=call["model"],
                key=call["provider_key"],
                tokens_in=call["tokens_in"],
                tokens_out=call["tokens_out"],
                reported=call["reported"],
                counted_out=call["counted_out"],
                micros=call["micros"],
                price_version=call["price_version"],
                status=call["status"],
                error_code=call["error_code"],
                first_token_milliseconds=call["first_token_ms"],
            )
            for call in calls
        ],
    )
    if row["finished_at"] is not None:
        answer.finished_at.CopyFrom(_timestamp(row["finished_at"]))
    return answer
