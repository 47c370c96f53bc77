"""Answers given again, on a real Valkey: to whom, to what, and never after what they rest on has changed."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio
from chat_harness import CALLER, OTHER_TENANT, ask
from failover_rig import PASSAGES, QUESTION, Suite, suite_of, text_of
from prometheus_client import CollectorRegistry

from wireroom_chat.adapters.sealing import Seal
from wireroom_chat.domain.terms import Terms
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.usecases.answer_cache import SOURCES, AnswerCache, Entry, answers
from wireroom_common.cache import Cache, Caches
from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.plugin import MigratedDatabase

ANSWER = "The Aurora pump delivers 14 litres per minute [1]."
SAME_IN_OTHER_WORDS = "Tell me how much water the Aurora pump does deliver."
MASTER = b"a master secret of these tests, long enough"


class WordVectors:
    """Vectors by shared stems; what the real model would give lies in the fixture of the paraphrases."""

    def __init__(self) -> None:
        self.fails = False
        self._terms = Terms()

    async def vector(self, content: str) -> Sequence[float]:
        if self.fails:
            raise WireroomError(ErrorKind.UNAVAILABLE, "embedding_busy", "Busy.")
        values = [0.0] * 512
        for stem in self._terms.question(content):
            values[zlib.crc32(stem.encode()) % 512] += 1.0
        length = math.sqrt(sum(value * value for value in values)) or 1.0
        return [value / length for value in values]


class Cached:
    """A suite whose answers are kept, on any number of replicas."""

    def __init__(self, suite: Suite, client: redis.asyncio.Redis) -> None:
        self.suite, self.client = suite, client
        self.clock = ManualClock()
        self.vectors = WordVectors()
        self.store = self.replica()
        suite.completing = suite.build(cache=self.cache(self.store))
        suite.a.script(tokens=[ANSWER])

    def replica(self, master: bytes = MASTER) -> Cache[Entry]:
        caches = Caches(self.client, self.clock, CollectorRegistry())
        return caches.open(answers(1800), Entry, seal=Seal(master, "answers"))

    def cache(self, store: Cache[Entry]) -> AnswerCache:
        return AnswerCache(store, self.vectors, self.suite.retrieval, self.clock, ChatMetrics(CollectorRegistry()))

    def restart(self) -> None:
        """Another replica: only what is in the store is known."""
        self.store = self.replica()
        self.suite.completing = self.suite.build(cache=self.cache(self.store))


@pytest_asyncio.fixture
async def cached(migrated_database: MigratedDatabase, clean_valkey_url: str) -> AsyncIterator[Cached]:
    async with suite_of(await migrated_database("chat")) as suite, redis.asyncio.Redis.from_url(clean_valkey_url) as client:
        yield Cached(suite, client)


@pytest.mark.parametrize("restart", [False, True], ids=["same replica", "other replica"])
async def test_grounded_answer_is_given_again_with_its_citations(cached: Cached, restart: bool) -> None:  # noqa: FBT001 - a parameter
    first, info = await cached.suite.complete(model="grounded")
    assert info.cache == "miss"
    if restart:
        cached.restart()
    again, info = await cached.suite.complete(model="grounded")
    assert info.cache == "hit"
    assert cached.suite.a.started == 1
    assert again["id"] != first["id"]
    assert again["choices"] == first["choices"]
    assert again["citations"] == first["citations"]
    infos, chunks, _ = await cached.suite.stream(model="grounded")
    assert infos[0].cache == "hit"
    assert text_of(chunks) == first["choices"][0]["message"]["content"]
    annotations = [choice["delta"].get("annotations") for chunk in chunks for choice in chunk["choices"]]
    assert [item for item in annotations if item] == [first["choices"][0]["message"]["annotations"]]
    assert cached.suite.a.started == 1


async def test_hits_cost_nothing_and_have_a_row(cached: Cached) -> None:
    await cached.suite.complete(model="grounded")
    await cached.suite.complete(model="grounded")
    parts = await cached.suite.usage()
    assert len(parts) == 1
    async with cached.suite.database.tenant(CALLER.tenant()) as connection:
        rows = (await connection.exec_driver_sql("SELECT cache, micros FROM generations ORDER BY id")).all()
    assert [row.cache for row in rows] == ["miss", "hit"]
    assert rows[1].micros == 0
    assert rows[0].micros == parts[0].micros > 0


async def test_question_in_other_words_gets_the_kept_answer(cached: Cached) -> None:
    cached.suite.a.script(tokens=["It is 14 litres."])
    await cached.suite.complete(model="pair", cache="semantic", messages=ask("What is the price of gold?"))
    answer, info = await cached.suite.complete(model="pair", cache="semantic", messages=ask("Can you tell me the price of gold?"))
    assert info.cache == "semantic"
    assert answer["choices"][0]["message"]["content"] == "It is 14 litres."
    _, info = await cached.suite.complete(model="pair", cache="semantic", messages=ask("What is the price of silver?"))
    assert info.cache == "miss"
    _, info = await cached.suite.complete(model="pair", cache="exact", messages=ask("Tell me the price of gold."))
    assert info.cache == "miss"


async def test_question_in_other_words_needs_a_vector(cached: Cached) -> None:
    await cached.suite.complete(model="pair", cache="semantic", messages=ask("What is the price of gold?"))
    cached.vectors.fails = True
    _, info = await cached.suite.complete(model="pair", cache="semantic", messages=ask("Can you tell me the price of gold?"))
    assert info.cache == "miss"


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": OTHER_TENANT},
        {"subject": "0198a000-0000-7000-8000-0000000000bb"},
        {"permissions": frozenset({"llm:invoke", "docs:read"})},
    ],
    ids=["tenant", "user", "permissions"],
)
async def test_others_never_get_it(cached: Cached, changes: dict[str, Any]) -> None:
    await cached.suite.complete(model="grounded")
    _, info = await cached.suite.complete(replace(CALLER, **changes), model="grounded")
    assert info.cache == "miss"


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "system", "content": "Answer in verse."}, *ask(QUESTION)]},
        {"messages": [*ask("Hello"), {"role": "assistant", "content": "Hi"}, *ask(QUESTION)]},
        {"model": "docs"},
        {"max_tokens": 5},
        {"grounding": {"top_k": 3}},
        {"grounding": {"mode": "assist"}},
        {"seed": 7},
    ],
    ids=["system", "history", "model", "max_tokens", "top_k", "mode", "seed"],
)
async def test_another_request_is_not_the_same_question(cached: Cached, members: dict[str, Any]) -> None:
    await cached.suite.complete(model="grounded")
    _, info = await cached.suite.complete(**{"model": "grounded", **members})
    assert info.cache != "hit"
    assert info.cache != "semantic"


async def test_changed_sources_end_what_was_kept(cached: Cached) -> None:
    await cached.suite.complete(model="grounded")
    await cached.store.invalidate(OTHER_TENANT, SOURCES)
    _, info = await cached.suite.complete(model="grounded")
    assert info.cache == "hit"
    await cached.replica().invalidate(CALLER.tenant(), SOURCES)
    _, info = await cached.suite.complete(model="grounded")
    assert info.cache == "miss"


async def test_answer_whose_source_is_gone_is_not_given_again(cached: Cached) -> None:
    """Even before anybody told that the sources changed."""
    await cached.suite.complete(model="grounded")
    cached.suite.retrieval.passages.clear()
    answer, info = await cached.suite.complete(model="grounded")
    assert info.cache == "miss"
    assert info.answer_mode == "abstained"
    assert answer["choices"][0]["message"].get("annotations") == []
    cached.suite.retrieval.passages.extend(PASSAGES)


async def test_day_and_time_end_what_was_kept(cached: Cached) -> None:
    await cached.suite.complete(model="grounded")
    cached.clock.advance(24 * 3600)
    _, info = await cached.suite.complete(model="grounded")
    assert info.cache == "miss"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, ["", ""]),
        ({"temperature": 0}, ["miss", "hit"]),
        ({"temperature": 0.7}, ["", ""]),
        ({"temperature": 0.7, "cache": "exact"}, ["miss", "hit"]),
        ({"temperature": 0, "cache": "off"}, ["", ""]),
        ({"temperature": 0, "n": 2}, ["", ""]),
        ({"temperature": 0, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, ["", ""]),
    ],
)
async def test_provider_models_are_kept_only_where_no_chance_is_wanted(
    cached: Cached, members: dict[str, Any], expected: list[str]
) -> None:
    found = [(await cached.suite.complete(**members))[1].cache for _ in range(2)]
    assert found == expected


async def test_cut_answer_is_not_kept(cached: Cached) -> None:
    cached.suite.a.script(tokens=["half"], finish_reason="length")
    await cached.suite.complete(temperature=0)
    _, info = await cached.suite.complete(temperature=0)
    assert info.cache == "miss"


async def test_quotes_that_stood_in_for_a_provider_are_not_kept(cached: Cached) -> None:
    cached.suite.a.script(status=500)
    cached.suite.b.script(status=500)
    _, info = await cached.suite.complete(model="grounded")
    assert info.answer_mode == "extractive"
    cached.suite.a.script(tokens=[ANSWER])
    _, info = await cached.suite.complete(model="grounded")
    assert (info.cache, info.answer_mode) == ("miss", "generated")


async def test_many_callers_with_one_question_cause_one_generation(cached: Cached) -> None:
    cached.suite.a.script(tokens=["slow ", "answer"], token_delay=0.05)
    answers = await asyncio.gather(*(cached.suite.complete(temperature=0) for _ in range(20)))
    assert cached.suite.a.started == 1
    assert sorted(info.cache for _, info in answers) == ["hit"] * 19 + ["miss"]
    assert {answer["choices"][0]["message"]["content"] for answer, _ in answers} == {"slow answer"}


async def test_failed_maker_lets_the_next_one_try(cached: Cached) -> None:
    cached.suite.a.enqueue(status=400)
    with pytest.raises(WireroomError):
        await cached.suite.complete(temperature=0)
    _, info = await cached.suite.complete(temperature=0)
    assert info.cache == "miss"


async def test_entries_are_unreadable_without_the_secret(cached: Cached) -> None:
    await cached.suite.complete(model="grounded")
    names = [name async for name in cached.client.scan_iter("wireroom:cache:chat.answers:*")]
    values = [await cached.client.get(name) for name in names if b":tag:" not in name]
    assert values
    assert all(b"Aurora" not in value for value in values)
    cached.suite.completing = cached.suite.build(cache=cached.cache(cached.replica(b"another master secret, also long enough")))
    _, info = await cached.suite.complete(model="grounded")
    assert info.cache == "miss"


async def test_without_the_store_every_question_is_answered_anew(cached: Cached) -> None:
    cached.client = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2)
    cached.restart()
    for _ in range(2):
        answer, info = await cached.suite.complete(model="grounded")
        assert info.cache in ("", "miss")
        assert "14 litres" in answer["choices"][0]["message"]["content"]
    assert cached.suite.a.started == 2
