"""Follow-up questions: what to search for when a question leans on the ones before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wireroom_chat.domain.terms import ASKING_WORDS, STOP_WORDS, Terms

# Of longer texts only the end counts: what stands there is asked, and words are looked at one by one.
_MAX_TEXT = 2000
# As many earlier questions are looked at, and so many words of their topic are added.
_MAX_EARLIER = 6
_MAX_TOPIC = 4
# A question with fewer words of its own says too little alone.
_FEW_TERMS = 2
_REFERENCE = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|he|him|his|she|her|hers|this|these|those|there|then|one|ones|same|former|latter|both|else)\b"
    r"|\bthat\b(?!\s+\w+s\b)",
    re.IGNORECASE,
)
_CONTINUATION = re.compile(
    r"^\W*(?:and|but|or|so|also|what about|how about|what of|then|why|more|tell me more|go on|continue)\b", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
# Common verbs of questions say nothing of the topic.
_VERBS = frozenset(
    [
        "happen",
        "happens",
        "happened",
        "mean",
        "means",
        "meant",
        "work",
        "works",
        "worked",
        "use",
        "uses",
        "used",
        "begin",
        "begins",
        "began",
        "start",
        "starts",
        "started",
        "end",
        "ends",
        "ended",
        "come",
        "comes",
        "came",
        "need",
        "needs",
        "want",
        "wants",
        "like",
        "likes",
        "deliver",
        "delivers",
        "open",
        "opens",
        "opened",
        "close",
        "closes",
        "closed",
        "cover",
        "covers",
        "covered",
        "apply",
        "applies",
        "applied",
        "decide",
        "decides",
        "decided",
        "approve",
        "approves",
        "approved",
        "pay",
        "pays",
        "paid",
        "build",
        "builds",
        "built",
        "change",
        "changes",
        "changed",
    ]
)


def search_query(question: str, earlier: Sequence[str], terms: Terms) -> str:
    """`question`, with the topic of the `earlier` questions (in order) behind it when it leans on them.

    Words only, no model: names first, then what else the earlier question was about. English rules; where they see no reference, the
    question stays as it is.
    """
    topic: list[str] = []
    for before in earlier[-_MAX_EARLIER:]:
        text = before[-_MAX_TEXT:]
        topic = _topic(text, topic if leans(text, terms) else [], terms)
    if not topic or len(question) > _MAX_TEXT or not leans(question, terms):
        return question
    own = set(terms.content(question))
    added = [word for word in topic if not own.intersection(terms.content(word))][:_MAX_TOPIC]
    return f"{question} {' '.join(added)}" if added else question


def leans(question: str, terms: Terms) -> bool:
    """Whether a question can hardly be understood alone."""
    own = terms.question(question)
    if len(own) < _FEW_TERMS or _CONTINUATION.match(question):
        return True
    # A name says what it is about, whatever pronoun stands beside it.
    return bool(_REFERENCE.search(question)) and not terms.names(question)


def _topic(question: str, inherited: Sequence[str], terms: Terms) -> list[str]:
    words = [
        word
        for word in _WORD.findall(question)
        if word.lower() not in STOP_WORDS and word.lower() not in ASKING_WORDS and word.lower() not in _VERBS and len(word) > 1
    ]
    names = terms.names(question)
    named: list[str] = []
    rest: list[str] = []
    previous_named = False
    for word in words:
        is_name = word[0].isupper() and bool(names.intersection(terms.content(word)))
        # The word after a name usually says what kind of thing bears it: the Aurora *pump*.
        (named if is_name or previous_named else rest).append(word)
        previous_named = is_name
    # A new topic comes before the old one; of a question without a name the last words say most: litres of the *pump*.
    own = [*named, *reversed(rest)] if named else rest
    ordered = [*inherited, *own] if inherited else own
    return list(dict.fromkeys(ordered))[: 2 * _MAX_TOPIC]
