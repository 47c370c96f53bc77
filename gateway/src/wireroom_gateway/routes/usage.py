"""What was used and what it cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import date, datetime
from typing import Annotated, Literal

import grpc.aio
from fastapi import FastAPI, Query, Request, Response
from starlette.responses import StreamingResponse

from wireroom_common.errors import invalid
from wireroom_gateway.access import access
from wireroom_gateway.routes.admin.budgets import BudgetOutput, budget_output
from wireroom_gateway.routes.answering import pieces_of
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Output, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import budgets_pb2

_CSV = "text/csv; charset=utf-8"


class UsageRowOutput(Output):
    """`group`: the day, model, user, API key (empty: without one) or provider. `requests` made `attempts` calls of providers."""

    group: str
    requests: int
    failed: int
    attempts: int
    tokens_in: int
    tokens_out: int
    micros: int


class UsageOutput(Output):
    """A page of sums; `total` is over all pages."""

    first_day: str
    last_day: str
    group_by: str
    reach: str
    rows: list[UsageRowOutput]
    total: UsageRowOutput
    next_page_token: str


class SpendingOutput(Output):
    """A budget that binds the caller. `period_start` null: it has no period."""

    budget: BudgetOutput
    subject: str
    period_start: str | None
    spent_micros: int
    reserved_micros: int
    remaining_micros: int


class BudgetUsageOutput(Output):
    """`remaining_micros`: of the tightest budget; null when none binds."""

    budgets: list[SpendingOutput]
    remaining_micros: int | None


class AttemptOutput(Output):
    """A call of a provider. `reported`: the token counts are the provider's own; `counted_out` is what was counted here."""

    number: int
    provider: str
    model: str
    key: str
    tokens_in: int
    tokens_out: int
    reported: bool
    counted_out: int
    micros: int
    price_version: str
    status: str
    error_code: str
    first_token_milliseconds: int


class GenerationOutput(Output):
    """How an answer came about. `path`: the models tried, in order."""

    id: str
    user_id: str
    key_id: str | None
    model: str
    provider: str
    status: str
    answer_mode: str
    error_code: str
    path: list[str]
    cache: str
    # "partial" or "failed" where sources could not be searched.
    retrieval: str
    tokens_in: int
    tokens_out: int
    micros: int
    citations: int
    first_token_milliseconds: int
    started_at: datetime | None
    finished_at: datetime | None
    attempts: list[AttemptOutput]


