"""Checks the sentences of an answer against the passages that they cite, and says what of them may be shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wireroom_chat.domain.answer import Piece
from wireroom_chat.domain.markers import CodeFences, Marked
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.quotations import plain, quoted, stands_in
from wireroom_chat.domain.request import Grounding, GroundingMode
from wireroom_chat.domain.statements import Statement, StatementReader
from wireroom_chat.domain.support import Check, Evidence, Match, SupportRules, cosine, quotes_hold
from wireroom_chat.domain.terms import Terms
from wireroom_chat.ports.retrieval import TextVectors
from wireroom_common.errors import WireroomError

FLAG = "(unverified)"
# Of each cited passage as much of the evidence is compared by vectors, and of all that a sentence cites.
_MAX_COMPARED = 4
_MAX_CITED = 4
# Not a statement, and what the prompt asks for where there is nothing to say.
_REFUSAL = re.compile(r"\W*(?:the |these )?sources? (?:do|does) not (?:say|answer|mention|state|contain)\b", re.IGNORECASE)
_EDGE = " .,;:!?\"'¡¿。\uff01\uff1f؟।"


@dataclass(frozen=True)
class Checking:
    """What checks need, for all answers. `seconds`: how long one sentence waits for vectors; without them words decide alone."""

    terms: Terms
    vectors: TextVectors | None = None
    seconds: float = 1.0

    def rules(self) -> SupportRules:
        """The rules on these terms."""
        return SupportRules(StatementReader(self.terms))


class SentenceChecker:
    """For one answer. `evidence`: citations, by number of their passage, that are known to stand in the stored texts."""

    def __init__(self, checking: Checking, evidence: Mapping[int, Sequence[Citation]], grounding: Grounding) -> None:
        self._rules = checking.rules()
        self._vectors = checking.vectors
        self._seconds = checking.seconds
        self._citations = evidence
        self._grounding = grounding
        self._read: dict[int, list[Evidence]] = {}
        self._kept: dict[str, Sequence[float]] = {}
        self._fences = CodeFences()

    async def check(self, sentence: str) -> Piece | None:
        """The sentence with the markers that hold; None where it is dropped."""
        body = sentence.rstrip()
        marked = Marked(body, self._fences.next(sentence))
        supported = await self._supported(marked)
        text = marked.rendered(supported)
        # Only the white space that stood behind the sentence is put back; markers never change it.
        tail = sentence[len(body) :]
        if supported:
            return Piece(text + tail, (0, len(text)), tuple(supported.items()))
        return self._unsupported(text, tail, cited=bool(marked.numbers), code=marked.code)

    def _unsupported(self, text: str, tail: str, *, cited: bool, code: bool) -> Piece | None:
        strict = self._grounding.mode is GroundingMode.STRICT
        states = any(character.isalnum() for character in text) and not code
        if not self._grounding.flags:
            # In the other mode what cites nothing is the model's own, and was asked for.
            return None if strict or (cited and states) else Piece(text + tail)
        if text.endswith(FLAG):
            # Shown before, by a process that is gone.
            return Piece(text + tail, flagged=True)
        if not states or not (cited or strict):
            return None if strict else Piece(text + tail)
        return None if strict and _REFUSAL.match(text) else Piece(f"{text} {FLAG}{tail}", flagged=True)

    async def _supported(self, marked: Marked) -> dict[int, Citation]:
        numbers = [number for number in marked.numbers if number in self._citations][:_MAX_CITED]
        if not numbers:
            return {}
        claim = marked.claim.strip()
        statement = self._rules.read(claim)
        found: dict[int, Citation] = {}
        open_: dict[int, list[Match]] = {}
        for number in numbers:
            said = next((citation for citation in self._citations[number] if _is_verbatim(claim, citation)), None)
            if said is not None:
                found[number] = _checked(said, Check.QUOTE, 1.0)
            elif matches := self._matches(claim, statement, number):
                open_[number] = matches
        found |= await self._compared(claim, open_)
        # In the order in which the sentence cites them.
        return {number: found[number] for number in numbers if number in found}

    def _matches(self, claim: str, statement: Statement, number: int) -> list[Match]:
        """The evidence in the passage that no rule forbids, best first; one sentence before two."""
        citations = self._citations[number]
        holds = quotes_hold(claim, citations[0].quote.passage.text)
        if holds is False:
            return []
        if number not in self._read:
            self._read[number] = [evidence for citation in citations for evidence in self._rules.evidence(citation)]
        matches = [match for evidence in self._read[number] if (match := self._rules.match(statement, evidence)) is not None]
        if holds:
            # What is quoted must stand in what is cited.
            quotes = quoted(claim)
            matches = [
                match for match in matches if all(stands_in(quote, plain(match.evidence.citation.quote.text)) for quote in quotes)
            ]
        return sorted(matches, key=lambda match: (-match.words, match.evidence.neighbour is not None))[:_MAX_COMPARED]

    async def _compared(self, claim: str, candidates: Mapping[int, Sequence[Match]]) -> dict[int, Citation]:
        if not candidates:
            return {}
        thresholds = self._rules.thresholds
        texts = [match.evidence.citation.quote.text for matches in candidates.values() for match in matches]
        near = await self._near(claim, texts)
        check = Check.QUOTE if quoted(claim) else Check.SIMILAR if near is not None else Check.WORDS
        found: dict[int, Citation] = {}
        for number, matches in candidates.items():
            scored = [
                (match.words if near is None else self._rules.score(match.words, near[match.evidence.citation.quote.text]), match)
                for match in matches
            ]
            score, best = max(scored, key=lambda item: item[0])
            if score >= (thresholds.words_alone if near is None else thresholds.support):
                found[number] = _checked(best.evidence.citation, check, score)
        return found

    async def _near(self, claim: str, texts: Sequence[str]) -> dict[str, float] | None:
        """The cosine of the claim with each text; None when there are no vectors in time."""
        if self._vectors is None:
            return None
        wanted = [text for text in dict.fromkeys([claim, *texts]) if text not in self._kept]
        try:
            async with asyncio.timeout(self._seconds):
                vectors = await self._vectors.vectors(wanted) if wanted else []
        except (WireroomError, TimeoutError):
            # The rest of this answer does not wait again.
            self._vectors = None
            return None
        self._kept |= {text: vector for text, (vector, _) in zip(wanted, vectors, strict=True)}
        claimed = self._kept[claim]
        return {text: cosine(claimed, self._kept[text]) for text in texts}


def _is_verbatim(claim: str, citation: Citation) -> bool:
    wanted = plain(claim).strip(_EDGE)
    return bool(wanted) and wanted == plain(citation.quote.text).strip(_EDGE)


def _checked(citation: Citation, check: Check, score: float) -> Citation:
    return replace(citation, support=check.value, score=round(min(1.0, score), 3))
