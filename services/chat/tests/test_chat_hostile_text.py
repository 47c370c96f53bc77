"""Answers that a source had the model write, made to keep the reader of its markers busy."""

from __future__ import annotations

import pytest

from wireroom_chat.domain.markers import Marked
from wireroom_chat.domain.verification import SentenceBuffer

MANY = 300_000


@pytest.mark.parametrize("run", [" ", "\n", "\t"])
def test_blanks_of_a_sentence_are_looked_at_once(run: str) -> None:
    marked = Marked(f"The lark sings{run * MANY}at four [1].")
    assert marked.numbers == [1]
    assert marked.claim == f"The lark sings{run * MANY}at four."
    assert Marked(f"It sings{run * MANY}[2]").claim == "It sings"


@pytest.mark.parametrize("run", [" ", "\n", ".", " \n"])
def test_blanks_and_stops_between_sentences_are_looked_at_once(run: str) -> None:
    written = f"The lark sings.{run * MANY} The owl sleeps. "
    buffer = SentenceBuffer()
    sentences = [*buffer.feed(written), *buffer.rest()]
    assert "".join(sentences) == written
    assert sentences[-1].split() == ["The", "owl", "sleeps."]
