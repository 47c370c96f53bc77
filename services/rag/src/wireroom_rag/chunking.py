"""Passages that fit the model, cut where the text has its joints, none across two pages."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.document import Chunk, ExtractedText, page_at

# The local model reads 256 tokens, two of which are its own marks.
CHUNK_TOKENS = 250
# Rename it when texts are cut otherwise: generations say by which they were made.
CHUNKER = "tokens-250"
# For models whose tokens are not known here: the local model's are counted, which makes a single one of a word that it does not know.
_WINDOW = re.compile(r"window-([1-9]\d{1,3})")
_CHARACTERS_OF_A_TOKEN = 8
# Longer stretches are cut at a paragraph first: the splitter holds the interpreter's lock while it works.
_STRETCH = 20_000


def window_chunker(tokens: int) -> str:
    """The id of the chunker for a model, not the local one, that is to get at most so many tokens at once."""
    return f"window-{tokens}"


class Chunker:
    """Cuts texts into at most `tokens` tokens. Blocking: call it in a thread, one stretch at a time for long texts.

    `longest`: characters that count as one token at the most; 0 for as many as the tokenizer says.
    """

    def __init__(self, tokenizer: Tokenizer, tokens: int = CHUNK_TOKENS, *, longest: int = 0) -> None:
        self._tokenizer = tokenizer
        self._most = tokens
        self._longest = longest

    def stretches(self, found: ExtractedText) -> Sequence[tuple[int, int]]:
        """Parts of the text to be cut one by one: pages, and of long ones at most 20,000 characters."""
        content = found.content
        bounds = [*found.page_starts, len(content)] if found.page_starts else [0, len(content)]
        return [part for start, end in itertools.pairwise(bounds) for part in _parts(content, start, end)]

    def chunks(self, found: ExtractedText, start: int, end: int) -> list[Chunk]:
        """The chunks of one stretch: `found.content[chunk.start:chunk.end] == chunk.text`, none empty or above the limit."""
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
        pieces = self._split(text, self._most)
        if len(pieces) > 1 and self._tokens(pieces[-1][1]) < self._most // 2:
            first = pieces[-2][0]
            half = math.ceil(self._tokens(text[first:]) / 2)
            pieces[-2:] = [(first + offset, piece) for offset, piece in self._split(text[first:], min(half, self._most))]
        return pieces

    def _split(self, text: str, fill: int) -> list[tuple[int, str]]:
        # By callback: `from_huggingface_tokenizer` would keep a copy of the whole tokenizer (8 MB).
        return TextSplitter.from_callback(self._tokens, (fill, self._most)).chunk_indices(text)

    def _tokens(self, text: str) -> int:
        count = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return max(count, -(-len(text) // self._longest)) if self._longest else count


class Chunkers:
    """The chunkers by the ids that generations remember; `tokenizer` is the local model's, once it is loaded."""

    def __init__(self, tokenizer: Callable[[], Tokenizer]) -> None:
        self._tokenizer = tokenizer

    @property
    def local(self) -> Chunker:
        """The local model's."""
        return Chunker(self._tokenizer())

    def of(self, name: str) -> Chunker:
        """UNAVAILABLE for an id that this version does not know."""
        if name == CHUNKER:
            return self.local
        if found := _WINDOW.fullmatch(name):
            return Chunker(self._tokenizer(), int(found[1]), longest=_CHARACTERS_OF_A_TOKEN)
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "chunker_unknown",
            f"The index was made with '{name}', which this version does not know. Rebuild it.",
            retry_after=30,
        )


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
