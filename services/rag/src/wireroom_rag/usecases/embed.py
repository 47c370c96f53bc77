"""Vectors of texts by the installation's own model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from wireroom_common.errors import invalid
from wireroom_rag.chunking import Chunkers
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.ports.generations import Models

MODEL = "minilm-l6-v2"
MAX_TEXTS = 256
MAX_CHARACTERS = 32_000


class EmbedTexts:
    """Each text on its own: its vector does not depend on its neighbours."""

    def __init__(self, models: Models, chunkers: Chunkers) -> None:
        self._models = models
        self._chunkers = chunkers

    async def __call__(self, tenant_id: UUID, texts: Sequence[str]) -> list[tuple[Vectors, int]]:
        """Unit vector and tokens of each text, in order. INVALID names the first text that is empty or too long."""
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise invalid("texts_out_of_range", f"Between 1 and {MAX_TEXTS} texts are embedded at once.", field="texts")
        for number, content in enumerate(texts):
            if not content.strip() or len(content) > MAX_CHARACTERS:
                raise invalid(
                    "text_out_of_range", f"A text has between 1 and {MAX_CHARACTERS} characters.", field=f"texts[{number}]"
                )
        embeddings = self._models.of(self._models.blueprints[MODEL], tenant_id)
        if embeddings is None:
            msg = "The local embedding model is always set up."
            raise RuntimeError(msg)
        found = []
        for content in texts:
            windows, tokens = await asyncio.to_thread(self._prepare, content.replace("\x00", " "))
            found.append((await embeddings.query(windows), tokens))
        return found

    def _prepare(self, content: str) -> tuple[list[str], int]:
        chunker = self._chunkers.local
        return chunker.windows(content), chunker.count_tokens(content)
