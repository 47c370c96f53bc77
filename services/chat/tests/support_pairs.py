"""Labelled claims: what a passage bears out, and what it does not and why.

The files are plain text: `# title`, `> passage`, then `+ claim` for what it bears out and `-kind claim` for what it does not. The cosines
of each claim with the passage's quotes stand beside them in `support_cosines.json`, written by `scripts/calibrate_support.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from wireroom_chat.domain.passages import Citation, Passage, SourceKind
from wireroom_chat.domain.support import SupportRules
from wireroom_chat.domain.verification import evidence_quotes

FIXTURES = Path(__file__).parent / "fixtures"
COSINES = FIXTURES / "support_cosines.json"


@dataclass(frozen=True)
class Pair:
    """`kind`: what is wrong with the claim; empty where nothing is."""

    title: str
    text: str
    claim: str
    kind: str

    @property
    def key(self) -> str:
        """Of its cosines: the same claim may be made of several texts."""
        return f"{self.title}: {self.claim}"

    def citations(self) -> list[Citation]:
        found = Passage("p", "d", 1, SourceKind.DOCUMENT, self.title, "", 1, 0, len(self.text), self.text, 0.03, 0.5, 2.0)
        quotes = evidence_quotes([found], 100)[1]
        return [Citation(quote, str(number)) for number, quote in enumerate(quotes)]


def pairs(name: str) -> list[Pair]:
    found: list[Pair] = []
    title = text = ""
    for line in (FIXTURES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        head, rest = line[:1], line[1:].strip()
        if head == "#":
            title = rest
        elif head == ">":
            text = rest
        elif head == "+":
            found.append(Pair(title, text, rest, ""))
        elif head == "-":
            kind, _, claim = rest.partition(" ")
            found.append(Pair(title, text, claim, kind))
    return found


def cosines() -> Mapping[str, Sequence[float]]:
    """Of each pair, by its key, the claim with the quotes of its passage, in their order."""
    found: dict[str, list[float]] = orjson.loads(COSINES.read_bytes())
    return found


def scores(rules: SupportRules, pair: Pair, near: Sequence[float]) -> tuple[float, float]:
    """The best score with vectors and the best share of words; zero where the rules forbid all evidence."""
    claim = rules.read(pair.claim)
    best = words = 0.0
    for citation, cosine in zip(pair.citations(), near, strict=True):
        for evidence in rules.evidence(citation):
            match = rules.match(claim, evidence)
            if match is not None:
                best = max(best, rules.score(match.words, cosine))
                words = max(words, match.words)
    return best, words
