"""A budget from the administrator's or a key owner's hand to the refusal, and what the ledger tells of it."""

from __future__ import annotations

import csv
import io

from api import Api, wait_for
from conftest import EMAIL, PASSWORD, Installation

QUESTION = {"model": "scripted/writer", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 10}


def test_budget_of_an_api_key_is_enforced_shown_and_lifted(served: Installation, provider: Api) -> None:
    provider.post("/reset", {})
    login = Api(served.running.base_url).post("/auth/login", {"email": EMAIL, "password": PASSWORD})
    admin = Api(served.running.base_url, login["access_token"])
    made = admin.post("/auth/api-keys", {"name": "bounded", "budget_day_micros": 1})
    bounded = Api(served.running.base_url, made["secret"])

    # The key's terms travel as an event.
    [entry] = wait_for(lambda: bounded.get("/api/v1/usage/budget")["budgets"])
    assert (entry["budget"]["source"], entry["budget"]["cap_micros"], entry["remaining_micros"]) == ("auth", 1, 1)
    calls_before = provider.get("/state")
    refused = bounded.call("POST", "/v1/chat/completions", QUESTION)
    assert (refused.status, refused.json["error"]["code"], refused.headers["x-should-retry"]) == (
        429,
        "insufficient_quota",
        "false",
    )
    assert provider.get("/state") == calls_before

    changed = admin.call("PATCH", f"/auth/api-keys/{made['id']}", {"budget_day_micros": 10**9})
    assert changed.status == 200, changed.body
    wait_for(lambda: bounded.get("/api/v1/usage/budget")["remaining_micros"] == 10**9)
    answer = bounded.post("/v1/chat/completions", QUESTION)
    generation = wait_for(
        lambda: next((g for g in [bounded.get(f"/api/v1/usage/generations/{answer['id']}")] if g["status"] != "running"), None)
    )
    assert (generation["path"], generation["key_id"], len(generation["attempts"])) == (["scripted/writer"], made["id"], 1)
    assert generation["micros"] > 0
    [spent] = bounded.get("/api/v1/usage/budget")["budgets"]
    assert (spent["spent_micros"], spent["reserved_micros"]) == (generation["micros"], 0)
    export = admin.call("GET", "/api/v1/usage?group_by=key&format=csv")
    rows = list(csv.DictReader(io.StringIO(export.body.decode(), newline="")))
    assert [row["micros"] for row in rows if row["key"] == made["id"]] == [str(generation["micros"])]


def test_budget_of_the_tenant_binds_within_seconds_and_is_told(served: Installation, provider: Api) -> None:
    provider.post("/reset", {})
    login = Api(served.running.base_url).post("/auth/login", {"email": EMAIL, "password": PASSWORD})
    admin = Api(served.running.base_url, login["access_token"])
    assert admin.call("POST", "/v1/chat/completions", QUESTION).status == 200
    budget = admin.post("/api/v1/admin/budgets", {"scope": "tenant", "period": "month", "cap_micros": 1})
    wait_for(lambda: admin.call("POST", "/v1/chat/completions", QUESTION).status == 429, within=10)
    assert admin.call("DELETE", f"/api/v1/admin/budgets/{budget['id']}").status == 204
    wait_for(lambda: admin.call("POST", "/v1/chat/completions", QUESTION).status == 200, within=10)
