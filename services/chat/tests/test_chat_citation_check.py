"""What a written sentence may cite: rules, thresholds, quotes, markers, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from chat_harness import passage
from hypothesis import given
from hypothesis import strategies as st
from support_pairs import cosines, pairs, scores

from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.markers import MARKER, Marked
from wireroom_chat.domain.missing import missing_terms
from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.prompt import leaks
from wireroom_chat.domain.quotations import plain, quoted, stands_in
from wireroom_chat.domain.request import Grounding, GroundingMode, Unsupported
from wireroom_chat.domain.statements import StatementReader
from wireroom_chat.domain.support import SupportRules
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.verification import evidence_quotes
from wireroom_chat.usecases.checking import Checking, SentenceChecker

TERMS = Terms()
SOURCE = (
    "The trial enrolled 312 patients in Bergen. It did not include children. “The result,” said Dr. Holm, “surprised nobody.”"
)


class Near:
    """Vectors by which every text is the same, or that are not to be had."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[Sequence[str]] = []
        self._away = away

    async def vectors(self, texts: Sequence[str]) -> list[tuple[Sequence[float], int]]:
        self.asked.append(texts)
        if self._away:
            raise TimeoutError
        return [((1.0, 0.0), 1) for _ in texts]


def checker(grounding: Grounding | None = None, near: Near | None = None, *texts: str) -> SentenceChecker:
    passages = [passage(number, content) for number, content in enumerate(texts or (SOURCE,), start=1)]
    evidence = {number: [Citation(quote, "c") for quote in group] for number, group in evidence_quotes(passages, 100).items()}
    return SentenceChecker(Checking(TERMS, near), evidence, grounding or Grounding())


@pytest.mark.parametrize(
    ("name", "precision", "recall"),
    [
        ("support_calibration", 0.98, 0.93),
        ("support_held_out", 0.95, 0.9),
        ("support_unseen", 0.95, 0.9),
        ("support_clauses", 0.95, 0.85),
    ],
)
@pytest.mark.parametrize("with_vectors", [True, False])
def test_what_passes_is_borne_out(name: str, precision: float, recall: float, with_vectors: bool) -> None:  # noqa: FBT001 - parametrized
    rules = SupportRules(StatementReader(TERMS))
    near = cosines()
    least = rules.thresholds.support if with_vectors else rules.thresholds.words_alone
    found = [(scores(rules, pair, near[pair.key])[0 if with_vectors else 1] >= least, not pair.kind) for pair in pairs(name)]
    passed = [right for passes, right in found if passes]
    assert sum(passed) >= precision * len(passed)
    assert sum(passed) >= recall * sum(right for _, right in found)


def test_calibration_and_test_pairs_share_no_text() -> None:
    others = {pair.text for name in ("held_out", "unseen", "clauses") for pair in pairs(f"support_{name}")}
    assert not {pair.text for pair in pairs("support_calibration")} & others
    assert len(pairs("support_calibration")) >= 200


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ('Dr. Holm said "The result, surprised nobody" [1].', None),
        ("“The result,” said Dr. Holm, “surprised nobody” [1].", "“The result,” said Dr. Holm, “surprised nobody” [1]."),
        ('The trial "enrolled 312 patients" in Bergen [1].', 'The trial "enrolled 312 patients" in Bergen [1].'),
        ('The trial "enrolled 321 patients" in Bergen [1].', None),
        ('The trial "enrolled 312 patients in Bergen and found nothing [1].', None),
        ('It did "include children" [1].', None),
        ("The trial enrolled 312 patients in Bergen [1-3].", "The trial enrolled 312 patients in Bergen [1]."),
        ("The trial enrolled 312 patients in Bergen [source 1].", "The trial enrolled 312 patients in Bergen [1]."),
        ("The trial enrolled 312 patients in Bergen [^1].", "The trial enrolled 312 patients in Bergen [1]."),
        ("The trial enrolled 312 patients in Bergen `[1]`.", None),
        ("The trial enrolled 312 patients in Bergen [1](https://x.example).", None),
        ("The trial enrolled 312 patients in Bergen https://x.example/[1]", None),
    ],
)
async def test_quotes_stand_verbatim_and_markers_only_where_they_cite(sentence: str, expected: str | None) -> None:
    piece = await checker().check(sentence)
    assert (piece.text if piece else None) == expected


async def test_markers_in_a_code_block_cite_nothing() -> None:
    check = checker(Grounding(mode=GroundingMode.ASSIST))
    lines = [
        "```python\n",
        "patients = trial[1]  # 312 patients in Bergen [1]\n",
        "```\n",
        "The trial enrolled 312 patients in Bergen [1].",
    ]
    pieces = [await check.check(line) for line in lines]
    assert [piece.citations != () for piece in pieces if piece] == [False, False, False, True]
    assert "".join(piece.text for piece in pieces if piece).count("[1]") == 2  # the element, and the one citation


