"""Tools without a model, and what they leave behind (CH-12, CH-14)."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
from assistants_rig import (
    ADMIN,
    COLLEAGUE,
    LETTER,
    PASSAGES,
    STRANGER,
    VIEWER,
    artefact,
    refused,
    tool,
)
from chat_harness import TENANT, USER, ChatUnderTest, chat_under_test
from pypdf import PdfReader

from wireroom_chat.adapters.artefacts import SqlArtefacts
from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import (
    tools_pb2,
    tools_pb2_grpc,
)


@pytest_asyncio.fixture
async def bare_chat(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "grpc", PASSAGES, with_provider=False, tool_timeout=5.0) as under_test:
        under_test.principal = ADMIN
        yield under_test


# --- tools without a model, and their files


async def test_tools_run_without_a_model(bare_chat: ChatUnderTest) -> None:
    set_current_principal(VIEWER)
    listed = (await tools_pb2_grpc.ToolServiceStub(bare_chat.channel).ListTools(tools_pb2.ListToolsRequest(), timeout=10)).tools
    assert {entry.name for entry in listed if not entry.safe_on_untrusted} == {"sanction_letter"}
    assert len(listed) == 8
    assert all(json.loads(entry.input_schema)["type"] == "object" for entry in listed)
    assert (await tool(bare_chat, "calculator", {"expression": "0.1+0.2"}))["value"] == "0.3"
    found = await tool(bare_chat, "search_news", {"query": "tram", "since": "2020-01-01"})
    assert [entry["title"] for entry in found["passages"]] == ["Tram line approved"]
    assert (await refused(tool(bare_chat, "nothing", {}))).code == "tool_not_found"
    assert (await refused(tool(bare_chat, "calculator", {"expression": 5}))).code == "tool_input_invalid"
    anybody = replace(VIEWER, permissions=frozenset())
    assert (await refused(tool(bare_chat, "calculator", {"expression": "1"}, by=anybody))).kind is ErrorKind.FORBIDDEN


async def test_a_letter_is_a_pdf_for_its_owner_alone(bare_chat: ChatUnderTest) -> None:
    given = LETTER | {
        "address": ["# Ulica 5", "| x | y"],
        "conditions": ["Proof of income <b>", "Žádost"],
        "lender": "Банк & Söhne ₹",
    }
    made = await tool(bare_chat, "sanction_letter", given)
    found = await artefact(bare_chat, made["artefact_id"])
    assert found.name == "sanction-letter.pdf"
    reader = PdfReader(io.BytesIO(found.data))
    shown = "\n".join(page.extract_text() for page in reader.pages)
    for part in (
        "Zoë Łęcka",
        "Банк & Söhne ₹",
        "# Ulica 5",
        "| x | y",
        "1. Proof of income <b>",
        "2. Žádost",
        "EUR 1,000.00",
        "EUR 85.61",
    ):
        assert part in shown
    assert "no offer of credit" in " ".join(shown.split())
    for other in (replace(COLLEAGUE), STRANGER):
        assert (await refused(artefact(bare_chat, made["artefact_id"], by=other))).kind is ErrorKind.NOT_FOUND
    assert (await refused(artefact(bare_chat, str(uuid4())))).kind is ErrorKind.NOT_FOUND
    assert (await refused(artefact(bare_chat, "no-id"))).kind is ErrorKind.INVALID
    error = await refused(tool(bare_chat, "sanction_letter", LETTER | {"applicant": "שלום"}))
    assert error.code == "letter_characters"


async def test_artefacts_expire_and_are_counted(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    clock = ManualClock()
    store = SqlArtefacts(database, clock, lifetime=60, per_user=3)

    async def keep() -> Any:
        return await store.keep(TENANT, USER, "a.pdf", "application/pdf", b"x")

    outcomes = await asyncio.gather(*(keep() for _ in range(6)), return_exceptions=True)
    kept = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(kept) == 3
    assert all(
        isinstance(outcome, WireroomError) and outcome.code == "artefacts_exhausted"
        for outcome in outcomes
        if outcome not in kept
    )
    clock.advance(60)
    assert clock.now() - kept[0].created_at == timedelta(seconds=60)
    assert (await refused(store.get(TENANT, USER, kept[0].id))).kind is ErrorKind.NOT_FOUND
    await keep()
    assert await store.purge() == 3
    assert await store.purge() == 0
