"""Several providers behind one name: what a caller sees and what is booked when one of them fails, at whichever token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
from chat_harness import CALLER, ask
from failover_rig import QUESTION, TOKENS, Suite, body_of, reasons_of, suite_of, text_of

from wireroom_chat.domain.continuation import CONTINUE
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.usecases.quoting import NO_PROVIDER
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase


@pytest_asyncio.fixture
async def suite(migrated_database: MigratedDatabase) -> AsyncIterator[Suite]:
    async with suite_of(await migrated_database("chat")) as made:
        yield made


@pytest.mark.parametrize("prefill", [False, True])
async def test_stream_cut_at_any_token_is_continued_by_the_next_provider(suite: Suite, prefill: bool) -> None:  # noqa: FBT001 - a parameter
    suite.completing = suite.build(prefill=prefill)
    prompt = count_tokens(QUESTION)
    for cut in range(len(TOKENS) + 1):
        suite.a.script(tokens=TOKENS, cut_after=cut, prompt_tokens=prompt)
        suite.b.script(tokens=TOKENS[cut:], prompt_tokens=prompt)
        infos, chunks, _ = await suite.stream(stream_options={"include_usage": True})
        assert text_of(chunks) == "".join(TOKENS), cut
        assert reasons_of(chunks) == ["stop"], cut
        assert [info.path for info in infos] == [("a/m",), ("a/m", "b/m")], cut
        roles = [choice["delta"]["role"] for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("role")]
        assert roles == ["assistant"], cut
        assert chunks[-1]["usage"]["completion_tokens"] == len(TOKENS)
        assert len({chunk["id"] for chunk in chunks}) == 1
        sent = suite.b.requests[-1].body["messages"][1:]
        written = "".join(TOKENS[:cut])
        expected = [{"role": "assistant", "content": written}] if written else []
        if written and not prefill:
            expected.append({"role": "user", "content": CONTINUE})
        assert sent == expected, cut
    rows = await suite.usage()
    assert [row.number for row in rows] == [1, 2] * (len(TOKENS) + 1)
    first, second = rows[::2], rows[1::2]
    # A broken stream sends no usage: our own count, which is the provider's here.
    assert [row.tokens_out for row in first] == list(range(len(TOKENS) + 1))
    assert {row.tokens_in for row in first} == {prompt}
    assert [row.tokens_out for row in second] == [len(TOKENS) - cut for cut in range(len(TOKENS) + 1)]
    assert all(row.micros == row.tokens_in + 3 * row.tokens_out for row in rows)
    assert {(row.provider, row.status) for row in rows} == {("a", "failed"), ("b", "completed")}


async def test_continuation_that_repeats_the_end_is_joined_without_it(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=50)
    suite.b.script(tokens=TOKENS[45:])
    _, chunks, _ = await suite.stream()
    assert text_of(chunks) == "".join(TOKENS)


async def test_continuation_that_begins_anew_is_joined_without_the_repetition(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=50)
    suite.b.script(tokens=TOKENS)
    _, chunks, _ = await suite.stream()
    assert text_of(chunks) == "".join(TOKENS)


@pytest.mark.parametrize(
    "members",
    [
        {"disable_fallback": True},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
    ],
    ids=["disabled", "tools", "choices", "logprobs", "json"],
)
async def test_what_cannot_be_joined_ends_with_an_error_after_the_first_token(suite: Suite, members: dict[str, Any]) -> None:
    suite.a.script(tokens=TOKENS, cut_after=3)
    _, chunks, end = await suite.stream(**members)
    assert text_of(chunks).startswith(TOKENS[0])
    assert TOKENS[3] not in text_of(chunks)
    assert reasons_of(chunks) == []
    assert end is not None
    assert (end.status, end.error_kind, end.error_code) == ("failed", "unavailable", "provider_unavailable")
    assert suite.b.started == 0


async def test_before_the_first_token_even_tools_move_to_the_next_provider(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=0)
    suite.b.script(tokens=["ok"])
    _, chunks, _ = await suite.stream(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert text_of(chunks) == "ok"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_refusals_move_to_the_next_provider(suite: Suite, status: int, stream: bool) -> None:  # noqa: FBT001 - a parameter
    suite.a.script(status=status)
    suite.b.script(tokens=["from b"])
    if stream:
        _, chunks, _ = await suite.stream()
        assert text_of(chunks) == "from b"
    else:
        answer, info = await suite.complete()
        assert answer["choices"][0]["message"]["content"] == "from b"
        assert info.path == ("a/m", "b/m")
    assert [provider for provider, _ in suite.health.failures] == ["a"]
    assert suite.health.successes == ["b"]
    rows = await suite.usage()
    assert next((row.provider, row.tokens_in, row.tokens_out, row.micros) for row in rows) == ("a", 0, 0, 0)


async def test_request_that_is_wrong_is_asked_of_one_provider_only(suite: Suite) -> None:
    suite.a.script(status=400)
    with pytest.raises(WireroomError) as caught:
        await suite.complete()
    assert caught.value.code == "provider_rejected_request"
    assert suite.b.started == 0
    assert suite.health.failures == []
    # It has read what it refuses.
    assert suite.health.releases == [("a", True)]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_one_wire_cannot_say_is_asked_of_the_next_provider(suite: Suite, stream: bool) -> None:  # noqa: FBT001 - a parameter
    suite.speak_anthropic("a")
    suite.b.script(tokens=["from b"])
    if stream:
        _, chunks, _ = await suite.stream(logprobs=True)
        assert text_of(chunks) == "from b"
    else:
        answer, info = await suite.complete(logprobs=True)
        assert answer["choices"][0]["message"]["content"] == "from b"
        assert info.path == ("a/m", "b/m")
    assert suite.a.started == 0
    assert (suite.health.failures, suite.health.successes) == ([], ["b"])
    assert suite.health.releases == [("a", False)]


async def test_what_no_wire_can_say_is_refused_and_asked_once(suite: Suite) -> None:
    suite.speak_anthropic("a", "b")
    with pytest.raises(WireroomError) as caught:
        await suite.complete(logprobs=True)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "provider_unsupported")
    assert [row.provider for row in await suite.usage()] == ["a", "b"]


async def test_failure_of_the_one_that_could_is_what_is_told(suite: Suite) -> None:
    suite.speak_anthropic("b")
    suite.a.script(status=503)
    with pytest.raises(WireroomError) as caught:
        await suite.complete(logprobs=True)
    assert caught.value.code == "provider_unavailable"
    assert [row.provider for row in await suite.usage()] == ["a", "b", "a"]


async def test_fallback_that_is_disabled_is_not_used(suite: Suite) -> None:
    suite.a.script(status=500)
    with pytest.raises(WireroomError) as caught:
        await suite.complete(disable_fallback=True)
    assert caught.value.code == "provider_unavailable"
    assert suite.b.started == 0
    assert all("disable_fallback" not in request.body for request in suite.a.requests)


async def test_provider_in_cooldown_is_not_asked(suite: Suite) -> None:
    suite.health.blocked = {"a"}
    suite.b.script(tokens=["from b"])
    answer, _ = await suite.complete()
    assert answer["choices"][0]["message"]["content"] == "from b"
    assert suite.a.started == 0


async def test_second_round_finds_a_provider_that_came_back(suite: Suite) -> None:
    suite.a.enqueue(status=500)
    suite.a.script(tokens=["back"])
    suite.b.script(status=500)
    answer, info = await suite.complete()
    assert answer["choices"][0]["message"]["content"] == "back"
    assert info.path == ("a/m", "b/m", "a/m")


@pytest.mark.parametrize("model", ["pair", "grounded"])
@pytest.mark.parametrize("stream", [False, True])
async def test_all_providers_down_ends_in_quotes(suite: Suite, model: str, stream: bool) -> None:  # noqa: FBT001 - a parameter
    suite.a.script(status=500)
    suite.b.script(status=503)
    if stream:
        infos, chunks, _ = await suite.stream(model=model)
        content, mode = text_of(chunks), infos[0].answer_mode
        assert reasons_of(chunks) == ["stop"]
    else:
        answer, info = await suite.complete(model=model)
        content, mode = answer["choices"][0]["message"]["content"], info.answer_mode
    assert content.startswith(NO_PROVIDER)
    assert "The Aurora pump delivers 14 litres per minute. [1]" in content
    assert mode == "extractive"


@pytest.mark.parametrize("members", [{"disable_fallback": True}, {"messages": ask("Who won the tournament in Paris?")}, {"n": 2}])
async def test_all_providers_down_without_fitting_quotes_is_an_error(suite: Suite, members: dict[str, Any]) -> None:
    suite.a.script(status=500)
    suite.b.script(status=500)
    with pytest.raises(WireroomError) as caught:
        await suite.complete(**members)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert caught.value.retry_after


async def test_leaving_callers_stop_every_generation_and_each_is_booked(suite: Suite) -> None:
    """Callers that leave at random moments: nothing goes on generating, and each has its row."""
    prompt = count_tokens(QUESTION)
    suite.a.script(tokens=TOKENS, token_delay=0.002, prompt_tokens=prompt)
    leaving = 200

    async def leave(number: int) -> None:
        async with aclosing(suite.completing.stream(CALLER, body_of({}))) as frames:
            seen = 0
            async for _ in frames:
                seen += 1
                if seen > number % 40:
                    return

    await asyncio.gather(*(leave(number) for number in range(leaving)))
    await eventually(lambda: suite.a.live == 0, within=1.0)
    rows = await suite.usage()
    assert len(rows) == leaving
    assert {row.status for row in rows} == {"cancelled"}
    assert all(row.tokens_in == prompt for row in rows)


async def test_grounded_question_that_leans_on_earlier_ones_is_searched_with_their_topic(suite: Suite) -> None:
    history = [*ask("How much water does the Aurora pump deliver?"), {"role": "assistant", "content": "14 litres per minute."}]
    await suite.complete(model="grounded", messages=[*history, *ask("And what does its motor draw?")])
    sought = suite.retrieval.asked[-1][0]
    assert sought.startswith("And what does its motor draw?")
    assert "Aurora" in sought
