"""Whether a written sentence is borne out by the passage it points to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from wireroom_chat.domain.answer import Piece
from wireroom_chat.domain.passages import Citation, Passage, Quote
from wireroom_chat.domain.request import GroundingMode
from wireroom_chat.domain.sentences import is_false_stop, trimmed
from wireroom_chat.domain.terms import Terms, count_negations

# At least this share of a sentence's content words must stand in the evidence.
SUPPORT_THRESHOLD = 0.6
_MAX_BUFFER = 8000
_MARKER = r"[\[【]\d{1,3}(?:\s*[,;]\s*\d{1,3})*[\]】]"
_MARKERS = re.compile(rf"(\s*)({_MARKER}(?:\s*{_MARKER})*)")
_NUMBER = re.compile(r"\d+")
_BOUNDARY = re.compile(r"""(?:([.!?…]+)["'”\u2019»)]*(?:\s*[\[【][\d,;\s]{1,20}[\]】])*\s+|[ \t]*\n\s*)(?=[^\s\[【])""")


class SentenceBuffer:
    """Cuts a growing text into sentences with the markers that follow them; nothing is lost or changed."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> list[str]:
        """The sentences that are complete now."""
        self._text += text
        result: list[str] = []
        start = 0
        for match in _BOUNDARY.finditer(self._text):
            if match.group(1) and is_false_stop(self._text, match.start(), match.end()):
                continue
            result.append(self._text[start : match.end()])
            start = match.end()
        self._text = self._text[start:]
        if len(self._text) > _MAX_BUFFER:
            result.append(self._text)
            self._text = ""
        return result

    def rest(self) -> list[str]:
        """What is left at the end."""
        rest, self._text = self._text, ""
        return [rest] if rest else []


def evidence_quotes(passages: Sequence[Passage], limit: int) -> dict[int, list[Quote]]:
    """For each passage by number (from 1) its sentences, and pairs of neighbouring ones as far as `limit` allows.

    Passages come in order until their sentences pass `limit`; the rest is left out. Then pairs are added, best passages first.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    count = 0
    for number, passage in enumerate(passages, start=1):
        found = trimmed(passage.text)[:limit]
        if count + len(found) > limit:
            break
        count += len(found)
        spans[number] = found
    result = {number: [Quote(passages[number - 1], start, end) for start, end in found] for number, found in spans.items()}
    for number, found in spans.items():
        pairs = [Quote(passages[number - 1], first[0], second[1]) for first, second in pairwise(found)][: limit - count]
        count += len(pairs)
        result[number] += pairs
    return result


@dataclass(frozen=True)
class _Evidence:
    citation: Citation
    stems: frozenset[str]
    numbers: frozenset[str]
    # Of each sentence in it: in a pair it would be open which one a claim denies, so both must be like the claim.
    negations: frozenset[int]


class SentenceVerifier:
    """Checks the markers of sentences against citations that are already known to stand in the stored texts."""

    def __init__(self, terms: Terms, evidence: Mapping[int, Sequence[Citation]], mode: GroundingMode) -> None:
        self._terms = terms
        self._mode = mode
        self._evidence = {
            number: [
                _Evidence(
                    citation,
                    frozenset(terms.content(citation.quote.text)) | frozenset(terms.content(citation.quote.passage.title)),
                    frozenset(terms.numbers(citation.quote.text) | terms.numbers(citation.quote.passage.title)),
                    frozenset(count_negations(citation.quote.text[start:end]) for start, end in trimmed(citation.quote.text)),
                )
                for citation in citations
            ]
            for number, citations in evidence.items()
        }

    def check(self, sentence: str) -> Piece | None:
        """The sentence with the markers that hold; None when strict mode drops it."""
        body = sentence.rstrip()
        claim = _MARKERS.sub("", body)
        supported: dict[int, Citation] = {}

        def keep(match: re.Match[str]) -> str:
            kept: dict[int, None] = {}
            for number in map(int, _NUMBER.findall(match.group(2))):
                citation = supported.get(number) or self._support(claim, number)
                if citation is not None:
                    supported[number] = citation
                    kept[number] = None
            return (" " if match.group(1) and kept else "") + "".join(f"[{number}]" for number in kept)

        text = _MARKERS.sub(keep, body)
        if not supported and self._mode is GroundingMode.STRICT:
            return None
        # Only the white space that stood behind the sentence is put back; markers never change it.
        cited = (0, len(text)) if supported else (0, 0)
        return Piece(text + sentence[len(body) :], cited, tuple(supported.items()))

    def _support(self, claim: str, number: int) -> Citation | None:
        """The best evidence in passage `number`, if any suffices: words, all numbers and names, and the same polarity."""
        words = set(self._terms.content(claim))
        if not words:
            return None
        numbers = self._terms.numbers(claim)
        names = self._terms.names(claim)
        negations = {count_negations(claim)}
        best: Citation | None = None
        best_share = SUPPORT_THRESHOLD
        for evidence in self._evidence.get(number, ()):
            if negations != evidence.negations or not numbers <= evidence.numbers or not names <= evidence.stems:
                continue
            share = len(words & evidence.stems) / len(words)
            # Sentences come before pairs: a pair must support more than the best sentence does.
            if share > best_share or (share == best_share and best is None):
                best, best_share = evidence.citation, share
        return best
