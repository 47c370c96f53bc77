"""How well a passage bears out a claim: words, figures, names and polarity by rules, closeness in meaning by vectors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from wireroom_chat.domain.agreement import disagreement
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.quotations import plain, quoted, stands_in
from wireroom_chat.domain.sentences import trimmed
from wireroom_chat.domain.statements import Statement, StatementReader

NOTHING: frozenset[str] = frozenset()


class Check(StrEnum):
    """How a citation was checked."""

    # What the sentence says between quotation marks, or all of it, stands there word for word.
    QUOTE = "quote"
    # Words and meaning.
    SIMILAR = "similar"
    # Words alone: there were no vectors in time.
    WORDS = "words"


@dataclass(frozen=True)
class Thresholds:
    """Fitted by `scripts/calibrate_support.py`: of the calibration pairs nothing passes that is not borne out, where 98 % were wanted.

    `weight` is that of the words in the score, the rest that of the cosine. `least_words`: below this share of the claim's words no
    cosine helps.
    """

    weight: float = 0.8
    support: float = 0.84
    words_alone: float = 0.86
    least_words: float = 0.6
    # In evidence of two sentences, the one that the rules look at must hold this share of the words.
    main: float = 0.6


@dataclass(frozen=True)
class Evidence:
    """One sentence that may be cited, alone or (`citation` spans both) with its neighbour, whose words and names count, too."""

    citation: Citation
    main: Statement
    neighbour: Statement | None
    # Stems of the title.
    title: frozenset[str]

    @property
    def known(self) -> frozenset[str]:
        return self.title | (self.neighbour.stems if self.neighbour is not None else NOTHING)


@dataclass(frozen=True)
class Match:
    """Evidence that no rule forbids. `words`: the share of the claim's words that stand there."""

    evidence: Evidence
    words: float


class SupportRules:
    """The part of the check that needs no vectors. Not for use from several threads at once."""

    def __init__(self, reader: StatementReader, thresholds: Thresholds | None = None) -> None:
        self._reader = reader
        self.thresholds = thresholds or Thresholds()

    def evidence(self, citation: Citation) -> list[Evidence]:
        """Ways to read a quote of one or two sentences as evidence."""
        quote = citation.quote
        title = frozenset(self._reader.read(quote.passage.title).stems)
        found = [self._reader.read(quote.text[start:end]) for start, end in trimmed(quote.text)]
        if not found:
            return []
        if len(found) == 1:
            return [Evidence(citation, found[0], None, title)]
        return [Evidence(citation, found[1], found[0], title), Evidence(citation, found[0], found[1], title)]

    def read(self, claim: str) -> Statement:
        """The claim, once for all its evidence."""
        return self._reader.read(claim)

    def match(self, claim: Statement, evidence: Evidence) -> Match | None:
        """How the words fit; None where a rule forbids it or too few do."""
        if not claim.stems:
            return None
        around = evidence.known
        here = len(claim.stems & evidence.main.stems)
        words = len(claim.stems & (evidence.main.stems | around)) / len(claim.stems)
        if words < self.thresholds.least_words:
            return None
        if evidence.neighbour is not None and here / len(claim.stems) < self.thresholds.main:
            return None
        if disagreement(claim, evidence.main, around):
            return None
        return Match(evidence, words)

    def score(self, words: float, cosine: float) -> float:
        """0 to 1."""
        weight = self.thresholds.weight
        return weight * words + (1 - weight) * max(0.0, cosine)


def quotes_hold(claim: str, source: str) -> bool | None:
    """Whether everything that the claim quotes stands in the source; None where it quotes nothing."""
    quotes = quoted(claim)
    if not quotes:
        return None
    text = plain(source)
    return all(stands_in(quote, text) for quote in quotes)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of unit vectors."""
    return float(sum(map(operator.mul, one, other)))
