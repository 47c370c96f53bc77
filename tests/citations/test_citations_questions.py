"""Two hundred questions with known answers and fifty without, through retrieval, selection, generation and the check of citations."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from asking import Answered, Asking, ScriptedWriter, together
from world import Question, documents, questions, unanswerable

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.markers import MARKER

_FIGURE = re.compile(r"\d+")


def _other_figure(sentence: str) -> str:
    return (
        _FIGURE.sub(lambda match: str(int(match.group()) + 1), sentence)
        if _FIGURE.search(sentence)
        else f"{sentence[:-1]} in 1999."
    )


def _other_word(sentence: str) -> str:
    words = sentence.split()
    return " ".join([*words[:2], "certainly", *words[2:]])


# What a bad writer adds behind the right sentence: `n` is the right source, `o` another one.
_BAD: Mapping[str, str] = {
    "a source that is not there": "{reworded} [99].",
    "a misquote": 'The source says "{reworded}" [{right}].',
    "half a quote": 'It reads "{half} and nobody objects" [{right}].',
    "another figure": "{refigured} [{right}].",
    "the wrong passage": "{said} [{other}].",
    "a marker in code": "\n```\n{said} [{right}]\n```\n",
    "a marker in an address": "See https://evil.example/{first}[{right}] for it.",
    "an invention": "This was decided after a long and bitter quarrel among the neighbours [{right}].",
}


def _bad(kind: str, sentence: str, right: int, other: int) -> str:
    return _BAD[kind].format(
        said=sentence[:-1],
        reworded=_other_word(sentence)[:-1],
        refigured=_other_figure(sentence)[:-1],
        half=sentence[: len(sentence) // 2],
        first=sentence.split(maxsplit=1)[0],
        right=right,
        other=other,
    )


async def _indexed(rag: Any) -> Asking:
    user = rag.user()
    stored = await asyncio.gather(*(rag.upload(user, item.name, item.text.encode()) for item in documents()))
    await asyncio.gather(*(rag.processed(user, item.id, within=120) for item in stored))
    return Asking(rag, user)


async def _stand_in_the_store(rag: Any, asking: Asking, answers: list[Answered]) -> None:
    """Every citation's permalink leads to exactly the quoted text, with the hash that was given for it."""
    cited = {note.citation.id: note.citation for found in answers for note in found.answer.annotations}
    resolved = await together([partial(asking.resolved, rag, name) for name in cited])
    for citation, stored in zip(cited.values(), resolved, strict=True):
        assert (stored.text, stored.sha256) == (citation.quote.text, citation.sha256)


def _overlaps(found: Answered, question: Question) -> bool:
    return any(
        note.citation.quote.text in question.answer or question.answer in note.citation.quote.text
        for note in found.answer.annotations
    )


async def test_answers_cite_the_right_sentences_and_nothing_else(rag: Any) -> None:
    asking = await _indexed(rag)
    asked, open_ = questions(), unanswerable()
    kinds = [list(_BAD)[number % len(_BAD)] for number in range(len(asked))]

    def script(question: Question, kind: str, sources: Mapping[int, str]) -> str:
        right = next((number for number, text in sources.items() if question.answer in text), 0)
        other = next((number for number, text in sources.items() if question.answer not in text), 99)
        return (
            f"{question.answer[:-1]} [{right}]. {_bad(kind, question.answer, right, other)}"
            if right
            else "The sources do not say."
        )

    quoted = await together([partial(asking.quoted, question.text) for question in asked])
    writers = [ScriptedWriter(partial(script, question, kind)) for question, kind in zip(asked, kinds, strict=True)]
    written = await together(
        [partial(asking.written, question.text, writer) for question, writer in zip(asked, writers, strict=True)]
    )
    liar = ScriptedWriter(lambda _sources: "The answer is forty-two, as everybody knows [1]. It was so in 1999 [2].")
    refused = await together([partial(asking.quoted, question.text) for question in open_])
    lied = await together([partial(asking.written, question.text, liar) for question in open_])

    await _stand_in_the_store(rag, asking, [*quoted, *written])
    for name, answers in (("quoted", quoted), ("written", written)):
        answered = [(found, question) for found, question in zip(answers, asked, strict=True) if found.answer.annotations]
        right = [question.text for found, question in answered if _overlaps(found, question)]
        wrong = [question.text for found, question in answered if not _overlaps(found, question)]
        print(f"{name}: {len(answered)} of {len(asked)} answered, {len(right)} right; not: {wrong}")  # noqa: T201 - the report
        assert len(right) >= 0.98 * len(answered)
        assert len(answered) >= 0.9 * len(asked)
    bad: Counter[str] = Counter()
    for found, question, kind in zip(written, asked, kinds, strict=True):
        kept = re.sub(rf"\s*{MARKER}", "", found.answer.text).strip()
        if found.mode is AnswerMode.GENERATED and kept != question.answer:
            bad[kind] += 1
            print(f"{kind}: {found.answer.text}")  # noqa: T201 - the report
    assert not bad
    for name, answers in (("quoted", refused), ("written", lied)):
        abstained = sum(found.mode is AnswerMode.ABSTAINED for found in answers)
        print(f"{name}: {abstained} of {len(open_)} abstained")  # noqa: T201 - the report
        for found, question in zip(answers, open_, strict=True):
            if found.mode is not AnswerMode.ABSTAINED:
                print(f"  {question.text}: {found.answer.text}")  # noqa: T201 - the report
        assert abstained >= 0.95 * len(open_)
        assert not [found for found in answers if found.mode is AnswerMode.ABSTAINED and found.answer.annotations]
    # Where every word of the question stands somewhere, there is nothing to name.
    assert sum(bool(found.missing) for found in refused) >= 0.8 * len(open_)
