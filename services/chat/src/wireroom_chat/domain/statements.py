"""What a sentence states, as far as rules can tell: its content words in order, quantities, names, negations, and how sure it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise

from wireroom_chat.domain.terms import DENIAL, STOP_WORDS, Terms, count_negations
from wireroom_chat.domain.wordings import Wording, wording

# Code points that are not shown: they must neither split a word nor hide one.
INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+\d\w*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[%€$£¥°]")
# "BX-41" is one name and no figure.
_HYPHENATED = re.compile(r"\b([A-Za-z]{1,6})-(?=\d)")
_MIXED = re.compile(r"[^\W\d_]++\d\w*+|[A-Z]{2,}+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being|gets?|got)\s+(?:\w+ly\s+|not\s+|also\s+)?\w+"
    r"(?:ed|en|wn|ld|ght|nt|nd|de|ut|id|un|et|ft|st|lt|pt|ck|ung|one)\b",
    re.IGNORECASE,
)
_BY = re.compile(r"\bby\b", re.IGNORECASE)
_JOINT = re.compile(r"[,;:](?=\s)|\b(?:and|but|while|whereas|compared|versus)\b", re.IGNORECASE)
# A part of a counted whole.
_WHOLE = re.compile(
    r"\b((?<![.,])\d[\d.,]*+|some|most|many|few|several|half|part) of (?:all |the |its |their |these |those |our )*(\d[\d.,]*)"
)
_MAX_DENIED = 3
_COORDINATED = re.compile(r"[,;]|\b(?:and|but|while|whereas)\b", re.IGNORECASE)

_TEENS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_TENS = "thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_TEENS.split(), start=2)} | {
    word: str(10 * number) for number, word in enumerate(_TENS.split(), start=3)
}
_SCALES = {
    "thousand": Decimal(1000),
    "million": Decimal(1_000_000),
    "millions": Decimal(1_000_000),
    "m": None,
    "billion": Decimal(1_000_000_000),
    "bn": Decimal(1_000_000_000),
    "trillion": Decimal(1_000_000_000_000),
    "dozen": Decimal(12),
    "hundred": Decimal(100),
}


def _grouped(groups: Iterable[str]) -> dict[str, str]:
    return {word: group.split()[0] for group in groups for word in group.split()}


# Measures, each under its first name. Another measure with the same figure is another statement.
_MEASURES = _grouped(
    [
        "percent % pct",
        "euro euros € eur",
        "dollar dollars $ usd",
        "pound pounds £ gbp",
        "yen ¥ jpy",
        "franc francs chf",
        "kilometre kilometres kilometer kilometers km",
        "metre metres meter meters m",
        "centimetre centimetres centimeter centimeters cm",
        "millimetre millimetres millimeter millimeters mm",
        "mile miles",
        "foot feet ft",
        "inch inches",
        "kilogram kilograms kilogrammes kg kilo kilos",
        "gram grams grammes g",
        "milligram milligrams mg",
        "tonne tonnes ton tons",
        "litre litres liter liters l",
        "millilitre millilitres milliliter milliliters ml",
        "second seconds s sec",
        "minute minutes min",
        "hour hours h",
        "day days",
        "week weeks",
        "month months",
        "quarter quarters",
        "year years",
        "decade decades",
        "watt watts w",
        "kilowatt kilowatts kw",
        "megawatt megawatts mw",
        "gigawatt gigawatts gw",
        "volt volts",
        "ampere amperes amps",
        "bar bars",
        "degree degrees °",
        "celsius c",
        "fahrenheit f",
        "byte bytes",
        "kilobyte kilobytes kb",
        "megabyte megabytes mb",
        "gigabyte gigabytes gb",
        "terabyte terabytes tb",
        "hectare hectares ha",
        "acre acres",
        "decibel decibels db",
        "january jan",
        "february feb",
        "march",
        "april apr",
        "june jun",
        "july jul",
        "august aug",
        "september sep sept",
        "october oct",
        "november nov",
        "december dec",
    ]
)
_CALENDAR_TEXT = (
    "january february march april june july august september october november december monday tuesday wednesday thursday friday"
    " saturday sunday"
)
_CALENDAR = frozenset(_CALENDAR_TEXT.split())
# Not the verb.
_MAY = "may (month)"
# What stands before a figure and changes what it says.
_BOUNDS = {
    "least": "lower",
    "over": "lower",
    "above": "lower",
    "exceeding": "lower",
    "exceeds": "lower",
    "exceeded": "lower",
    "minimum": "lower",
    "most": "upper",
    "under": "upper",
    "below": "upper",
    "within": "upper",
    "maximum": "upper",
    "until": "until",
    "till": "until",
    "before": "before",
    "after": "after",
    "since": "after",
    "from": "from",
    "to": "to",
    "by": "by",
    "between": "from",
}
_TWO_WORD_BOUNDS = {
    ("more", "than"): "lower",
    ("greater", "than"): "lower",
    ("higher", "than"): "lower",
    ("longer", "than"): "lower",
    ("later", "than"): "after",
    ("less", "than"): "upper",
    ("fewer", "than"): "upper",
    ("lower", "than"): "upper",
    ("up", "to"): "upper",
    ("at", "least"): "lower",
    ("at", "most"): "upper",
}
# How far and how surely something is said to hold; each word under its group.
_FORCE_TEXT = {
    "all": "all every each always everyone everybody everything entire entirely whole wholly completely fully",
    "never": "never",
    "only": "only solely exclusively",
    "most": "most mostly majority usually generally often frequently typically",
    "some": "some several few part partly partially sometimes occasionally rarely certain",
    "may": "may might could can possibly perhaps likely probably allowed permitted optional entitled",
    "planned": (
        "expected expects expect plan plans planned proposed proposes intends intended considering alleged allegedly reportedly"
        " suspected seeks hopes aims hoped would draft prospective projected forecast want wants wish wishes"
    ),
    "must": "must shall required obliged mandatory obligatory needs",
    "should": "should recommended advised ought advisable",
    "will": "will going",
    "if": "if unless except provided",
    "whether": "whether",
}
_FORCE = {word: group for group, words in _FORCE_TEXT.items() for word in words.split()}
# Words that relate one thing to another, or compare: they carry no content, but their opposite says something else.
_RELATIONS = {
    **{word: word for word in ("before", "after", "until", "since", "above", "below", "during", "without", "inside", "outside")},
    "over": "above",
    "under": "below",
    "more": "more",
    "less": "less",
    "fewer": "less",
    "till": "until",
}
# Who has which part is told by these.
_GOVERNING_TEXT = "from to into before after until against than over above below behind towards for with without"
_GOVERNING = frozenset(_GOVERNING_TEXT.split())
# Behind "by" they are a time, and not who does it.
_TIME_BORDERS = frozenset({"end", "beginning", "start", "middle", "noon", "midnight", "morning", "evening", "tomorrow"})
_PREPOSITIONS = _GOVERNING | {"by", "in", "on", "at", "of"}
# What limits a statement to a part of its subject.
_RESTRICTORS = frozenset(
    {"for", "with", "without", "under", "above", "below", "over", "when", "while", "if", "unless", "except", "who", "whose"}
)
# What holds "to" somebody or something holds for nobody else.
_FOR_SOME = frozenset(["close", "open", "limit", "restrict", "confin", "reserv", "avail", "appli", "entitl", "exempt", "subject"])
_IRREGULAR = {
    form: base
    for base, forms in {
        "rise": "rose risen",
        "fall": "fell fallen",
        "grow": "grew grown",
        "win": "won",
        "lose": "lost",
        "sell": "sold",
        "buy": "bought",
        "begin": "began begun",
        "lead": "led",
        "pay": "paid",
        "send": "sent",
        "hold": "held",
        "build": "built",
        "find": "found",
        "write": "wrote written",
        "draw": "drew drawn",
        "run": "ran",
        "leave": "left",
        "keep": "kept",
        "meet": "met",
        "spend": "spent",
        "bring": "brought",
        "teach": "taught",
        "catch": "caught",
        "choose": "chose chosen",
        "drive": "drove driven",
        "break": "broke broken",
        "speak": "spoke spoken",
        "stand": "stood",
        "strike": "struck",
        "fly": "flew flown",
        "throw": "threw thrown",
        "wear": "wore worn",
        "steal": "stole stolen",
        "shrink": "shrank shrunk",
        "sink": "sank sunk",
        "know": "knew known",
        "show": "shown",
        "tell": "told",
        "think": "thought",
        "lend": "lent",
        "beat": "beaten",
        "see": "saw seen",
        "eat": "ate eaten",
        "hide": "hid hidden",
        "shoot": "shot",
        "feed": "fed",
        "fight": "fought",
        "seek": "sought",
        "bind": "bound",
        "freeze": "froze frozen",
        "bear": "born borne",
        "deal": "dealt",
        "hear": "heard",
        "ride": "rode ridden",
        "understand": "understood",
        "blow": "blew blown",
        "shake": "shook shaken",
        "sing": "sang sung",
        "swim": "swam swum",
        "forget": "forgot forgotten",
        "die": "dead died",
        "person": "people",
        "child": "children",
        "man": "men",
        "woman": "women",
    }.items()
    for form in forms.split()
}
# Words of a sentence that only say where it is said.
_SAYING_TEXT = (
    "according article articles document documents mention mentioned mentions reported reports source sources stated"
    " states says said passage noted describes described"
)
_SAYING = frozenset(_SAYING_TEXT.split())


@dataclass(frozen=True)
class Quantity:
    """A figure with its measure ("" for none that is known) and what bounds it; `at`: its place among the tokens."""

    value: str
    measure: str
    bound: str
    at: int


@dataclass(frozen=True)
class Statement:
    """`order`: content stems in their order, with repetitions; `force`: groups of words that say how far and how surely it holds."""

    order: tuple[str, ...]
    stems: frozenset[str]
    quantities: tuple[Quantity, ...]
    names: frozenset[str]
    negations: int
    force: frozenset[str]
    # For each group: the content stems that follow its words.
    forced: Mapping[str, frozenset[str]]
    passive: bool
    agent: bool
    coordinated: bool
    # The stems of each part between conjunctions, commas and semicolons, in order and as sets.
    runs: tuple[tuple[str, ...], ...]
    parts: tuple[frozenset[str], ...]
    relations: frozenset[str]
    # What stands on both sides of a word that limits: the content stem before it, and the next two after it.
    restrictions: tuple[tuple[str, frozenset[str]], ...]
    # Prepositions that tell who has which part, each with the content stem after it.
    governed: frozenset[tuple[str, str]]
    # Stems behind "to": what is to be done, and was not said to have been done.
    to_do: frozenset[str]
    # Begins with "Do" or "Never": an order.
    imperative: bool
    # The stems that follow a denial in its part: what is denied. All stems of such parts.
    denied: frozenset[str]
    denying: frozenset[str]
    # As it stands there, for other languages.
    wording: Wording
    # "Two of its twelve": the figure of the part ("" for a word), and that of the whole.
    wholes: frozenset[tuple[str, str]]


class StatementReader:
    """Reads sentences. Not for use from several threads at once, as its `Terms` are not."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def read(self, text: str) -> Statement:
        """Everything at once."""
        plain = _HYPHENATED.sub(r"\1", _THOUSANDS.sub("", unicodedata.normalize("NFKC", INVISIBLE.sub("", text))))
        tokens = _TOKEN.findall(plain)
        lower = _lowered(tokens)
        joints = _JOINT.split(plain)
        runs = tuple(tuple(self._content(part)) for part in joints)
        order: list[str] = []
        force: set[str] = set()
        forced: dict[str, set[str]] = {}
        pending: list[str] = []
        for word in lower:
            group = _FORCE.get(word)
            if group is not None:
                force.add(group)
                pending.append(group)
            if not self._counts(word):
                continue
            stem = self._stem(word)
            for waiting in pending:
                forced.setdefault(waiting, set()).add(stem)
            pending.clear()
            order.append(stem)
        return Statement(
            order=tuple(order),
            stems=frozenset(order),
            quantities=tuple(_quantities(lower)),
            names=frozenset(self._names(tokens)),
            negations=count_negations(plain),
            force=frozenset(force),
            forced={group: frozenset(stems) for group, stems in forced.items()},
            passive=bool(_PASSIVE.search(plain)),
            runs=runs,
            agent=bool(_BY.search(plain)),
            coordinated=bool(_COORDINATED.search(plain)),
            parts=tuple(map(frozenset, runs)),
            relations=frozenset(_RELATIONS[word] for word in lower if word in _RELATIONS),
            restrictions=tuple(self._restrictions(lower)),
            governed=frozenset(self._governed(lower)),
            to_do=frozenset(
                self._stem(two) for one, two in pairwise(lower) if one == "to" and self._counts(two) and not two[:1].isdigit()
            ),
            imperative=lower[:1] in (["do"], ["never"], ["don't"]),
            wording=wording(INVISIBLE.sub("", text)),
            denying=frozenset(stem for part, run in zip(joints, runs, strict=True) if DENIAL.search(part) for stem in run),
            denied=frozenset(stem for part in joints for stem in self._denied(part)),
            wholes=frozenset(
                (_figure(match[1]) if match[1][:1].isdigit() else "", _figure(match[2]))
                for match in _WHOLE.finditer(" ".join(lower))
            ),
        )

    def _denied(self, part: str) -> list[str]:
        found = DENIAL.search(part)
        return self._content(part[found.end() :])[:_MAX_DENIED] if found else []

    def _content(self, plain: str) -> list[str]:
        return [self._stem(word) for word in _lowered(_TOKEN.findall(plain)) if self._counts(word)]

    def _governed(self, words: list[str]) -> Iterable[tuple[str, str]]:
        for at, word in enumerate(words):
            if word in _GOVERNING or word == "by":
                after = next((other for other in words[at + 1 : at + 5] if self._counts(other) or other in _PREPOSITIONS), "")
                timed = after in _TIME_BORDERS or after in _CALENDAR or after == _MAY
                if after and after not in _PREPOSITIONS and (timed or word != "by"):
                    yield word, self._stem(after)

    def _restrictions(self, words: list[str]) -> Iterable[tuple[str, frozenset[str]]]:
        last = ""
        for at, word in enumerate(words):
            counted, last = last, word if self._counts(word) else last
            if word not in _RESTRICTORS and word != "to":
                continue
            before = self._stem(counted) if counted else ""
            if word == "to" and before not in _FOR_SOME:
                continue
            after = [other for other in words[at + 1 : at + 6] if self._counts(other)][:2]
            # A price, a duration, a reason: nothing that limits.
            if after and not (word in ("for", "with") and (after[0][:1].isdigit() or after[0].endswith("ing"))):
                yield before, frozenset(self._stem(other) for other in after)

    def _counts(self, word: str) -> bool:
        bare = word.split("'", maxsplit=1)[0].split("\u2019", maxsplit=1)[0]
        if bare in _IRREGULAR:
            # "won" is a verb here, and what is left of "won't" elsewhere.
            return True
        if bare in STOP_WORDS or bare in _SAYING or bare in _FORCE:
            return False
        return len(bare) > 1 or bare.isdigit() or bare in _MEASURES

    def _stem(self, word: str) -> str:
        bare = word.split("'", maxsplit=1)[0].split("\u2019", maxsplit=1)[0]
        if bare in _MEASURES:
            return _MEASURES[bare]
        bare = _IRREGULAR.get(bare, bare)
        if bare[:1].isdigit():
            return _figure(bare)
        return (self._terms.content(bare) or [bare])[0]

    def _names(self, tokens: list[str]) -> set[str]:
        """Capitalised words that do not begin the sentence; letters with figures, acronyms, and days and months wherever they stand."""
        words = _lowered(tokens)
        return {
            self._stem(word)
            for at, (token, word) in enumerate(zip(tokens, words, strict=True))
            if word in _CALENDAR
            or word == _MAY
            or (self._counts(word) and (_MIXED.fullmatch(token) or (at > 0 and token[0].isupper() and not word[0].isdigit())))
        }


