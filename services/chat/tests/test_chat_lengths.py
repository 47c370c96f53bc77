from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wireroom_chat.domain.answer import Piece
from wireroom_chat.domain.lengths import Lengths
from wireroom_chat.domain.passages import Citation, Passage, Quote, SourceKind
from wireroom_chat.domain.terms import count_tokens
from wireroom_common.errors import WireroomError

PASSAGE = Passage("p", "d", 1, SourceKind.DOCUMENT, "", "", 1, 0, 1, "x", 1.0, 1.0, 1.0)
CITATION = Citation(Quote(PASSAGE, 0, 1), "c-1")


def cited(text: str) -> Piece:
    return Piece(f"\n\n{text}", (2, 2 + len(text)), ((1, CITATION),))


PIECES = [Piece("Extractive answer."), cited("The ferry leaves at noon [1]"), cited("It is green [2]")]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_without_limits_everything_stays() -> None:
    assert Lengths.of({}).applied(PIECES) == (PIECES, "stop")


def test_a_quote_that_does_not_fit_is_left_out_whole() -> None:
    kept, reason = Lengths.of({"max_tokens": count_tokens(PIECES[0].text) + count_tokens(PIECES[1].text) + 2}).applied(PIECES)
    assert (kept, reason) == (PIECES[:2], "length")


def test_an_uncited_piece_is_cut_between_words() -> None:
    kept, reason = Lengths.of({"max_completion_tokens": 1, "max_tokens": 5}).applied(PIECES)
    assert (text_of(kept), reason) == ("Extractive", "length")


def test_a_stop_text_is_never_given_out() -> None:
    assert Lengths.of({"stop": "green"}).applied(PIECES) == (PIECES[:2], "stop")
    assert text_of(Lengths.of({"stop": ["green", " answer"]}).applied(PIECES)[0]) == "Extractive"
    # Across the border of two pieces.
    assert Lengths.of({"stop": "answer.\n"}).applied(PIECES)[0] == [Piece("Extractive ")]


@pytest.mark.parametrize("members", [{"max_tokens": 0}, {"max_tokens": "5"}, {"stop": 5}, {"stop": ["x"] * 17}, {"stop": [1]}])
def test_members_that_are_none_are_refused(members: dict[str, object]) -> None:
    with pytest.raises(WireroomError) as caught:
        Lengths.of(members)
    assert caught.value.code == "request_invalid"


@given(
    st.lists(st.tuples(st.text("ab \n[1].", max_size=12), st.booleans()), max_size=6),
    st.integers(0, 20),
    st.lists(st.text("ab \n", max_size=3), max_size=3),
)
def test_limits_hold_and_quotes_stay_whole(texts: list[tuple[str, bool]], tokens: int, stops: list[str]) -> None:
    pieces = [cited(text) if quoted else Piece(text) for text, quoted in texts]
    kept, reason = Lengths(tokens, tuple(stop for stop in stops if stop)).applied(pieces)
    written = text_of(kept)
    assert text_of(pieces).startswith(written)
    assert not any(stop in written for stop in stops if stop)
    assert not tokens or count_tokens(written) <= tokens
    assert all(piece in pieces for piece in kept if piece.citations)
    assert reason in ("stop", "length")