def add_usage_routes(api: FastAPI, services: Services, *, timeout: float, export_timeout: float) -> None:
    """`/api/v1/usage`."""

    @api.get(
        "/api/v1/usage",
        tags=["usage"],
        response_model=UsageOutput,
        responses={
            **problem_responses(),
            200: {"description": "Sums, as JSON or CSV", "content": {"text/csv": {"schema": {"type": "string"}}}},
        },
    )
    @access("usage:read:own")
    async def query_usage(
        request: Request,
        *,
        from_day: Annotated[
            date | None, Query(alias="from", description="First day (UTC); the first of the month when left out")
        ] = None,
        to_day: Annotated[date | None, Query(alias="to", description="Last day (UTC); today when left out")] = None,
        group_by: Annotated[
            Literal["day", "model", "user", "key", "provider", "call"],
            Query(description="`call`: a line for each call of a provider, as CSV only"),
        ] = "day",
        reach: Annotated[
            Literal["own", "tenant"] | None, Query(description="The tenant's needs `usage:read:tenant`; the widest when left out")
        ] = None,
        format: Annotated[Literal["json", "csv"] | None, Query(description="CSV as well with `Accept: text/csv`")] = None,  # noqa: A002 - the parameter's name
        page_size: Annotated[int, Query(ge=1, le=200, description="Entries per page")] = 50,
        page_token: PageToken = "",
    ) -> Response | UsageOutput:
        days = {"from_day": from_day.isoformat() if from_day else "", "to_day": to_day.isoformat() if to_day else ""}
        if format == "csv" or (format is None and _prefers_csv(request)):
            export = budgets_pb2.ExportUsageRequest(**days, group_by=group_by, reach=reach or "")
            return await _csv(services.budgets.ExportUsage(export, timeout=export_timeout))
        if group_by == "call":
            raise invalid("group_csv_only", "Single calls are given as CSV only: add format=csv.", field="group_by")
        answer = await services.budgets.QueryUsage(
            budgets_pb2.QueryUsageRequest(
                **days, group_by=group_by, reach=reach or "", page_size=page_size, page_token=page_token
            ),
            timeout=timeout,
        )
        return UsageOutput(
            first_day=answer.from_day,
            last_day=answer.to_day,
            group_by=answer.group_by,
            reach=answer.reach,
            rows=[_row(row) for row in answer.rows],
            total=_row(answer.total),
            next_page_token=answer.next_page_token,
        )

    @api.get("/api/v1/usage/budget", tags=["usage"], responses=problem_responses())
    @access("usage:read:own")
    async def get_spending() -> BudgetUsageOutput:
        answer = await services.budgets.GetSpending(budgets_pb2.GetSpendingRequest(), timeout=timeout)
        return BudgetUsageOutput(
            budgets=[
                SpendingOutput(
                    budget=budget_output(entry.budget),
                    subject=entry.subject,
                    period_start=entry.period_start or None,
                    spent_micros=entry.spent_micros,
                    reserved_micros=entry.reserved_micros,
                    remaining_micros=entry.remaining_micros,
                )
                for entry in answer.spending
            ],
            remaining_micros=min((entry.remaining_micros for entry in answer.spending), default=None),
        )

    @api.get("/api/v1/usage/generations/{id}", tags=["usage"], responses=problem_responses(404))
    @access("usage:read:own")
    async def get_generation(id: str) -> GenerationOutput:  # noqa: A002 - the path's name for it
        answer = await services.budgets.GetGeneration(budgets_pb2.GetGenerationRequest(id=id), timeout=timeout)
        return _generation(answer)


def _prefers_csv(request: Request) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return "text/csv" in kinds and "application/json" not in kinds


async def _csv(
    call: grpc.aio.UnaryStreamCall[budgets_pb2.ExportUsageRequest, budgets_pb2.ExportUsageResponse],
) -> StreamingResponse:
    pieces = pieces_of(call)
    # What is refused is refused before a status is sent.
    first = await anext(pieces, budgets_pb2.ExportUsageResponse())

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            yield first.data
            async for piece in pieces:
                yield piece.data
        finally:
            await pieces.aclose()

    headers = {"content-disposition": 'attachment; filename="usage.csv"', "cache-control": "no-store"}
    return StreamingResponse(body(), media_type=_CSV, headers=headers)


def _row(row: budgets_pb2.UsageRow) -> UsageRowOutput:
    return UsageRowOutput(
        group=row.group,
        requests=row.requests,
        failed=row.failed,
        attempts=row.attempts,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        micros=row.micros,
    )


def _generation(answer: budgets_pb2.GetGenerationResponse) -> GenerationOutput:
    return GenerationOutput(
        id=answer.id,
        user_id=answer.user_id,
        key_id=answer.key_id or None,
        model=answer.model,
        provider=answer.provider,
        status=answer.status,
        answer_mode=answer.answer_mode,
        error_code=answer.error_code,
        path=list(answer.path),
        cache=answer.cache,
        retrieval=answer.retrieval,
        tokens_in=answer.tokens_in,
        tokens_out=answer.tokens_out,
        micros=answer.micros,
        citations=answer.citations,
        first_token_milliseconds=answer.first_token_milliseconds,
        started_at=moment(answer, "started_at"),
        finished_at=moment(answer, "finished_at"),
        attempts=[
            AttemptOutput(
                number=call.number,
                provider=call.provider,
                model=call.model,
                key=call.key,
                tokens_in=call.tokens_in,
                tokens_out=call.tokens_out,
                reported=call.reported,
                counted_out=call.counted_out,
                micros=call.micros,
                price_version=call.price_version,
                status=call.status,
                error_code=call.error_code,
                first_token_milliseconds=call.first_token_milliseconds,
            )
            for call in answer.attempts
        ],
    )
