"""How well a passage bears out a claim: words, figures, names and polarity by rules, closeness in meaning by vectors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from wireroom_chat.domain.agreement import disagreement
from wireroom_chat.domain.clauses import clauses
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.quotations import plain, quoted, stands_in
from wireroom_chat.domain.sentences import trimmed
from wireroom_chat.domain.statements import Statement, StatementReader
from wireroom_chat.domain.wordings import ENGLISH, says_the_same, wording

NOTHING: frozenset[str] = frozenset()
# At the beginning of a sentence they name no new thing: they are about what the sentence before says is to be made or done.
_REFERRING = frozenset(["construct", "work", "project", "scheme", "undertak"])


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
    """One sentence that may be cited, alone or (`citation` spans both) with its neighbour, whose words and names count, too.

    `resolved`: `main` is without its subject, which stands for something in the neighbour, as a pronoun would.
    """

    citation: Citation
    main: Statement
    neighbour: Statement | None
    # Stems of the title.
    title: frozenset[str]
    resolved: bool = False

    @property
    def is_english(self) -> bool:
        """Whether its sentence is, or, where that is too short to tell, what it stands in."""
        return (self.main.wording.language or wording(self.citation.quote.passage.text).language) == ENGLISH

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
        texts = [quote.text[start:end] for start, end in trimmed(quote.text)]
        found = [self._reader.read(text) for text in texts]
        if not found:
            return []
        first = [self._reader.read(clause) for clause in clauses(texts[0])]
        if len(found) == 1:
            # A later clause may mean what the first one names.
            return [
                Evidence(citation, found[0], None, title),
                *(Evidence(citation, clause, first[0] if place else None, title) for place, clause in enumerate(first)),
            ]
        before, after = found[0], found[1]
        ways = [Evidence(citation, after, before, title), Evidence(citation, before, after, title)]
        ways += [Evidence(citation, self._reader.read(clause), before, title) for clause in clauses(texts[1])[:1]]
        if after.order and after.order[0] in _REFERRING and after.order[0] not in before.stems:
            rest = after.order[1:]
            ways.append(Evidence(citation, replace(after, order=rest, stems=frozenset(rest)), before, title, resolved=True))
        return ways

    def read(self, claim: str) -> Statement:
        """The claim, once for all its evidence."""
        return self._reader.read(claim)

    def match(self, claim: Statement, evidence: Evidence) -> Match | None:
        """How the words fit; None where a rule forbids it or too few do.

        In other languages than English all must be there, in their order.
        """
        if not claim.stems:
            return None
        if evidence.is_english and claim.wording.language in ("", ENGLISH):
            return self._match_english(claim, evidence)
        same = evidence.neighbour is None and says_the_same(claim.wording, evidence.main.wording)
        return Match(evidence, 1.0) if same else None

    def _match_english(self, claim: Statement, evidence: Evidence) -> Match | None:
        around = evidence.known
        here = len(claim.stems & evidence.main.stems)
        words = len(claim.stems & (evidence.main.stems | around)) / len(claim.stems)
        if words < self.thresholds.least_words:
            return None
        if evidence.neighbour is not None:
            if evidence.resolved:
                if not _is_object(claim, evidence.main, evidence.neighbour):
                    return None
            elif here / len(claim.stems) < self.thresholds.main:
                return None
        if disagreement(claim, evidence.main, around):
            return None
        return Match(evidence, words)

    def score(self, words: float, cosine: float) -> float:
        """0 to 1."""
        weight = self.thresholds.weight
        return weight * words + (1 - weight) * max(0.0, cosine)


def _is_object(claim: Statement, main: Statement, neighbour: Statement) -> bool:
    """Whether the claim begins with what the neighbour says something is done to, and goes on as `main` does."""
    own = next((place for place, stem in enumerate(claim.order) if stem in main.stems), 0)
    subject = claim.order[:own]
    if not subject or neighbour.order.count(subject[0]) != 1:
        return False
    place = neighbour.order.index(subject[0])
    if neighbour.order[place : place + own] != subject or set(subject) <= neighbour.names:
        return False
    # Who does it stands first, and what it is done to stands first in the passive.
    return (place == 0) == neighbour.passive and claim.order[own:] == main.order[: len(claim.order) - own]


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
