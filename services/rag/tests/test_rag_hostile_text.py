"""Texts that are made to keep a reader busy: each of them would hold the process up for minutes or for ever."""

from __future__ import annotations

import io

import pytest

from wireroom_rag.extraction.media_types import HTML, TEXT, media_type_of
from wireroom_rag.extraction.text import clean, stored_text

JOINER = "\u200d"
# A letter of a script in which joiners mean something.
KA = "\u0915"


@pytest.mark.parametrize("comment", ["<!---->", "<!-- a -->\n", "<!----> "])
def test_comments_are_looked_at_once(comment: str) -> None:
    comments = comment.encode() * (60_000 // len(comment))
    assert media_type_of("a.txt", comments + b"no page", io.BytesIO) == TEXT
    assert media_type_of("a.txt", comments + b"<!DOCTYPE html><p>a", io.BytesIO) == HTML
    assert media_type_of("a.txt", comments + b"<!-- without an end", io.BytesIO) == TEXT


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0"])
def test_blanks_are_looked_at_once(blank: str) -> None:
    run = blank * 1_000_000
    assert clean(f"a{run}b") == f"a{run}b"
    assert clean(f"a{run}\nb") == "a\nb"
    assert stored_text([f"a{run}\n{run}\n{run}\nb"], paged=False, max_characters=2_000_000_000).content == "a\n\nb"


def test_joiners_are_looked_at_once() -> None:
    run = JOINER * 500_000
    assert clean(f"{KA}{run}{KA}") == f"{KA}{JOINER}{KA}"
    assert clean(f"{KA}{run}a") == f"{KA}a"
    assert clean(f"a{run}{KA}") == f"a{KA}"
    assert clean(f"{run}{KA}") == KA
