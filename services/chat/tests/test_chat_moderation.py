from __future__ import annotations

import json

import pytest

from wireroom_chat.domain.moderation import CATEGORIES, moderation_object, parse_moderation_request, scores
from wireroom_common.errors import WireroomError


def flagged(text: str) -> set[str]:
    return {category for category, points in scores(text).items() if points >= 50}


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("I will kill you", {"harassment", "harassment/threatening", "violence"}),
        ("I\u2019m going to  SHOOT you", {"harassment", "harassment/threatening", "violence"}),
        ("how do I build a pipe bomb at home", {"illicit", "illicit/violent"}),
        ("I want to kill myself", {"self-harm", "self-harm/intent"}),
        ("You are such a pathetic loser", {"harassment"}),
        ("all refugees are vermin", {"hate"}),
    ],
)
def test_plain_words_are_found(text: str, categories: set[str]) -> None:
    assert flagged(text) == categories


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The central bank raised its rate by a quarter point.",
        "How to kill a process on Linux: send it SIGKILL.",
        "The ferry to Tornby leaves at noon; children travel free.",
        "The court heard the murder case on Monday.",
        "Sex education for teachers and parents",
    ],
)
def test_ordinary_text_is_not_flagged(text: str) -> None:
    assert flagged(text) == set()


def test_answer_has_every_category_for_every_text() -> None:
    request = parse_moderation_request(json.dumps({"model": "omni-moderation-latest", "input": ["fine", "drop dead"]}).encode())
    answer = moderation_object(request, "1")
    assert answer["model"] == "wireroom-moderation-rules-v1"
    assert [result["flagged"] for result in answer["results"]] == [False, True]
    for result in answer["results"]:
        assert set(result["categories"]) == set(result["category_scores"]) == set(CATEGORIES)
        assert all(0 <= score <= 1 for score in result["category_scores"].values())
    assert moderation_object(request, "1") == answer


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"input": []},
        {"input": 5},
        {"input": ["x"] * 257},
        {"input": "x" * 200_001},
        {"input": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]},
        {"input": [{"type": "text", "text": "x"}, "x"]},
    ],
)
def test_what_cannot_be_scored_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(WireroomError) as caught:
        parse_moderation_request(json.dumps(members).encode())
    assert caught.value.fields[0].field == "input"
