"""Passages that fit the model, cut where the text has its joints, none across two pages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from wireroom_rag.domain.document import Chunk, ExtractedText, page_at

# The model reads 256 tokens, two of which are its own marks.
CHUNK_TOKENS = 250
# Rename it when texts are cut otherwise: generations say by which they were made.
CHUNKER = "tokens-250"
# Longer stretches are cut at a paragraph first: the splitter holds the interpreter's lock while it works.
_STRETCH = 20_000


class Chunker:
    """Cuts texts. Blocking: call it in a thread, one stretch at a time for long texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def stretches(self, found: ExtractedText) -> Sequence[tuple[int, int]]:
        """Parts of the text to be cut one by one: pages, and of long ones at most 20,000 characters."""
        content = found.content
        bounds = [*found.page_starts, len(content)] if found.page_starts else [0, len(content)]
        return [part for start, end in itertools.pairwise(bounds) for part in _parts(content, start, end)]

    def chunks(self, found: ExtractedText, start: int, end: int) -> list[Chunk]:
        """The chunks of one stretch: `found.content[chunk.start:chunk.end] == chunk.text`, none empty, none above 250 tokens."""
        page = page_at(found.page_starts, start)
        return [
            Chunk(start + offset, start + offset + len(piece), page, piece)
            for offset, piece in self._cut(found.content[start:end])
            if not piece.isspace() and piece
        ]

    def all_chunks(self, found: ExtractedText) -> list[Chunk]:
        """The chunks of a short text."""
        return [chunk for start, end in self.stretches(found) for chunk in self.chunks(found, start, end)]

    def windows(self, query: str) -> list[str]:
        """A query in parts that the model reads whole; usually one."""
        return [piece for _, piece in self._cut(query)]

    def count_tokens(self, text: str) -> int:
        """Tokens of the text itself, without the model's own marks."""
        return self._tokens(text)

    def _cut(self, text: str) -> list[tuple[int, str]]:
        """Offsets and pieces: full ones, the last two evened out. A last one of a few words would be close to any query about them."""
        pieces = self._split(text, CHUNK_TOKENS)
        if len(pieces) > 1 and self._tokens(pieces[-1][1]) < CHUNK_TOKENS // 2:
            first = pieces[-2][0]
            half = math.ceil(self._tokens(text[first:]) / 2)
            pieces[-2:] = [(first + offset, piece) for offset, piece in self._split(text[first:], min(half, CHUNK_TOKENS))]
        return pieces

    def _split(self, text: str, fill: int) -> list[tuple[int, str]]:
        # By callback: `from_huggingface_tokenizer` would keep a copy of the whole tokenizer (8 MB).
        return TextSplitter.from_callback(self._tokens, (fill, CHUNK_TOKENS)).chunk_indices(text)

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _parts(content: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > _STRETCH:
        cut = next(
            (
                found + len(joint)
                for joint in ("\n\n", "\n", ". ", " ")
                if (found := content.rfind(joint, start, start + _STRETCH)) > start
            ),
            start + _STRETCH,
        )
        yield start, cut
        start = cut
    if start < end:
        yield start, end
