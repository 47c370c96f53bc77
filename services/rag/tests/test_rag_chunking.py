from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wireroom_common.errors import WireroomError
from wireroom_rag.chunking import CHUNK_TOKENS, CHUNKER, Chunker, Chunkers, window_chunker
from wireroom_rag.domain.document import ExtractedText, RejectedError
from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import MAX_TOKENS
from wireroom_rag.extraction.text import stored_text

words = st.text(st.sampled_from("abcé🦉 \n.\t漢字-0"), max_size=60)
pages = st.lists(st.lists(words, max_size=40).map(" ".join), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def chunker(model: Model) -> Chunker:
    return Chunker(model.tokenizer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=pages)
def test_chunks_are_spans_of_their_page_and_fit_the_model(chunker: Chunker, model: Model, parts: list[str]) -> None:
    try:
        found = stored_text(parts, paged=True, max_characters=100_000)
    except RejectedError:
        return
    bounds = [*found.page_starts, len(found.content)]
    chunks = chunker.all_chunks(found)
    last = 0
    for chunk in chunks:
        assert found.content[chunk.start : chunk.end] == chunk.text
        assert chunk.start >= last
        assert bounds[chunk.page - 1] <= chunk.start < chunk.end <= bounds[chunk.page]
        assert len(model.tokenizer.encode(chunk.text).ids) <= MAX_TOKENS
        last = chunk.end
    covered = {position for chunk in chunks for position in range(chunk.start, chunk.end)}
    assert all(found.content[position].isspace() for position in set(range(len(found.content))) - covered)


def test_long_text_is_cut_into_full_chunks_without_loss(chunker: Chunker, model: Model) -> None:
    content = "".join(f"Sentence number {number} tells of harbour {number % 7}. " for number in range(4000)).strip()
    found = ExtractedText(content)
    assert len(chunker.stretches(found)) > 5
    chunks = chunker.all_chunks(found)
    assert "".join(content.split()) == "".join("".join(chunk.text.split()) for chunk in chunks)
    sizes = [len(model.tokenizer.encode(chunk.text, add_special_tokens=False).ids) for chunk in chunks]
    assert max(sizes) <= CHUNK_TOKENS
    assert {chunk.page for chunk in chunks} == {0}


def test_word_longer_than_any_chunk_is_still_cut(chunker: Chunker, model: Model) -> None:
    found = ExtractedText("ab" * 30_000)
    chunks = chunker.all_chunks(found)
    assert "".join(chunk.text for chunk in chunks) == found.content
    assert all(len(model.tokenizer.encode(chunk.text).ids) <= MAX_TOKENS for chunk in chunks)


def test_chunker_of_a_window_fills_it_and_counts_words_nobody_knows_by_their_length(chunker: Chunker, model: Model) -> None:
    chunkers = Chunkers(lambda: model.tokenizer)
    content = "".join(f"Sentence number {number} tells of harbour {number % 7}. " for number in range(600)).strip()
    sizes = [chunker.count_tokens(chunk.text) for chunk in chunkers.of(window_chunker(600)).all_chunks(ExtractedText(content))]
    assert 250 < min(sizes) <= max(sizes) <= 600
    unknown = chunkers.of(window_chunker(600)).all_chunks(ExtractedText("ab" * 30_000))
    assert max(len(chunk.text) for chunk in unknown) <= 600 * 8
    assert chunkers.of(CHUNKER).all_chunks(ExtractedText(content)) == chunker.all_chunks(ExtractedText(content))
    with pytest.raises(WireroomError) as refused:
        chunkers.of("sentences-2")
    assert refused.value.code == "chunker_unknown"


@pytest.mark.parametrize("sentences", range(16, 80, 3))
def test_no_text_ends_in_a_chunk_of_a_few_words(chunker: Chunker, model: Model, sentences: int) -> None:
    content = "".join(f"Sentence number {number} tells of harbour {number % 7}. " for number in range(sentences)).strip()
    sizes = [
        len(model.tokenizer.encode(chunk.text, add_special_tokens=False).ids)
        for chunk in chunker.all_chunks(ExtractedText(content))
    ]
    assert len(sizes) == 1 or min(sizes) >= CHUNK_TOKENS // 3
    assert max(sizes) <= CHUNK_TOKENS
