"""Labelled questions over a fixture corpus; cosines come from the embedding model that the rag service runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from chat_harness import FIXTURES, passage

from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.intent import needs_generation
from wireroom_chat.domain.passages import Passage, SourceKind
from wireroom_chat.domain.terms import Terms

DATA: dict[str, Any] = orjson.loads((FIXTURES / "labelled_questions.json").read_bytes())
TERMS = Terms()


def retrieved(question: str, dense: list[float]) -> list[Passage]:
    """The eight best of reciprocal rank fusion over cosine and shared words, as the rag service would give them."""
    stored = DATA["passages"]
    wanted = set(TERMS.question(question))
    shared = [len(wanted & set(TERMS.content(f"{item['title']} {item['text']}"))) for item in stored]
    scores = dict.fromkeys(range(len(stored)), 0.0)
    for rank, index in enumerate(sorted(scores, key=lambda index: -dense[index]), start=1):
        scores[index] += 1 / (60 + rank)
    for rank, index in enumerate(sorted((index for index in scores if shared[index]), key=lambda index: -shared[index]), start=1):
        scores[index] += 1 / (60 + rank)
    return [
        passage(
            index,
            stored[index]["text"],
            title=stored[index]["title"],
            kind=SourceKind(stored[index]["kind"]),
            score=scores[index],
            dense_score=dense[index],
            lexical_score=float(shared[index]),
        )
        for index in sorted(scores, key=lambda index: -scores[index])[:8]
    ]


@dataclass(frozen=True)
class Rates:
    answerable: int
    answered: int
    right: int
    unanswerable: int
    abstained: int


def measure(prefix: str) -> Rates:
    selector = QuoteSelector(TERMS)
    answered = right = abstained = 0
    for item in DATA[f"{prefix}answerable"]:
        quotes = selector.select(item["question"], retrieved(item["question"], item["dense"]))
        assert all(quote.text in quote.passage.text for quote in quotes)
        answered += bool(quotes)
        right += any(item["contains"] in quote.text for quote in quotes)
    for item in DATA[f"{prefix}unanswerable"]:
        abstained += not selector.select(item["question"], retrieved(item["question"], item["dense"]))
    return Rates(len(DATA[f"{prefix}answerable"]), answered, right, len(DATA[f"{prefix}unanswerable"]), abstained)


@pytest.mark.parametrize(("prefix", "least_right", "least_abstained"), [("", 0.9, 0.95), ("held_out_", 0.75, 0.85)])
def test_answerable_questions_are_quoted_and_others_abstained_from(
    prefix: str, least_right: float, least_abstained: float
) -> None:
    rates = measure(prefix)
    print(f"\n{prefix or 'calibration'}: {rates}")  # noqa: T201 - the rates are the report
    assert rates.right >= least_right * rates.answerable
    assert rates.abstained >= least_abstained * rates.unanswerable


def test_only_prompts_for_generation_are_taken_for_such() -> None:
    groups = ("answerable", "unanswerable", "held_out_answerable", "held_out_unanswerable")
    assert [prompt for prompt in DATA["generation"] if not needs_generation(prompt)] == []
    assert [item["question"] for group in groups for item in DATA[group] if needs_generation(item["question"])] == []
