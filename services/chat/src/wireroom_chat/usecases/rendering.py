"""Answers that are made here, in OpenAI's shapes: whole, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from wireroom_chat.domain.answer import AnswerMode, AnswerText, Ending, Piece, Searched, ToolEvent
from wireroom_chat.domain.checkpoint import Written
from wireroom_chat.domain.passages import Span
from wireroom_chat.domain.request import ChatRequest
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.domain.wire import (
    EXTRACTIVE_FINGERPRINT,
    ChunkWriter,
    Links,
    annotation_objects,
    citation_objects,
    completion_object,
    remarks_of,
)
from wireroom_chat.usecases.answer_cache import KeptAnswer
from wireroom_chat.usecases.run import Run
from wireroom_chat.usecases.usage import prompt_tokens

# What answers are made of: what the search found, the mode (tools may come before it), then pieces, then the ending.
Item = AnswerMode | Piece | Searched | ToolEvent | Ending
# Whose clients get frames that tell of tools.
_NATIVE = "session"


class Rendering:
    """Notes on the run what its answer turned out to be."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def whole(self, request: ChatRequest, items: Sequence[Item], run: Run) -> bytes:
        """The chat completion object."""
        answer = AnswerText()
        ending = Ending()
        events = [item.members() for item in items if isinstance(item, ToolEvent)]
        for item in items:
            if isinstance(item, Piece):
                run.first_token()
                answer.add(item)
            elif isinstance(item, Ending):
                ending = item
            elif isinstance(item, AnswerMode):
                run.mode = item
            elif isinstance(item, Searched):
                _note_search(item, run)
        self._finish(request, answer, ending, run)
        return completion_object(
            completion_id=run.completion_id,
            created=run.created,
            model=run.model,
            message={"role": "assistant", "content": answer.text, "refusal": None, "annotations": run.annotations},
            finish_reason=ending.finish_reason,
            citations=run.citation_list,
            tokens=run.tokens(),
            fingerprint=_fingerprint(run),
            tool_events=events,
            remarks=run.remarks,
        )

    async def chunks(
        self, request: ChatRequest, items: AsyncGenerator[Item, None], run: Run, *, opened: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The chunks of a stream. `opened`: it has been said who speaks.

        Quoted answers are known as a whole, so their last sentence carries the annotations; generated ones end with an empty piece.
        """
        stream = _Stream(request, run, opened=opened)
        async with aclosing(items):
            async for item in items:
                for chunk in stream.take(item):
                    yield chunk
        self._finish(request, stream.answer, stream.ending, run)
        for chunk in stream.rest():
            yield chunk

    async def ending(self, request: ChatRequest, written: Written, run: Run) -> AsyncGenerator[bytes, None]:
        """The last chunks of an answer whose text and annotations have been sent."""
        writer = _writer(request, run)
        run.finish_reason = "stop"
        run.citations = len(written.annotations or ())
        run.own_tokens = (prompt_tokens(request.messages), count_tokens(written.text))
        yield writer.finish(run.finish_reason)
        if request.include_usage:
            yield writer.usage(*run.tokens())

    def kept(self, answer: KeptAnswer, run: Run) -> bytes:
        """An answer that was given before, as a new completion object."""
        _take_over(answer, run)
        return completion_object(
            completion_id=run.completion_id,
            created=run.created,
            model=run.model,
            message=answer.message,
            finish_reason=answer.finish_reason,
            citations=answer.citations,
            tokens=run.tokens(),
            fingerprint=_fingerprint(run),
            remarks=answer.remarks,
        )

    async def kept_chunks(self, answer: KeptAnswer, request: ChatRequest, run: Run) -> AsyncGenerator[bytes, None]:
        """An answer that was given before, as a stream: its text in one piece."""
        _take_over(answer, run)
        writer = _writer(request, run)
        yield writer.role()
        yield writer.content(str(answer.message.get("content") or ""), answer.message.get("annotations") or None)
        yield writer.finish(answer.finish_reason)
        if request.include_usage:
            yield writer.usage(*run.tokens())

    def _finish(self, request: ChatRequest, answer: AnswerText, ending: Ending, run: Run) -> None:
        run.citations = len(answer.annotations)
        run.annotations = annotation_objects(answer.annotations, self._links)
        run.citation_list = citation_objects(answer.annotations, self._links)
        run.remarks = remarks_of(answer, ending)
        run.spans = [Span.of(annotation.citation.quote) for annotation in answer.annotations]
        run.finish_reason = ending.finish_reason
        run.own_tokens = (prompt_tokens(request.messages), count_tokens(answer.text))
        if run.kept:
            run.text = [answer.text]
            run.message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": run.annotations}


class _Stream:
    """A stream in the making."""

    def __init__(self, request: ChatRequest, run: Run, *, opened: bool = False) -> None:
        self._opened = opened
        self._request = request
        self._run = run
        self._begun: ChunkWriter | None = None
        self._held = ""
        self.answer = AnswerText()
        self.ending = Ending()

    def take(self, item: Item) -> Iterator[bytes]:
        """The chunks that an item makes."""
        if isinstance(item, Piece):
            yield from self._piece(item)
        elif isinstance(item, Ending):
            self.ending = item
        elif isinstance(item, AnswerMode):
            self._run.mode = item
            yield from self._begin()
        elif isinstance(item, Searched):
            _note_search(item, self._run)
            for piece in item.released:
                self.answer.add(piece)
        elif self._run.generation.origin.kind == _NATIVE:
            # Clients of OpenAI's surface would take a call for theirs to run.
            yield from self._begin()
            yield self._writer.tool(item.members())

    def rest(self) -> Iterator[bytes]:
        """The chunks after the last item."""
        annotations = list(self._run.annotations)
        if self._held or annotations:
            yield self._writer.content(self._held, annotations or None)
        yield self._writer.finish(self.ending.finish_reason)
        if self._request.include_usage:
            yield self._writer.usage(*self._run.tokens())

    @property
    def _writer(self) -> ChunkWriter:
        if self._begun is None:
            raise RuntimeError("an answer begins with its mode")
        return self._begun

    def _begin(self) -> Iterator[bytes]:
        if self._begun is None:
            self._begun = _writer(self._request, self._run)
            if not self._opened:
                yield self._begun.role()

    def _piece(self, piece: Piece) -> Iterator[bytes]:
        run = self._run
        run.first_token()
        self.answer.add(piece)
        run.citations = len(self.answer.annotations)
        if run.kept:
            run.text.append(piece.text)
        if run.mode is AnswerMode.GENERATED:
            yield self._writer.content(piece.text)
            return
        if self._held:
            yield self._writer.content(self._held)
        self._held = piece.text


def _writer(request: ChatRequest, run: Run) -> ChunkWriter:
    return ChunkWriter(
        completion_id=run.completion_id,
        created=run.created,
        model=run.model,
        fingerprint=_fingerprint(run),
        include_usage=request.include_usage,
    )


def _note_search(searched: Searched, run: Run) -> None:
    run.retrieval, run.sources = searched.retrieval, searched.sources
    run.terms = SourceTerms.union((run.terms, searched.terms))


def _take_over(kept: KeptAnswer, run: Run) -> None:
    run.first_token()
    run.mode = AnswerMode(kept.mode)
    run.terms = SourceTerms.read(kept.terms)
    run.message = kept.message
    run.annotations = kept.message.get("annotations") or ()
    run.citation_list = kept.citations
    run.citations = len(run.annotations)
    run.finish_reason = kept.finish_reason
    run.own_tokens = (kept.tokens_in, kept.tokens_out)
    run.text = [str(kept.message.get("content") or "")]


def _fingerprint(run: Run) -> str | None:
    return EXTRACTIVE_FINGERPRINT if run.mode is not AnswerMode.GENERATED and not run.attempts else None
