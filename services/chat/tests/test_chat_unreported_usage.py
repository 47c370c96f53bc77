"""Providers that do not tell what they used: what is booked, and when a budget ends the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from chat_harness import TENANT, ChatUnderTest, ask, chat_under_test
from sqlalchemy import text

from wireroom_chat.adapters.budgets_sql import SqlBudgets
from wireroom_chat.domain.budgets import BudgetTerms, Period, Scope
from wireroom_common.clock import SystemClock
from wireroom_common.testing.plugin import MigratedDatabase

MODEL = "scripted-model"
# Of the settings' default price.
OUTPUT_MICROS = 30
INPUT_MICROS = 10
ARGUMENTS = json.dumps({"x": "word " * 5000})
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}]


@pytest_asyncio.fixture
async def chat(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    async with chat_under_test(await migrated_database("chat"), tmp_path, "local", []) as under_test:
        yield under_test


async def usage(chat: ChatUnderTest) -> list[Any]:
    async with chat.database.tenant(TENANT) as connection:
        return list((await connection.execute(text("SELECT * FROM usage ORDER BY generation_id, number"))).all())


async def spent(chat: ChatUnderTest) -> tuple[int, int]:
    async with chat.database.tenant(TENANT) as connection:
        row = (await connection.execute(text("SELECT spent, reserved FROM budget_periods"))).one()
    return row.spent, row.reserved


async def cap(chat: ChatUnderTest, micros: int) -> None:
    terms = BudgetTerms(Scope.TENANT, "*", Period.DAY, micros).checked()
    await SqlBudgets(chat.database, SystemClock()).put(TENANT, terms, actor="test")


@pytest.mark.parametrize("stream", [False, True])
async def test_chinese_text_is_booked_by_its_bytes(chat: ChatUnderTest, stream: bool) -> None:  # noqa: FBT001 - a parameter
    sentence = "这是一个非常长的句子"
    chat.provider.script(tokens=[sentence] * 50, usage=False)
    await (chat.stream if stream else chat.complete)(model=MODEL, messages=ask(sentence * 100))
    [row] = await usage(chat)
    assert not row.reported
    assert row.tokens_in >= len(sentence.encode()) * 100 // 4
    assert row.tokens_out >= len(sentence.encode()) * 50 // 4
    assert row.micros == row.tokens_in * INPUT_MICROS + row.tokens_out * OUTPUT_MICROS


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_tools_are_booked_like_text(chat: ChatUnderTest, stream: bool) -> None:  # noqa: FBT001 - a parameter
    chat.provider.script(tool_calls=CALLS, usage=False)
    await (chat.stream if stream else chat.complete)(model=MODEL, messages=ask("Hi"), tools=TOOLS)
    [row] = await usage(chat)
    assert not row.reported
    assert row.tokens_out >= 5000
    # The definition of the tool is read as well.
    assert row.tokens_in >= len(orjson.dumps(TOOLS)) // 4


async def test_pictures_of_a_prompt_are_booked_by_the_estimate_of_the_reservation(chat: ChatUnderTest) -> None:
    chat.provider.script(usage=False)
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    await chat.complete(model=MODEL, messages=[{"role": "user", "content": [picture, picture]}])
    [row] = await usage(chat)
    assert row.tokens_in == 2 * 4096


async def test_budget_ends_a_stream_of_tool_calls(chat: ChatUnderTest) -> None:
    budget = 20_000
    await cap(chat, budget)
    chat.provider.script(tool_calls=CALLS * 20, usage=False)
    _, chunks = await chat.stream(model=MODEL, messages=ask("Hi"), tools=TOOLS, max_tokens=10)
    reasons = [choice["finish_reason"] for chunk in chunks for choice in orjson.loads(chunk)["choices"]]
    assert reasons[-1] == "length"
    sent = sum(chunk.count(b"word") for chunk in chunks)
    # Nothing went out that the budget does not pay, although each piece alone exceeds what was set aside.
    assert sent * OUTPUT_MICROS <= budget
    [row] = await usage(chat)
    assert row.error_code == "budget_spent"
    booked, reserved = await spent(chat)
    assert booked == row.micros
    assert reserved == 0


@pytest.mark.parametrize("name", ["reasoning_content", "refusal"])
async def test_reasoning_and_refusals_are_booked(chat: ChatUnderTest, name: str) -> None:
    message = {"role": "assistant", "content": None, name: "thought " * 400}
    answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    chat.provider.script(wrong_json=json.dumps(answer))
    await chat.complete(model=MODEL)
    [row] = await usage(chat)
    assert row.tokens_out == 400
