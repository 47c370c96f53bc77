"""Whether two questions ask the same, by their words: the guard of the semantic cache.

Similar vectors do not tell "2024" from "2025", "is" from "is not", or "from Rome to Milan" from "from Milan to Rome". So a stored answer
is only given again when, beside the vectors, everything that decides a question's meaning is equal: numbers, negation, names, time,
modality, comparison and direction, whom it is about, what kind of answer it wants, and every other word that carries meaning, in its
order, up to listed synonyms and plurals. A word that only one of the questions has keeps them apart; questions that are not plainly
English only equal themselves. Everywhere the rules prefer a miss to a wrong hit.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"\d+(?:[.,:/-]\d+)*[^\W\d_]*|[^\W_]+|[%$€£¥°+<>=&*/^#]|-(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_LONGEST = 600
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
    " nineteen twenty"
)
# "one" is a pronoun more often than a number.
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_NUMBERS.split()) if word != "one"}

# Rewritten before anything is compared, in this order, in lower case. `q…` are kinds of answers.
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"\bcan['\u2019]t\b|\bcannot\b", "can not"),
        (r"\bwon['\u2019]t\b", "will not"),
        (r"\bshan['\u2019]t\b", "shall not"),
        (r"n['\u2019]t\b", " not"),
        (r"\b(what|who|where|when|how|that|there|it|he|she)['\u2019]s\b", r"\1 is"),
        (r"['\u2019]re\b", " are"),
        (r"['\u2019]ll\b", " will"),
        (r"['\u2019]ve\b", " have"),
        (r"['\u2019]d\b", " would"),
        (r"['\u2019]m\b", " am"),
        (r"['\u2019]s?\b", ""),
        (r"[!.?]+\s*$", ""),
        (r"\b(?:please|exactly|actually|really|basically|simply|kindly)\b", " "),
        (r"^\W*(?:hello|hi|hey|good (?:morning|evening|afternoon)|thanks|thank you|dear \w+|ok|okay|so|well|and)\b\W*", ""),
        (r"\b(?:can|could|would|will) you (?:tell|explain to|give|show|help) (?:me|us)\b(?: know| with| understand)?", " "),
        (r"\b(?:can|could|would|will) you (?:explain|describe|say|clarify)\b", " "),
        (r"^\W*(?:tell|explain to|give|show|help) (?:me|us)\b(?: know| with| understand)?", " "),
        (r"^\W*(?:explain|describe|say|clarify)\b", " "),
        (r"\b(?:i|we) (?:would like|want|need|wish|would love) to (?:know|learn|find out|understand|ask)\b", " "),
        (r"\b(?:i am|we are) (?:wondering|curious|asking|interested in)\b", " "),
        (r"\b(?:do|does) (?:you|anyone|anybody|somebody|someone) (?:happen to )?know\b", " "),
        (r"\bany idea\b", " "),
        (r"\bin order to\b", " to "),
        (r"\b(?:is|was) it possible (?:for (?:me|us) )?to\b", " can i "),
        (r"\b(?:am i|are we) able to\b", " can i "),
        (r"\b(?:am i|are we) (?:allowed|permitted) to\b|\bmay (?:i|we)\b", " may i "),
        (r"\b(?:have|has) to\b", " must "),
        (r"\bgoing to\b", " will "),
        (r"\b(?:in|at|from) (?:what|which) (?:place|location)\b|\bwhat is the location of\b|\bwhere\b", " qwhere "),
        (r"\bhow many\b|\b(?:what is|what was) the (?:total )?number of\b|\bwhat number of\b", " qcount "),
        (
            (
                r"\bwhat (?:are|is) the (?:necessary |required |right |best |proper )?"
                r"(?:steps?|procedure|process|way|method) (?:to|for|of|in)\b"
            ),
            " qmanner ",
        ),
        (r"\bwhat (?:steps|actions) (?:do|should|must) (?:i|we|you) take to\b", " qmanner "),
        (r"\bis there (?:a|any) way (?:to|of)\b", " qmanner "),
        (r"\bhow (?:do|can|should|could|would|might|does) (?:i|we|you|one|someone|somebody|people) (?:go about )?", " qmanner "),
        (r"\bhow to\b", " qmanner "),
        (r"\b(?:for )?how long\b|\bwhat is the duration of\b|\bwhat (?:length|amount) of time\b", " qduration "),
        (r"\bhow often\b|\bhow frequently\b|\bwith what frequency\b", " qfrequency "),
        (r"\b(?:at )?what time\b", " qtime "),
        (r"\b(?:on |in |at )?(?:what|which) (?:date|day)\b|\bwhen\b", " qwhen "),
        (r"\b(?:in )?(?:what|which) year\b", " qwhen year "),
        (
            (
                r"\bfor (?:what|which) reasons?\b|\bhow come\b|\bwhy\b"
                r"|\bwhat (?:is|are|was|were) the (?:reasons?|causes?) (?:for|of|why|that)\b"
            ),
            " qwhy ",
        ),
        (r"\b(?:what|which) (?:person|people)\b|\bwhom?\b", " qwho "),
        (r"\bwhose\b", " qwhose "),
        (r"\bwhat (?:does|do) (.+?) mean\b", r" define \1 "),
        (r"\bwhat is (?:meant by|the (?:meaning|definition) of)\b", " define "),
        (r"\bhow much (?:does|do) (.+?) cost\b", r" \1 price "),
        (r"\bqcount (\w+) (?:does|do) (.+?) have\b", r" qcount \2 \1 "),
        (r"\bwhat ([a-z][a-z ]*?) means?\b", r" define \1 "),
        (r"\bqwhere (?:can|do) i\b", " qwhere i "),
        (r"\bmax\b", "maximum"),
        (r"\bmin\b", "minimum"),
        (r"\b(?:what|which) ((?:side )?[a-z]+) (?:does|do) (.+?) have\b", r" \2 \1 "),
        (r"\bhow\b", " qhow "),
        # "The notice period for a flat" is the flat notice period, where nothing else follows.
        (
            r"^\W*what is (?:the |a )?((?:[a-z]+ ){0,2}[a-z]+) (?:of|for|on) (?:the |a |an )?((?:[a-z0-9]+ ){0,2}[a-z0-9]+)\W*$",
            r"what is \2 \1",
        ),
        # "The price of gold" is the gold price.
        (r"\b([a-z]+) of (?:the |a |an )?([a-z0-9]+)\b", r"\2 \1"),
    )
)
# Words of these kinds must be the same in both questions, as often and in the same order.
_KINDS: dict[str, str] = {
    word: kind
    for kind, words in {
        "denial": "not no never none neither nor nobody nothing nowhere without hardly barely except excluding unless lack lacks lacking"
        " fail fails failed",
        "modality": "can could may might must should shall would need needs ought let lets",
        "past": "was were did had been used",
        "moment": "will upcoming next tomorrow future now currently current today tonight yesterday latest recent recently last previous"
        " previously past ago formerly former ever already yet still since until till during again first second third final finally once"
        " twice early earlier late later newest oldest monday tuesday wednesday thursday friday saturday sunday january february march"
        " april june july august september october november december spring summer autumn winter morning evening night noon weekly daily"
        " monthly yearly annual annually hourly",
        "direction": "before after above below over under between against towards toward from into onto out off up down by through across"
        " around behind beside inside outside beyond per via versus vs than like unlike instead",
        "amount": "all any some every each both either most many few fewer several half double only more less least much enough too very"
        " other another same different almost approximately minimum maximum min max average total",
        "person": "i me my mine we us our ours you your yours he him his she her hers they them their theirs these those",
        "junction": "and or but if then because while whether",
    }.items()
    for word in words.split()
}
# These never tell questions apart.
_IDLE = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "am",
        "be",
        "being",
        "do",
        "does",
        "of",
        "at",
        "in",
        "on",
        "with",
        "for",
        "to",
        "as",
        "about",
        "it",
        "its",
        "that",
        "this",
        "which",
        "what",
        "there",
        "has",
        "have",
    ]
)
_AUXILIARIES = frozenset(
    [
        "is",
        "are",
        "am",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "has",
        "have",
        "had",
    ]
)
# One group, one word: kept to words that mean the same in any question.
_SYNONYM_GROUPS = (
    "buy purchase purchasing buying",
    "begin start commence starting beginning",
    "end finish conclude",
    "price cost",
    "repair fix mend",
    "error mistake",
    "fast quick rapid",
    "fastest quickest",
    "large big",
    "largest biggest",
    "car automobile",
    "sick ill",
    "assist aid assistance",
    "select choose pick",
    "stop halt cease",
    "obtain acquire",
    "delete remove erase",
    "modify change alter changing",
    "phone telephone",
    "doctor physician",
    "lawyer attorney",
    "child kid",
    "movie film",
    "picture photo photograph image",
    "company firm business",
    "staff personnel",
    "salary wage",
    "vacation holiday",
    "apartment flat",
    "trash rubbish garbage",
    "answer reply response",
    "forbid prohibit ban",
    "happen occur",
    "ensure guarantee",
    "use utilise utilize",
    "cancel terminate",
    "main primary principal",
    "increase raise",
    "decrease reduce",
    "advantage benefit",
    "disadvantage drawback downside",
    "goal aim objective purpose",
    "rule regulation",
    "contract agreement",
    "password passcode",
    "create make",
)
_SYNONYMS = {word: group.split()[0] for group in _SYNONYM_GROUPS for word in group.split()}
_ENGLISH = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "what",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "which",
        "can",
        "could",
        "will",
        "would",
        "should",
        "may",
        "might",
        "must",
        "of",
        "in",
        "on",
        "to",
        "for",
        "and",
        "or",
        "not",
        "it",
        "its",
        "this",
        "that",
        "there",
        "with",
        "by",
        "from",
        "at",
        "i",
        "my",
        "me",
        "we",
        "our",
        "you",
        "your",
        "tell",
        "explain",
        "define",
    ]
)


@dataclass(frozen=True)
class QuestionForm:
    """What a question is made of. Two questions ask the same only if their forms are equal."""

    wants: tuple[str, ...]
    content: tuple[str, ...]
    numbers: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[tuple[str, tuple[str, ...]], ...]


def question_form(question: str) -> QuestionForm | None:
    """The form of an English question; None for a text that the rules do not reach."""
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", question).strip())
    if not text or len(text) > _LONGEST or "\n" in text or any(letter.isalpha() and ord(letter) > 0x24F for letter in text):  # noqa: PLR2004 - Latin
        return None
    lowered = text.lower()
    for pattern, meaning in _REWRITES:
        lowered = " ".join(pattern.sub(meaning, lowered).split())
    words = _WORD.findall(lowered)
    known = sum(word in _ENGLISH or word in _KINDS for word in _WORD.findall(text.lower()))
    if not words or not known:
        return None
    return _sorted_out(words, _names(text))


def _sorted_out(words: list[str], names: tuple[str, ...]) -> QuestionForm:
    kinds: dict[str, list[str]] = {}
    numbers: list[str] = []
    content: list[str] = []
    wants = ["yes or no"] if words[0] in _AUXILIARIES else []
    for position, raw in enumerate(words):
        word = _NUMBER_WORDS.get(raw, raw)
        if not word[0].isalpha():
            numbers.append(word)
        elif word in _WANTS:
            wants.append(word)
        elif word in _KINDS:
            kinds.setdefault(_KINDS[word], []).append(word)
        elif word not in _IDLE:
            after_manner = position > 0 and words[position - 1] == "qmanner"
            content.append(_base(word, gerund=after_manner))
            if word.endswith("ed") and not word.endswith("eed"):
                # Plurals are the same thing, tenses are not.
                kinds.setdefault("past", []).append("-ed")
    return QuestionForm(
        wants=tuple(wants),
        content=tuple(content),
        numbers=tuple(numbers),
        names=names,
        kinds=tuple(sorted((kind, tuple(found)) for kind, found in kinds.items())),
    )


_WANTS = frozenset(["qwhere", "qcount", "qmanner", "qduration", "qfrequency", "qtime", "qwhen", "qwhy", "qwho", "qwhose", "qhow"])


def _base(word: str, *, gerund: bool) -> str:
    """The word without its plural, and after "how to" without its -ing; then the name of its synonyms."""
    if word in _SYNONYMS:
        return _SYNONYMS[word]
    if gerund and word.endswith("ing") and len(word) > 6:  # noqa: PLR2004 - "bring", "sing"
        stem = word[:-3]
        word = stem[:-1] if stem[-1] == stem[-2] and stem[-1] not in "ls" else stem
    if word.endswith("ies") and len(word) > 4:  # noqa: PLR2004 - "dies", "lies"
        word = word[:-3] + "y"
    elif word.endswith(("ches", "shes", "xes", "sses")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is", "news")) and len(word) > 3:  # noqa: PLR2004 - "bus", "gas"
        word = word[:-1]
    return _SYNONYMS.get(word, word)


def _names(text: str) -> tuple[str, ...]:
    """Words written like names, in order; the first word of a sentence only if it is written so inside, too ("NATO", "iPhone")."""
    found = []
    for match in _WORD.finditer(text):
        word = match.group()
        begins = text[: match.start()].rstrip()[-1:] in ("", ".", "!", "?", ":")
        if (word[0].isupper() and not begins and word != "I") or any(letter.isupper() for letter in word[1:]):
            found.append(word.lower())
    return tuple(found)
