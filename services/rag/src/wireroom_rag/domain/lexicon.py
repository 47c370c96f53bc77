"""Words to terms for BM25: Unicode words, folded, without stop words, English Snowball stems."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import Stemmer  # type: ignore[import-not-found]  # an extension module without stubs

K1 = 1.2
B = 0.75
# A word that the query itself repeats, as in Okapi at TREC-7 and Terrier: in a question of several sentences it counts ever less.
K3 = 8.0
# Fields as in BM25F (Robertson, Zaragoza, Taylor 2004): a word of the title counts twice, and titles are much of a length.
TITLE_WEIGHT = 2.0
TITLE_B = 0.5

_WORD = re.compile(r"\w+")
# Longer "words" are data, not language, and would only swell the index.
_LONGEST = 64
_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of", "on", "or",
    "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
))  # fmt: skip


def query_weight(count: int) -> float:
    """What a term is worth that stands so often in the query: 1 for once, below `K3 + 1` for any number."""
    return (K3 + 1) * count / (K3 + count)


class Lexicon:
    """Turns texts into term counts. Not thread-safe: the stemmer keeps a buffer."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")

    def terms(self, text: str) -> Counter[str]:
        """How often each term occurs. NFKC, lower case; stop words and words above 64 characters are left out."""
        words = [
            word
            for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
            if len(word) <= _LONGEST and word not in _STOP_WORDS
        ]
        return Counter(self._stemmer.stemWords(words))
