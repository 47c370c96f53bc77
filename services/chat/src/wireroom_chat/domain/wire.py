"""The JSON of OpenAI's chat completion objects, for answers that are made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from wireroom_chat.domain.answer import AnswerText, Ending
from wireroom_chat.domain.passages import Annotation, SourceKind

EXTRACTIVE_FINGERPRINT = "extractive-v1"


class Links:
    """Addresses of citations, built from the installation's public URL."""

    def __init__(self, public_url: str) -> None:
        self._base = public_url.rstrip("/")

    def permalink(self, citation_id: str) -> str:
        """Where the citation can be checked; permission is checked there."""
        return f"{self._base}/api/v1/citations/{quote(citation_id, safe='')}"

    def url(self, annotation: Annotation) -> str:
        """The article's public address, or the permalink."""
        passage = annotation.citation.quote.passage
        if passage.kind is SourceKind.ARTICLE and passage.url.startswith(("http://", "https://")):
            return passage.url
        return self.permalink(annotation.citation.id)


def annotation_objects(annotations: Sequence[Annotation], links: Links) -> list[dict[str, Any]]:
    """`message.annotations`, as the `openai` package types them."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": links.url(annotation),
                "title": annotation.citation.quote.passage.title,
                "start_index": annotation.start,
                "end_index": annotation.end,
            },
        }
        for annotation in annotations
    ]


def citation_objects(annotations: Sequence[Annotation], links: Links) -> list[dict[str, Any]]:
    """The top-level `citations` member: one entry per cited span, in order of first use."""
    result: dict[str, dict[str, Any]] = {}
    for annotation in annotations:
        citation = annotation.citation
        passage = citation.quote.passage
        start, end = citation.quote.span
        result.setdefault(
            citation.id,
            {
                "marker": annotation.number,
                "citation_id": citation.id,
                "document_id": passage.document_id,
                "version": passage.version,
                "kind": passage.kind.value,
                "title": passage.title,
                "url": links.url(annotation),
                "permalink": links.permalink(citation.id),
                "page": passage.page or None,
                "start": start,
                "end": end,
                "quote": citation.quote.text,
                "sha256": citation.sha256,
                "support": citation.support,
                "score": citation.score,
            },
        )
    return list(result.values())


def remarks_of(answer: AnswerText, ending: Ending) -> dict[str, Any]:
    """Members that say what an answer lacks: `missing`, what no source holds, and `unsupported`, the code points of flagged sentences."""
    flagged = [{"start_index": start, "end_index": end} for start, end in answer.flags]
    return {
        **({"missing": list(ending.missing)} if ending.missing else {}),
        **({"unsupported": flagged} if flagged else {}),
    }


def usage_object(tokens_in: int, tokens_out: int) -> dict[str, int]:
    """`usage`."""
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def completion_object(
    *,
    completion_id: str,
    created: int,
    model: str,
    message: Mapping[str, Any],
    finish_reason: str,
    citations: Sequence[Mapping[str, Any]],
    tokens: tuple[int, int],
    fingerprint: str | None,
    tool_events: Sequence[Mapping[str, Any]] = (),
    remarks: Mapping[str, Any] | None = None,
) -> bytes:
    """A whole chat completion; `citations` as this module renders them, `tool_events` and `remarks` only where there are any."""
    return orjson.dumps(
        {
            "id": completion_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": finish_reason,
                }
            ],
            "usage": usage_object(*tokens),
            "citations": citations,
            **({"tool_events": tool_events} if tool_events else {}),
            **(remarks or {}),
        }
    )


class ChunkWriter:
    """Chunks of one stream; the parts that repeat are rendered once."""

    def __init__(self, *, completion_id: str, created: int, model: str, fingerprint: str | None, include_usage: bool) -> None:
        head = orjson.dumps(
            {
                "id": completion_id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
                "system_fingerprint": fingerprint,
            }
        )[:-1]
        self._head = head + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null}' if include_usage else b"}")
        self._end = b'}],"usage":null}' if include_usage else b"}]}"
        self._usage = head + b',"choices":[],"usage":'

    def role(self) -> bytes:
        """The first chunk."""
        return self._head + b'{"role":"assistant","content":""}' + self._tail

    def content(self, text: str, annotations: Sequence[Mapping[str, Any]] | None = None) -> bytes:
        """A chunk with text; the last one carries the annotations."""
        extra = b',"annotations":' + orjson.dumps(annotations) if annotations is not None else b""
        return self._head + b'{"content":' + orjson.dumps(text) + extra + b"}" + self._tail

    def tool(self, event: Mapping[str, Any]) -> bytes:
        """A chunk that tells of a tool; not for OpenAI's clients."""
        return self._head + b'{"tool_event":' + orjson.dumps(event) + b"}" + self._tail

    def finish(self, reason: str) -> bytes:
        """The chunk that says why the answer ended."""
        return self._head + b'{},"logprobs":null,"finish_reason":' + orjson.dumps(reason) + self._end

    def usage(self, tokens_in: int, tokens_out: int) -> bytes:
        """The chunk after the last one, for clients that asked for it."""
        return self._usage + orjson.dumps(usage_object(tokens_in, tokens_out)) + b"}"
