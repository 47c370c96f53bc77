"""Words as the rules compare them: English Snowball stems without stop words, numbers, names and negation."""

from __future__ import annotations

import re
import unicodedata

from Stemmer import Stemmer  # type: ignore[import-not-found]  # PyStemmer has no type stubs.

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
_COUNTED = re.compile(r"\w+|[^\w\s]")
DENIAL = re.compile(
    r"\b(?:not|no|never|none|neither|nor|nobody|nothing|without|cannot|hardly|unable|fails? to|failed to)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[^\W_])[\s,'\u2019“”\"(-]+([A-Z][^\W\d_]+)")
# "How long is …" asks for a figure; the sentence that gives it rarely says "long".
_MEASURE = re.compile(
    r"\bhow\s+(?:long|high|deep|old|quickly|fast|soon|large|big"
    r"|tall|wide|heavy|far|often|late|early|expensive)\b",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")

_STOP_WORDS_TEXT = (
    "a about above across after again against all almost along already also although always am among an and another any "
    "anybody anyone anything are aren around as at away be became because become becomes been before being below between "
    "both but by came can cannot come could couldn d did didn do does doesn doing don done down due during each either "
    "else enough etc even ever every everyone everything few for from further get gets getting give given gives go goes "
    "going gone got had hadn has hasn have haven having he hence her here hers herself him himself his how however i if "
    "in indeed instead into is isn it its itself just let ll m made make makes many may maybe me might more most much "
    "must my myself near nearly need neither never no nobody none nor not nothing now of off often on once one only onto "
    "or other others otherwise our ours ourselves out over own per perhaps please put quite rather re s same say says "
    "she should shouldn since so some somebody someone something still such t take taken takes than that the their "
    "theirs them themselves then there therefore these they thing things this those though through thus to together too "
    "toward towards under until up upon us ve very was wasn we well were weren what whatever when whenever where whether "
    "which while who whoever whole whom whose why will with within without won would wouldn yes yet you your yours "
    "yourself "
)
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
# Words of a question that say how to answer, not what about.
_ASKING_WORDS_TEXT = (
    "according answer article articles described describe document documents explain find latest list me mention "
    "mentioned mentions name news question report reported reports show source sources state stated states summarise "
    "summarize summary tell text told know "
    "allowed needed required possible cost costs "
)
ASKING_WORDS = frozenset(_ASKING_WORDS_TEXT.split())


def count_tokens(text: str) -> int:
    """The number of tokens by the tokenizer `unicode-words-v1`: each run of word characters and each other non-space character is one."""
    return len(_COUNTED.findall(text))


def count_negations(text: str) -> int:
    """How often the text denies something, as far as its words show it: "never without" is 2, and not the same as "without"."""
    return len(DENIAL.findall(text))


class Terms:
    """Turns text into comparable terms. Not for use from several threads at once (the stemmer keeps a cache)."""

    def __init__(self) -> None:
        self._stemmer = Stemmer("english")

    def words(self, text: str) -> list[str]:
        """All tokens: lower-case, compatibility-normalised, thousands separators removed."""
        folded = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
        return _TOKEN.findall(folded)

    def content(self, text: str) -> list[str]:
        """Stems of the words that carry meaning, in order, with repetitions."""
        words = [word for word in self.words(text) if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())]
        stems: list[str] = self._stemmer.stemWords(words)
        return stems

    def question(self, text: str) -> list[str]:
        """Stems of what a question is about, each once."""
        words = [
            word
            for word in self.words(_MEASURE.sub(" ", text))
            if word not in STOP_WORDS and word not in ASKING_WORDS and (len(word) > 1 or word.isdigit())
        ]
        stems: list[str] = self._stemmer.stemWords(words)
        return list(dict.fromkeys(stems))

    def numbers(self, text: str) -> set[str]:
        """The numbers of the text, thousands separators removed."""
        return {word for word in self.words(text) if word[0].isdigit()}

    def names(self, text: str) -> set[str]:
        """Stems of capitalised words that do not begin the sentence."""
        found = [match.group(1).lower() for match in _NAME.finditer(unicodedata.normalize("NFKC", text))]
        stems: list[str] = self._stemmer.stemWords([word for word in found if word not in STOP_WORDS])
        return set(stems)