def _lowered(words: list[str]) -> list[str]:
    found = [_MAY if word == "May" and at else _NUMBER_WORDS.get(word.lower(), word.lower()) for at, word in enumerate(words)]
    # "One hour" is a figure, "one of them" is none.
    return [
        "1" if word == "one" and at + 1 < len(found) and found[at + 1] in _MEASURES else word for at, word in enumerate(found)
    ]


def _figure(text: str) -> str:
    try:
        value = Decimal(text.replace(",", ".") if text.count(",") + text.count(".") == 1 else text)
    except InvalidOperation:
        return text
    return format(value.normalize(), "f")


def _quantities(words: list[str]) -> Iterable[Quantity]:
    for at, word in enumerate(words):
        if not word[:1].isdigit():
            continue
        value, after = _figure(word), at + 1
        scale = _SCALES.get(words[after]) if after < len(words) else None
        if scale is not None:
            try:
                value = format((Decimal(value) * scale).normalize(), "f")
            except InvalidOperation:
                value = word
            after += 1
        following = words[after] if after < len(words) else ""
        preceding = words[at - 1] if at else ""
        measure = _MEASURES.get(following, "")
        if preceding in ("€", "$", "£", "¥"):
            measure = _MEASURES[preceding]
        elif measure == "degree" and after + 1 < len(words) and words[after + 1] in ("celsius", "c", "fahrenheit", "f"):
            measure = _MEASURES[words[after + 1]]
        yield Quantity(value, measure, _bound(words, at), at)


def _bound(words: list[str], at: int) -> str:
    before = at - 1
    while before >= 0 and words[before] in ("the", "a", "an", "€", "$", "£", "¥", "about", "around", "nearly", "almost", "some"):
        before -= 1
    if before >= 1 and (words[before - 1], words[before]) in _TWO_WORD_BOUNDS:
        return _TWO_WORD_BOUNDS[words[before - 1], words[before]]
    return _BOUNDS.get(words[before], "") if before >= 0 else ""
