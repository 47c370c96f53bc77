"""Texts cut and embedded for the generations that they are written to, each as its blueprint says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.chunking import Chunker, Chunkers
from wireroom_rag.domain.document import Chunk, ExtractedText
from wireroom_rag.domain.generation import Generation, GenerationState
from wireroom_rag.domain.headings import title_terms
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import Passages, Vectors
from wireroom_rag.ports.generations import LiveGenerations, Models

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cut:
    """A text's chunks, with the terms of each and of what stands above it."""

    chunks: Sequence[Chunk]
    terms: Sequence[Counter[str]]
    title_terms: Sequence[Counter[str]]

    @property
    def texts(self) -> list[str]:
        """What is embedded."""
        return [chunk.text for chunk in self.chunks]


# One text's, by the id of the chunker.
Cuts = Mapping[str, Cut]


async def cut(chunker: Chunker, found: ExtractedText, title: str) -> Cut:
    """Cut one text, in a thread and a stretch at a time."""
    chunks: list[Chunk] = []
    terms: list[Counter[str]] = []
    for start, end in chunker.stretches(found):
        more, counts = await asyncio.to_thread(_stretch, chunker, found, start, end)
        chunks += more
        terms += counts
    return Cut(chunks, terms, await asyncio.to_thread(title_terms, title, found.content, chunks))


async def embed_with(models: Models, tenant_id: UUID, generation: Generation, texts: Sequence[str]) -> Vectors:
    """Vectors by the model of the tenant's generation. UNAVAILABLE when that is not set up (any more), or does not answer."""
    embeddings = models.of(generation.blueprint, tenant_id)
    if embeddings is None:
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "embedding_model_not_set_up",
            f"The embedding model '{generation.blueprint.model}' ({generation.blueprint.dimension} dimensions) is not set up.",
            retry_after=30,
        )
    return await embeddings.passages(texts)


class MakePassages:
    """For every generation that a tenant's documents are written to; one chunker cuts once, however many generations use it."""

    def __init__(self, generations: LiveGenerations, models: Models, chunkers: Chunkers) -> None:
        self._generations = generations
        self._models = models
        self._chunkers = chunkers

    async def live(self, tenant_id: UUID) -> Sequence[Generation]:
        """The serving one, and behind it the one that is being built, if one is."""
        return await self._generations.live(tenant_id)

    async def cuts(self, found: ExtractedText, title: str, generations: Sequence[Generation]) -> Cuts:
        """The text as each of the generations wants it."""
        names = dict.fromkeys(generation.blueprint.chunker for generation in generations)
        return {name: await cut(self._chunkers.of(name), found, title) for name in names}

    async def embedded(
        self, tenant_id: UUID, generations: Sequence[Generation], texts: Sequence[Cuts]
    ) -> list[dict[int, Passages]]:
        """Of each text, by generation number; together, so that short ones share the model's batches.

        A generation that is being built is left out when its model does not answer: what is missing is built later, and nobody waits.
        """
        made: list[dict[int, Passages]] = [{} for _ in texts]
        for generation in generations:
            cuts = [each[generation.blueprint.chunker] for each in texts]
            try:
                vectors = await embed_with(self._models, tenant_id, generation, [text for each in cuts for text in each.texts])
            except WireroomError as error:
                if generation.state is not GenerationState.BUILDING:
                    raise
                _log.warning("building_generation_skipped", generation=generation.number, error=error.code)
                continue
            first = 0
            for own, each in zip(made, cuts, strict=True):
                last = first + len(each.chunks)
                own[generation.number] = Passages(each.chunks, vectors[first:last], each.terms, each.title_terms)
                first = last
        return made


def _stretch(chunker: Chunker, found: ExtractedText, start: int, end: int) -> tuple[list[Chunk], list[Counter[str]]]:
    chunks = chunker.chunks(found, start, end)
    lexicon = Lexicon()
    return chunks, [lexicon.terms(chunk.text) for chunk in chunks]
