"""Budgets of the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import budgets_pb2


class PutBudgetInput(Input):
    """`subject`: the id of a user or API key, or `*`: the tenant, or the default of each user or key without a budget of their own.

    Periods are days and months of UTC. A budget of the same scope, subject and period is replaced; what was spent keeps counting.
    """

    scope: Literal["tenant", "user", "key"]
    subject: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")] = "*"
    period: Literal["day", "month", "total"]
    cap_micros: Annotated[
        int, Field(ge=0, le=10**15, description="Millionths of the installation's currency; 0 refuses all that costs")
    ]
    enabled: bool = True


class BudgetOutput(Output):
    """`source` "auth": it belongs to an API key and is changed there."""

    id: str
    scope: str
    subject: str
    period: str
    cap_micros: int
    enabled: bool
    source: str
    created_at: datetime | None
    updated_at: datetime | None


class BudgetsOutput(Output):
    """A page of budgets, oldest first."""

    budgets: list[BudgetOutput]
    next_page_token: str


def add_budget_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/budgets`."""

    @api.get("/api/v1/admin/budgets", tags=["administration"], responses=problem_responses())
    @access("budgets:manage")
    async def list_budgets(
        page_size: Annotated[int, Query(ge=1, le=200, description="Entries per page")] = 50, page_token: PageToken = ""
    ) -> BudgetsOutput:
        answer = await services.budgets.ListBudgets(
            budgets_pb2.ListBudgetsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return BudgetsOutput(budgets=[budget_output(entry) for entry in answer.budgets], next_page_token=answer.next_page_token)

    @api.post("/api/v1/admin/budgets", status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access("budgets:manage")
    async def put_budget(body: PutBudgetInput) -> BudgetOutput:
        answer = await services.budgets.PutBudget(
            budgets_pb2.PutBudgetRequest(
                scope=body.scope, subject=body.subject, period=body.period, cap_micros=body.cap_micros, enabled=body.enabled
            ),
            timeout=timeout,
        )
        return budget_output(answer.budget)

    @api.delete("/api/v1/admin/budgets/{id}", status_code=204, tags=["administration"], responses=problem_responses(404, 409))
    @access("budgets:manage")
    async def delete_budget(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.budgets.DeleteBudget(budgets_pb2.DeleteBudgetRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def budget_output(budget: budgets_pb2.Budget) -> BudgetOutput:
    """As routes show it."""
    return BudgetOutput(
        id=budget.id,
        scope=budget.scope,
        subject=budget.subject,
        period=budget.period,
        cap_micros=budget.cap_micros,
        enabled=budget.enabled,
        source=budget.source,
        created_at=moment(budget, "created_at"),
        updated_at=moment(budget, "updated_at"),
    )
