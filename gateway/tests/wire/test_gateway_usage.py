"""Budgets and usage over HTTP, and what a spent budget looks like to clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.chat.v1 import budgets_pb2

BUDGETS, USAGE = "/api/v1/admin/budgets", "/api/v1/usage"
ROUTES = [
    ("GET", BUDGETS, None, "budgets:manage"),
    ("POST", BUDGETS, {"scope": "tenant", "period": "day", "cap_micros": 5}, "budgets:manage"),
    ("DELETE", f"{BUDGETS}/b1", None, "budgets:manage"),
    ("GET", USAGE, None, "usage:read:own"),
    ("GET", f"{USAGE}?format=csv", None, "usage:read:own"),
    ("GET", f"{USAGE}/budget", None, "usage:read:own"),
    ("GET", f"{USAGE}/generations/chatcmpl-1", None, "usage:read:own"),
]
SPENT = WireroomError(ErrorKind.RATE_LIMITED, "insufficient_quota", "The budget of your account is spent.")


@pytest.mark.parametrize(("method", "path", "body", "permission"), ROUTES)
async def test_each_route_needs_its_permission(rig: Rig, method: str, path: str, body: Any, permission: str) -> None:
    others = {"budgets:manage", "usage:read:own", "docs:read"} - {permission}
    for headers, status in ((None, 401), (rig.bearer(*others), 403)):
        async with rig.session.request(method, path, json=body, headers=headers) as reply:
            assert reply.status == status
    async with rig.session.request(method, path, json=body, headers=rig.bearer(permission)) as reply:
        assert reply.status in (200, 201, 204)


async def test_budget_is_passed_on_and_shown(rig: Rig) -> None:
    async def answer(request: budgets_pb2.PutBudgetRequest) -> budgets_pb2.PutBudgetResponse:
        budget = budgets_pb2.Budget(id="b1", scope=request.scope, subject=request.subject, period=request.period, source="admin")
        return budgets_pb2.PutBudgetResponse(budget=budget, created=True)

    rig.neighbours.answers["PutBudget"] = answer
    body = {"scope": "user", "period": "month", "cap_micros": 5_000_000}
    async with rig.session.post(BUDGETS, json=body, headers=rig.bearer("budgets:manage")) as reply:
        shown = await reply.json()
        assert (reply.status, shown["id"], shown["subject"], shown["period"]) == (201, "b1", "*", "month")
    [call] = rig.neighbours.called("PutBudget")
    assert (call.request.cap_micros, call.request.enabled) == (5_000_000, True)


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "tenant", "period": "day"},
        {"scope": "world", "period": "day", "cap_micros": 1},
        {"scope": "tenant", "period": "week", "cap_micros": 1},
        {"scope": "tenant", "period": "day", "cap_micros": -1},
        {"scope": "tenant", "period": "day", "cap_micros": 1.5},
        {"scope": "tenant", "period": "day", "cap_micros": "1"},
        {"scope": "tenant", "period": "day", "cap_micros": 1, "currency": "EUR"},
    ],
)
async def test_bad_budgets_reach_nobody(rig: Rig, body: dict[str, Any]) -> None:
    async with rig.session.post(BUDGETS, json=body, headers=rig.bearer("budgets:manage")) as reply:
        assert reply.status == 422
    assert not rig.neighbours.called("PutBudget")


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=csv", "*/*"), ("?group_by=call&from=2026-03-01&format=csv", "*/*"), ("", "text/csv")]
)
async def test_usage_comes_as_csv_piece_by_piece(rig: Rig, query: str, accept: str) -> None:
    async def pieces(_request: Any) -> AsyncIterator[budgets_pb2.ExportUsageResponse]:
        for piece in (b"day,micros\r\n", b"2026-03-01,5\r\n"):
            yield budgets_pb2.ExportUsageResponse(data=piece)

    rig.neighbours.answers["ExportUsage"] = pieces
    async with rig.session.get(USAGE + query, headers={**rig.bearer("usage:read:own"), "accept": accept}) as reply:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/csv; charset=utf-8")
        assert reply.headers["content-disposition"] == 'attachment; filename="usage.csv"'
        assert await reply.read() == b"day,micros\r\n2026-03-01,5\r\n"


async def test_refused_export_is_a_problem_and_not_half_a_file(rig: Rig) -> None:
    async def refuse(_request: Any) -> AsyncIterator[budgets_pb2.ExportUsageResponse]:
        raise WireroomError(ErrorKind.FORBIDDEN, "permission_missing", "The permission 'usage:read:tenant' is needed.")
        yield budgets_pb2.ExportUsageResponse()

    rig.neighbours.answers["ExportUsage"] = refuse
    async with rig.session.get(f"{USAGE}?format=csv&reach=tenant", headers=rig.bearer("usage:read:own")) as reply:
        assert (reply.status, reply.headers["content-type"]) == (403, "application/problem+json")


async def test_sums_are_asked_for_and_shown(rig: Rig) -> None:
    async def answer(_request: Any) -> budgets_pb2.QueryUsageResponse:
        row = budgets_pb2.UsageRow(group="alpha/m", requests=2, attempts=3, micros=7)
        return budgets_pb2.QueryUsageResponse(
            rows=[row], total=row, from_day="2026-03-01", to_day="2026-03-02", next_page_token="n"
        )

    rig.neighbours.answers["QueryUsage"] = answer
    query = "?from=2026-03-01&to=2026-03-02&group_by=model&reach=own&page_size=7"
    async with rig.session.get(USAGE + query, headers=rig.bearer("usage:read:own")) as reply:
        shown = await reply.json()
    assert (shown["rows"][0]["group"], shown["total"]["micros"], shown["next_page_token"]) == ("alpha/m", 7, "n")
    [call] = rig.neighbours.called("QueryUsage")
    assert (call.request.from_day, call.request.to_day, call.request.group_by, call.request.reach, call.request.page_size) == (
        "2026-03-01",
        "2026-03-02",
        "model",
        "own",
        7,
    )
    for bad in ("?from=yesterday", "?group_by=moon", "?reach=world", "?group_by=call"):
        async with rig.session.get(USAGE + bad, headers=rig.bearer("usage:read:own")) as reply:
            assert reply.status in (400, 422)


async def test_spending_tells_the_tightest_budget(rig: Rig) -> None:
    async def answer(_request: Any) -> budgets_pb2.GetSpendingResponse:
        return budgets_pb2.GetSpendingResponse(
            spending=[budgets_pb2.Spending(remaining_micros=micros, period_start="2026-03-01") for micros in (9, 4)]
        )

    async with rig.session.get(f"{USAGE}/budget", headers=rig.bearer("usage:read:own")) as reply:
        assert await reply.json() == {"budgets": [], "remaining_micros": None}
    rig.neighbours.answers["GetSpending"] = answer
    async with rig.session.get(f"{USAGE}/budget", headers=rig.bearer("usage:read:own")) as reply:
        shown = await reply.json()
    assert (shown["remaining_micros"], len(shown["budgets"])) == (4, 2)


async def spent(_request: Any) -> Any:
    raise SPENT


async def test_spent_budget_is_an_openai_error_that_no_client_repeats(rig: Rig) -> None:
    rig.neighbours.answers["Complete"] = spent
    token = rig.bearer("llm:invoke")["authorization"].removeprefix("Bearer ")
    client = openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=token, max_retries=3)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    await client.close()
    error = caught.value
    assert (error.status_code, error.code, error.type) == (429, "insufficient_quota", "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.json()["error"] == {
        "message": "The budget of your account is spent.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert len(rig.neighbours.called("Complete")) == 1


async def test_spent_budget_is_a_problem_document_on_native_routes(rig: Rig) -> None:
    rig.neighbours.answers["GetSpending"] = spent
    async with rig.session.get(f"{USAGE}/budget", headers=rig.bearer("usage:read:own")) as reply:
        problem = await reply.json()
        assert (reply.status, reply.headers["content-type"]) == (429, "application/problem+json")
        assert (problem["code"], reply.headers["x-should-retry"]) == ("insufficient_quota", "false")
