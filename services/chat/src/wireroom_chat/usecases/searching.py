"""Search in documents and news: side by side, each with the deadline of retrieval, and what one of them alone is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from wireroom_chat.domain.answer import Retrieved
from wireroom_chat.domain.fusion import fused
from wireroom_chat.domain.passages import Passage, SourceKind
from wireroom_chat.domain.request import Grounding
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_common.errors import ErrorKind, WireroomError

# Failures that lie with the index; others are the request's.
_FAILED = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED, ErrorKind.INTERNAL})
_KINDS = (SourceKind.DOCUMENT, SourceKind.ARTICLE)

log = structlog.get_logger()


class SourcesUnavailableError(WireroomError):
    """No kind of source could be searched."""


def lies_with_the_index(error: WireroomError) -> bool:
    """Whether a search or a check of quotes failed without the request's fault."""
    return error.kind in _FAILED


@dataclass(frozen=True)
class Found:
    """Passages, best first, and whether all of the sources were looked through."""

    passages: list[Passage]
    retrieval: Retrieved = Retrieved.COMPLETE


class Search:
    """One call for each kind of source."""

    def __init__(self, retrieval: Retrieval) -> None:
        self._retrieval = retrieval

    async def find(self, query: str, grounding: Grounding) -> Found:
        """At most `grounding.top_k` passages of the kinds that were searched in time.

        A kind that the caller may not read is left out unless it was asked for by name. SourcesUnavailableError when no kind could be
        searched (UNAVAILABLE `retrieval_unavailable`, DEADLINE `retrieval_timeout`); what the request is at fault for passes through.
        """
        kinds = _kinds(grounding)
        answers = await asyncio.gather(*(self._of(query, replace(grounding, kinds=(kind,))) for kind in kinds))
        errors = [answer for answer in answers if isinstance(answer, WireroomError)]
        lists = [answer for answer in answers if not isinstance(answer, WireroomError)]
        failed = [error for error in errors if error.kind in _FAILED]
        for error in errors:
            left_out = error.kind is ErrorKind.FORBIDDEN and not grounding.kinds and (lists or failed)
            if error.kind not in _FAILED and not left_out:
                raise error
        if not failed:
            return Found(fused(lists, grounding.top_k))
        log.warning(
            "chat.retrieval.failed", kinds=[kind.value for kind, answer in zip(kinds, answers, strict=True) if answer in failed]
        )
        if not lists:
            raise _unavailable(failed)
        return Found(fused(lists, grounding.top_k), Retrieved.PARTIAL)

    async def _of(self, query: str, grounding: Grounding) -> list[Passage] | WireroomError:
        try:
            return await self._retrieval.retrieve(query, grounding)
        except WireroomError as error:
            return error


def _kinds(grounding: Grounding) -> Sequence[SourceKind]:
    if grounding.kinds:
        # Always in the same order, whatever the request's: the answer does not depend on it.
        return tuple(kind for kind in _KINDS if kind in grounding.kinds)
    # Articles are in no collection.
    return (SourceKind.DOCUMENT,) if grounding.collections else _KINDS


def _unavailable(errors: Sequence[WireroomError]) -> WireroomError:
    late = all(error.kind is ErrorKind.DEADLINE for error in errors)
    return SourcesUnavailableError(
        ErrorKind.DEADLINE if late else ErrorKind.UNAVAILABLE,
        "retrieval_timeout" if late else "retrieval_unavailable",
        "The search in the sources did not end in time. Try again."
        if late
        else "The sources cannot be searched at the moment. Try again.",
        retry_after=max(1.0, *(error.retry_after for error in errors)),
    )
