"""What is counted where a provider does not tell what it used."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wireroom_chat.domain.pricing import media_tokens, prompt_bound
from wireroom_chat.domain.providers import ProviderModel
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.domain.token_estimate import answer_texts, answer_tokens, request_tokens, text_tokens

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}
TEXTS = st.one_of(st.text(), st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)), st.text("ab \n.é数"))


def test_ordinary_text_counts_its_words() -> None:
    text = "The Aurora pump delivers 14 litres per minute, says Müller; “it's loud” — until 2026.\n\n    Then it stops."
    assert text_tokens(text) == count_tokens(text)


@pytest.mark.parametrize(
    "text",
    [
        "这是一个非常长的句子" * 100,
        "これはとても長い文章です" * 100,
        base64.b64encode(bytes(range(256)) * 10).decode(),
        " " * 4000,
    ],
    ids=["chinese", "japanese", "base64", "blanks"],
)
def test_text_without_words_counts_by_its_bytes(text: str) -> None:
    assert text_tokens(text) >= len(text.encode()) // 4
    # Also where words stand around it.
    assert text_tokens("a b c " * 1000 + text) >= 3000 + len(text.encode()) // 4


@given(TEXTS)
def test_count_lies_between_words_and_bytes(text: str) -> None:
    assert count_tokens(text) <= text_tokens(text) <= len(text.encode())


@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans())
def test_count_of_a_request_is_within_its_bound(texts: list[str], pictured: bool) -> None:  # noqa: FBT001 - drawn
    messages: list[dict[str, Any]] = [{"role": "user", "content": text} for text in texts]
    if pictured:
        messages.append({"role": "user", "content": [{"type": "text", "text": texts[0]}, PICTURE]})
    assert request_tokens({"messages": messages}) <= prompt_bound({"messages": messages}, ProviderModel("p", "m"))


def test_request_counts_everything_that_the_model_reads() -> None:
    assert request_tokens({"messages": [{"role": "user", "content": "one two three"}]}) == 3
    assert request_tokens({"messages": [{"role": "user", "name": "anna", "content": "one two three"}]}) == 4
    picture = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "what is it"}]}]
    assert media_tokens(picture) == 4096
    assert request_tokens({"messages": picture}) == 4096 + 3
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "word " * 100}}
    asked = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert request_tokens({"messages": asked}) == 102
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 4000}}]
    assert request_tokens({"messages": [], "tools": tools}) >= 1000


def test_answer_counts_everything_that_the_model_writes() -> None:
    arguments = json.dumps({"x": "word " * 50})
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    for part, texts in [
        ({"role": "assistant", "content": ""}, []),
        ({"content": "one two"}, ["one two"]),
        ({"role": "assistant", "content": "one", "refusal": "no"}, ["one", "no"]),
        ({"content": None, "reasoning_content": "hm", "reasoning": "hm"}, ["hm"]),
        ({"tool_calls": [call]}, ["look", arguments]),
        ({"function_call": {"name": "look", "arguments": "{}"}}, ["look", "{}"]),
        ({"audio": {"id": "a", "data": "AAAA", "transcript": "spoken words"}}, ["spoken words"]),
        ({"content": [{"type": "text", "text": "a part"}]}, ["a part"]),
        ({"tool_calls": "broken", "audio": 7, "function_call": [None], "content": 3}, []),
    ]:
        assert sorted(answer_texts(part)) == sorted(texts), part
        assert answer_tokens(part) == sum(map(text_tokens, texts))
