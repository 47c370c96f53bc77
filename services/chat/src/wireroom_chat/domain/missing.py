"""What a question asks for and no source mentions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from wireroom_chat.domain.passages import Passage
from wireroom_chat.domain.terms import Terms

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:[-'\u2019][^\W_]+)*")
_MAX = 5
_LONGEST = 60


def missing_terms(question: str, passages: Iterable[Passage], terms: Terms) -> tuple[str, ...]:
    """Words of the question, those that stand together as one, that none of the passages and their titles holds; the first five."""
    known: set[str] = set()
    for passage in passages:
        known.update(terms.content(f"{passage.title} {passage.text}"))
    asked = set(terms.question(question))
    found: list[str] = []
    end = -1
    for match in _WORD.finditer(question):
        stems = set(terms.content(match.group()))
        if not stems & asked or stems & known:
            continue
        if found and question[end : match.start()].isspace() and len(found[-1]) + len(match.group()) < _LONGEST:
            found[-1] = f"{found[-1]} {match.group()}"
        else:
            found.append(match.group()[:_LONGEST])
        end = match.end()
    return tuple(dict.fromkeys(found))[:_MAX]


def told(abstention: str, missing: tuple[str, ...]) -> str:
    """The sentence that abstains, with what is missing."""
    if not missing:
        return f"{abstention} They mention its words, but no passage states the answer."
    return f"{abstention} They do not mention: {'; '.join(missing)}."
