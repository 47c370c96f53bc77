"""Which sentences of the sources answer a question, if any: term coverage times source score, made diverse by MMR."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wireroom_chat.domain.missing import missing_terms
from wireroom_chat.domain.passages import Passage, Quote
from wireroom_chat.domain.sentences import trimmed
from wireroom_chat.domain.terms import Terms

_MAX_SENTENCE = 1200
_MIN_WORDS = 3
_MAX_CANDIDATES = 600
_DUPLICATE = 0.8
_MAX_PARTS = 4
_MIN_PART_TERMS = 2
_PART_BORDER = re.compile(
    r"(?:[,;]\s*+|(?<!\s)\s++)(?:and|or|but)\s++(?=(?:what|who|whom|whose|which|when|where|why|how|do|does|did|is|are|was|were|can|could|will|would"
    r"|should|has|have|had|may|must)\b)|(?<=\?)\s+",
    re.IGNORECASE,
)
_WANTS_NUMBER = re.compile(
    r"\b(?:when|costs?"
    r"|how (?:many|much|long|old|often|far|fast|large|big|high|tall|deep|heavy|wide)|what (?:year|date|percentage|share|time))\b",
    re.IGNORECASE,
)
_HAS_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand|million|billion|half|third"
    r"|quarter|dozen|twice|once|daily|weekly|monthly|annually|yearly|january|february|march|april|may|june|july|august|september|october"
    r"|november|december|monday|tuesday|wednesday|thursday|friday|saturday|sunday|today|yesterday|morning|evening|noon|midnight)\b",
    re.IGNORECASE,
)
# The first of a line's beginnings goes with the first end behind it, if any does: no expression that tries all pairs of them.
_EXPENSIVE = re.compile(r"\bhow expensive\b", re.IGNORECASE)
_MONEY_ASKED = (
    (re.compile(r"\bhow much\b", re.IGNORECASE), re.compile(r"\bcosts?\b", re.IGNORECASE)),
    (re.compile(r"\bwhat\b", re.IGNORECASE), re.compile(r"\b(?:price|cost)\b", re.IGNORECASE)),
)
_WANTS_YEAR = re.compile(r"\b(?:what|which) year\b", re.IGNORECASE)
_HAS_YEAR = re.compile(r"\b(?:1[0-9]|20)\d\d\b|\b(?:last|this|next) year\b", re.IGNORECASE)
_HAS_MONEY = re.compile(
    r"[$€£¥]|\b(?:euros?|dollars?|pounds?|yen|francs?|crowns?|kron[aeo]r?|cents?|eur|usd"
    r"|gbp|chf|free of charge|costs? nothing)\b"
    # What credit costs is said as a rate.
    r"|\b(?:costs?|charges?|charged)\s+(?:(?:about|around|up|to|at|from|between|only|is|are)\s+)*\d[\d.,]*\s*(?:%|per\s?cent\b)"
    r"|\b(?:interest|rates?|fees?|commission)\b(?:\W+\w+){0,4}?\W+(?:is|are|of|at|from)\W+(?:\w+\s+){0,2}\d[\d.,]*\s*(?:%|per\s?cent\b)"
    r"|\d\s*(?:%|per\s?cent)\s+(?:interest|fee|commission)\b",
    re.IGNORECASE,
)
# "How much water ...": a sentence that measures it ("14 litres") need not name it.
_MEASURED = re.compile(r"\bhow\s+much\s+([^\W\d_]+)", re.IGNORECASE)
_WANTS_NAME = re.compile(r"^\W*(?:who|whom|whose)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Calibration:
    """When evidence is strong enough to be quoted. Fitted on the labelled questions in the tests; coverage is 0..1, dense a cosine."""

    # A sentence needs this much coverage when its passage is close in meaning …
    coverage: float = 0.6
    dense: float = 0.35
    # … and this much when it is not, or was found by words only.
    coverage_alone: float = 0.8
    # Very close passages may be worded differently.
    dense_close: float = 0.6
    coverage_close: float = 0.55
    # Credit of a term that stands in the title or in a neighbouring sentence instead of the sentence.
    title_credit: float = 0.7
    neighbour_credit: float = 0.4
    # What is left of the coverage when a figure, a date or a price was asked for and the sentence has none.
    wrong_type: float = 0.5
    # As much more is needed where a word of the question stands in no passage at all, unless the passage is very close.
    absent: float = 0.1
    # The same where a person was asked for; milder, because a role ("the landlord") may be the answer.
    no_name: float = 0.85
    # Further sentences must come this near to the best one.
    relative: float = 0.75
    diversity: float = 0.3
    max_quotes: int = 4
    # Below both, the passages are too far from the question even for a model that writes its own words.
    weak_dense: float = 0.25
    weak_coverage: float = 0.3


@dataclass(frozen=True)
class _Candidate:
    quote: Quote
    rank: int
    terms: frozenset[str]
    coverage: float
    relevance: float
    absent: bool


class QuoteSelector:
    """Selects verbatim sentences."""

    def __init__(self, terms: Terms, calibration: Calibration | None = None) -> None:
        self._terms = terms
        self._calibration = calibration or Calibration()

    def select(self, question: str, passages: Sequence[Passage], focus: str = "") -> list[Quote]:
        """The quotes that answer, the best document's first and those of a document in its order; empty when the evidence is weak."""
        return self.answer(question, passages, focus)[0]

    def answer(self, question: str, passages: Sequence[Passage], focus: str = "") -> tuple[list[Quote], tuple[str, ...]]:
        """The quotes, and what was asked for and stands in no passage, or the parts of the question that none answers.

        `focus`: what was asked of it, where `question` names its topic, too: what says something of the topic only is left out then,
        unless nothing else is found.

        A question of several parts ("what does it cost, and when is it due?") is answered part by part: no sentence needs to
        cover them all. A part without evidence stays unanswered.
        """
        chosen: list[Quote] = []
        missing: list[str] = []
        parts = self._parts(question)
        for part in parts:
            found = self._select_for(part, passages)
            chosen += found
            if not found:
                # The part itself where its words stand somewhere, but nothing answers it.
                missing += missing_terms(part, passages, self._terms) or ([part.strip(" ,;")] if len(parts) > 1 else [])
        quotes = _in_reading_order(self._distinct(chosen), passages)
        asked = set(self._terms.question(focus))
        focused = [quote for quote in quotes if asked.intersection(self._terms.content(quote.text))] or quotes
        return focused, tuple(dict.fromkeys(missing))

    def _distinct(self, quotes: Sequence[Quote]) -> list[Quote]:
        """Without those that say nearly the same as an earlier one: passages overlap, and documents repeat each other."""
        kept: list[tuple[Quote, frozenset[str]]] = []
        for quote in quotes:
            terms = frozenset(self._terms.content(quote.text))
            numbers = self._terms.numbers(quote.text)
            if all(
                _similarity(terms, other) < _DUPLICATE or numbers != self._terms.numbers(earlier.text) for earlier, other in kept
            ):
                kept.append((quote, terms))
        return [quote for quote, _ in kept]

    def _parts(self, question: str) -> list[str]:
        parts = [part for part in _PART_BORDER.split(question) if part.strip()]
        # A remnant with a single word of its own ("and why?") only makes sense together with the rest.
        if len(parts) > _MAX_PARTS or any(len(self._terms.question(part)) < _MIN_PART_TERMS for part in parts):
            return [question]
        return parts

    def _select_for(self, question: str, passages: Sequence[Passage]) -> list[Quote]:
        calibration = self._calibration
        strong = [candidate for candidate in self._candidates(question, passages) if self._suffices(candidate)]
        if not strong:
            return []
        best = max(candidate.relevance for candidate in strong)
        chosen: list[_Candidate] = []
        pool = [candidate for candidate in strong if candidate.relevance >= calibration.relative * best]
        while pool and len(chosen) < calibration.max_quotes:

            def gain(candidate: _Candidate) -> float:
                overlap = max((_similarity(candidate.terms, other.terms) for other in chosen), default=0.0)
                return (1 - calibration.diversity) * candidate.relevance - calibration.diversity * best * overlap

            pick = max(pool, key=gain)
            pool.remove(pick)
            if all(_similarity(pick.terms, other.terms) < _DUPLICATE for other in chosen):
                chosen.append(pick)
        return [candidate.quote for candidate in chosen]

    def is_weak(self, question: str, passages: Sequence[Passage]) -> bool:
        """Whether nothing retrieved has to do with the question."""
        calibration = self._calibration
        if not passages:
            return True
        if max(passage.dense_score for passage in passages) >= calibration.weak_dense:
            return False
        return (
            max((candidate.coverage for candidate in self._candidates(question, passages)), default=0.0)
            < calibration.weak_coverage
        )

    def _suffices(self, candidate: _Candidate) -> bool:
        calibration = self._calibration
        dense = candidate.quote.passage.dense_score
        if dense >= calibration.dense_close:
            return candidate.coverage >= calibration.coverage_close
        needed = calibration.coverage if dense >= calibration.dense else calibration.coverage_alone
        return candidate.coverage >= needed + (calibration.absent if candidate.absent else 0.0)

    def _candidates(self, question: str, passages: Sequence[Passage]) -> list[_Candidate]:
        wanted = self._terms.question(question)
        if not wanted:
            return []
        rows: list[tuple[int, Quote, frozenset[str], frozenset[str], frozenset[str]]] = []
        for rank, passage in enumerate(passages):
            title = frozenset(self._terms.content(passage.title))
            spans = [(start, end) for start, end in trimmed(passage.text) if end - start <= _MAX_SENTENCE]
            # The headline is shown as the source's title already; a passage that is nothing else may still be quoted.
            spans = [span for span in spans if passage.text[slice(*span)] != passage.title] or spans
            stems = [frozenset(self._terms.content(passage.text[start:end])) for start, end in spans]
            for index, (start, end) in enumerate(spans):
                near: frozenset[str] = frozenset().union(*stems[max(0, index - 1) : index], *stems[index + 1 : index + 2])
                rows.append((rank, Quote(passage, start, end), stems[index], title, near))
            if len(rows) >= _MAX_CANDIDATES:
                break
        weights = self._weights(wanted, [row[2] | row[3] for row in rows])
        total = sum(weights.values())
        absent = {term for term in wanted if all(term not in row[2] and term not in row[3] for row in rows)}
        measured = {stem for match in _MEASURED.finditer(question) for stem in self._terms.content(match.group(1))}
        top_score = max((passage.score for passage in passages), default=0.0) or 1.0
        result = []
        for rank, quote, terms, title, near in rows:
            if len(terms) < _MIN_WORDS or quote.text.endswith("?"):
                continue
            coverage = self._coverage(weights, terms, title, near) / total * self._type_factor(question, quote.text)
            source = 0.5 + 0.25 * max(0.0, quote.passage.score) / top_score + 0.25 * max(0.0, quote.passage.dense_score)
            lacking = bool(absent - measured if _HAS_NUMBER.search(quote.text) else absent)
            result.append(_Candidate(quote, rank, terms, coverage, coverage * source, lacking))
        return result

    def _coverage(self, weights: dict[str, float], terms: frozenset[str], title: frozenset[str], near: frozenset[str]) -> float:
        calibration = self._calibration
        covered = 0.0
        for term, weight in weights.items():
            if term in terms:
                covered += weight
            elif term in title:
                covered += weight * calibration.title_credit
            elif term in near:
                covered += weight * calibration.neighbour_credit
        return covered

    def _type_factor(self, question: str, sentence: str) -> float:
        if wants_money(question) and not _HAS_MONEY.search(sentence):
            return self._calibration.wrong_type
        if _WANTS_YEAR.search(question) and not _HAS_YEAR.search(sentence):
            return self._calibration.wrong_type
        if _WANTS_NUMBER.search(question) and not _HAS_NUMBER.search(sentence):
            return self._calibration.wrong_type
        if _WANTS_NAME.match(question) and not self._terms.names(sentence):
            return self._calibration.no_name
        return 1.0

    @staticmethod
    def _weights(wanted: Sequence[str], rows: Sequence[frozenset[str]]) -> dict[str, float]:
        """Rare words weigh more; one that nothing retrieved contains weighs most."""
        count = len(rows)
        return {term: math.log(1 + (count + 1) / (0.5 + sum(term in row for row in rows))) for term in wanted}


def _in_reading_order(quotes: Sequence[Quote], passages: Sequence[Passage]) -> list[Quote]:
    best: dict[tuple[str, int], int] = {}
    for rank, passage in enumerate(passages):
        best.setdefault((passage.document_id, passage.version), rank)
    return sorted(
        quotes, key=lambda quote: (best[quote.passage.document_id, quote.passage.version], quote.passage.start + quote.start)
    )


def _similarity(one: frozenset[str], other: frozenset[str]) -> float:
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def wants_money(question: str) -> bool:
    """Whether an amount of money answers it."""
    if _EXPENSIVE.search(question):
        return True
    return any(
        (begins := begin.search(line)) is not None and end.search(line, begins.end()) is not None
        for line in question.split("\n")
        for begin, end in _MONEY_ASKED
    )
