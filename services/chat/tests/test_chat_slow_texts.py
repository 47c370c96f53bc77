"""Texts made to be slow: what is read of answers, passages and questions takes time in proportion to their length."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from wireroom_chat.domain import sentences
from wireroom_chat.domain.extractive import wants_money
from wireroom_chat.domain.markers import Marked
from wireroom_chat.domain.quotations import plain, quoted, stands_in
from wireroom_chat.domain.statements import StatementReader
from wireroom_chat.domain.terms import Terms

_SHORT, _LONG = 30_000, 120_000
# Four times the length takes four times the time, or sixteen where each place is compared with each.
_MOST = 9.0


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def _repeated(unit: str, length: int) -> str:
    return (unit * (length // len(unit) + 1))[:length]


def _read_gap(text: str) -> object:
    return stands_in(text, "a source")


_TEXTS: list[tuple[str, Callable[[str], object], Callable[[int], str]]] = [
    ("money asked often", wants_money, lambda length: _repeated("what how much ", length)),
    ("blanks in a quote", _read_gap, lambda length: "a" + " " * length + "b"),
    ("brackets in a quote", _read_gap, lambda length: _repeated("[ ", length)),
    ("opened single quotes", quoted, lambda length: _repeated("'a ", length)),
    ("closed single quotes", quoted, lambda length: _repeated("a' ", length)),
    ("quotation marks", quoted, lambda length: _repeated('" a', length)),
    ("blanks", plain, lambda length: " \t" * (length // 2)),
    ("full stops", sentences.split, lambda length: "." * length + "a"),
    ("stops and quotes", sentences.split, lambda length: _repeated(".)", length) + "a"),
    ("closing brackets", sentences.split, lambda length: "." + ")" * length + "a"),
    ("empty lines", sentences.split, lambda length: "a" + "\n" * length),
    ("empty lines before a word", sentences.split, lambda length: "a." + "\n" * length + "b"),
    ("blank lines", sentences.split, lambda length: "a" + _repeated("\n \t", length)),
    ("list items", sentences.split, lambda length: _repeated("\n - ", length)),
    ("backticks", Marked, lambda length: _repeated("` `` ", length)),
    (
        "backticks of all lengths",
        Marked,
        lambda length: "".join(f"{'`' * number} " for number in range(1, int((2 * length) ** 0.5))),
    ),
    ("markers in code", Marked, lambda length: _repeated("`[1]` ", length)),
    ("markers in addresses", Marked, lambda length: _repeated("http://a[1] ", length)),
    ("brackets", Marked, lambda length: _repeated("[ [1", length)),
    ("one long figure", StatementReader(Terms()).read, lambda length: _repeated("1.", length)),
    ("letters with figures", StatementReader(Terms()).read, lambda length: "A" * length + "1" * length),
    ("restrictions of nothing", StatementReader(Terms()).read, lambda length: _repeated("without ", length // 4)),
    ("capitals", StatementReader(Terms()).read, lambda length: _repeated("AB1c ", length)),
    ("blanks before no marker", Marked, lambda length: " " * length + "["),
]


@pytest.mark.parametrize(("work", "text"), [entry[1:] for entry in _TEXTS], ids=[entry[0] for entry in _TEXTS])
def test_time_grows_with_the_length_and_not_faster(work: Callable[[str], object], text: Callable[[int], str]) -> None:
    short, long = text(_SHORT), text(_LONG)
    work(short)
    # Below a millisecond the clock decides.
    assert _seconds(lambda: work(long)) <= _MOST * max(_seconds(lambda: work(short)), 0.001)