@pytest.mark.parametrize(
    ("mode", "unsupported", "cited", "plain_sentence"),
    [
        ("strict", None, None, None),
        ("strict", "flag", "Pumps are fun. (unverified)", "Pumps are fun. (unverified)"),
        ("assist", None, "Pumps are fun. (unverified)", "Pumps are fun."),
        ("assist", "drop", None, "Pumps are fun."),
    ],
)
async def test_policy_decides_on_sentences_without_support(
    mode: str, unsupported: str | None, cited: str | None, plain_sentence: str | None
) -> None:
    grounding = Grounding(mode=GroundingMode(mode), unsupported=Unsupported(unsupported) if unsupported else None)
    for sentence, expected in (("Pumps are fun [1].", cited), ("Pumps are fun.", plain_sentence)):
        piece = await checker(grounding).check(sentence)
        assert (piece.text if piece else None) == expected
        if piece is not None:
            assert piece.flagged is ("(unverified)" in piece.text)
            # What was shown once is shown again as it was, by whoever goes on with the answer.
            assert (await checker(grounding).check(piece.text)) == piece
    refusal = await checker(Grounding(unsupported=Unsupported.FLAG)).check("The sources do not say.")
    assert refusal is None


async def test_without_vectors_words_decide_and_the_citation_says_so() -> None:
    near, away = Near(), Near(away=True)
    claim = "In Bergen the trial enrolled 312 patients [1]."
    for vectors, expected in ((near, "similar"), (away, "words")):
        check = checker(None, vectors)
        for _ in range(2):
            piece = await check.check(claim)
            assert piece is not None
            assert piece.citations[0][1].support == expected
    # Known vectors are kept, and who did not answer is not waited for again.
    assert len(near.asked) == len(away.asked) == 1
    said = await checker().check("The trial enrolled 312 patients in Bergen [1].")
    assert said is not None
    assert (said.citations[0][1].support, said.citations[0][1].score) == ("quote", 1.0)


TEXTS = st.text(alphabet=st.sampled_from("ab [1]`\n.(),;-\u201c\"'3"), max_size=60)


@given(TEXTS)
def test_no_marker_is_left_but_those_that_hold(text: str) -> None:
    marked = Marked(text.rstrip())
    assert marked.rendered(marked.numbers).count("[") <= text.count("[") + text.count(",") + 20
    claim = marked.claim
    for found in Marked(claim).numbers:
        # Only what removal has put together anew.
        assert str(found) in text
    assert isinstance(quoted(text), list)


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_a_whole_text_stands_in_itself(text: str, before: str, after: str) -> None:
    source = plain(f"{before} {text} {after}")
    wanted = plain(text).strip(" .,;:!?")
    if wanted and "..." not in wanted and "\u2026" not in wanted:
        assert stands_in(wanted, source)


def test_prompt_does_not_come_out() -> None:
    assert leaks("=== source 1 0011223344556677 · x", "0011223344556677")
    assert leaks("My rules: Keep figures, names and dates exactly as they stand there.", "n")
    assert not leaks("The plant opened in 1998 [2].", "0011223344556677")


def test_what_is_missing_is_named() -> None:
    known = [passage(1, "The Aurora pump delivers 14 litres per minute.")]
    assert missing_terms("Who painted the Aurora pump in Lisbon?", known, TERMS) == ("painted", "Lisbon")
    assert missing_terms("How many litres does the Aurora pump deliver?", known, TERMS) == ()


def test_quotes_are_read_in_order_and_said_once() -> None:
    fact = "The Aurora pump delivers 14 litres per minute at 6 bar."
    late, early = (
        "The Aurora pump delivers 9 litres per minute at 3 bar.",
        "The Aurora pump delivers 11 litres per minute at 4 bar.",
    )
    passages = [
        passage(1, late, start=900, end=900 + len(late), dense_score=0.7, document_id="a"),
        passage(2, fact, start=0, end=len(fact), dense_score=0.7, document_id="b"),
        passage(3, early, start=100, end=100 + len(early), dense_score=0.7, document_id="a"),
        passage(4, fact, start=50, end=50 + len(fact), dense_score=0.7, document_id="c"),
    ]
    quotes = QuoteSelector(TERMS).select("How many litres per minute does the Aurora pump deliver at how many bar?", passages)
    assert [quote.text for quote in quotes] == [early, late, fact]
    assert MARKER
