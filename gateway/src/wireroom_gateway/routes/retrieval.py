"""Passages, answers from them, and the citations that answers carry."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import Bucket, access
from wireroom_gateway.reattaching import chunk_stream
from wireroom_gateway.routes.answering import Headers, Waiting, told
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.chat.frames import NativeFrames, error_frame
from wireroom_gateway.routes.chat.sessions import ModelName, citations_of
from wireroom_gateway.routes.chat.streaming import EVENTS, EventStream
from wireroom_gateway.routes.fields import Input, Line, Moment, Output, moment, timestamp
from wireroom_gateway.routes.openai.answers import answer_headers
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.chat.v1.conversation_pb2 import StreamEnd, StreamFrame
from wireroom_protos.rag.v1 import rag_pb2

Kind = Literal["document", "article"]
_KINDS = {"document": rag_pb2.SOURCE_KIND_DOCUMENT, "article": rag_pb2.SOURCE_KIND_ARTICLE}
_KIND_NAMES = {value: name for name, value in _KINDS.items()}
# The names that chat completions have for the kinds.
_SOURCES = {"document": "docs", "article": "news"}
_MODEL = "grounded"
Question = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
TopK = Annotated[int, Field(ge=1, le=50)]


class QueryInput(Input):
    """A question to the caller's documents and articles; `since` (RFC 3339) leaves out older articles.

    `collections`: ids or names; of the documents only their members are searched, and no articles unless `kinds` names them.
    `explain`: each passage tells how it came to its place. `neighbours`: each with what stands before and behind it. `diversity`: 0 for
    the best passages, up to 1 for passages that differ.
    """

    query: Question
    top_k: TopK = 8
    kinds: Annotated[list[Kind], Field(max_length=2, default_factory=list)]
    since: Moment = None
    collections: Annotated[list[Line], Field(max_length=20, default_factory=list)]
    explain: bool = False
    neighbours: bool = False
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0


class ExplanationOutput(Output):
    """Ranks from 1, 0 where that leg did not find the passage; `field_scores`: BM25 by field."""

    dense_rank: int
    dense_score: float
    lexical_rank: int
    lexical_score: float
    field_scores: dict[str, float]
    fused_score: float
    rerank_score: float
    mmr_penalty: float
    recency_score: float


class PassageOutput(Output):
    """A passage; `start` and `end` are code points of that version's text, end exclusive."""

    id: str
    document_id: str
    version: int
    kind: str
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    score: float
    dense_score: float
    lexical_score: float
    published_at: datetime | None
    explanation: ExplanationOutput | None = None


class PassagesOutput(Output):
    """Passages, best first. `degraded`: what had to be done without; `lexical`: words alone decided; `unranked`: no reranker answered."""

    passages: list[PassageOutput]
    degraded: list[str]


class AnswerInput(Input):
    """A question to be answered from the caller's sources alone (`strict`) or, where they do not suffice, beyond them (`assist`).

    `unsupported`: what becomes of sentences that their source does not bear out. `model`: who writes; `extractive` only quotes.
    """

    question: Question
    kinds: Annotated[list[Kind], Field(max_length=2, default_factory=list)]
    collections: Annotated[list[Line], Field(max_length=20, default_factory=list)]
    since: Moment = None
    top_k: TopK = 8
    mode: Literal["strict", "assist"] = "strict"
    unsupported: Literal["drop", "flag"] | None = None
    model: ModelName = _MODEL


class AnswerCitationOutput(Output):
    """A cited span: what stands at `start` to `end` (code points) of that version, and the SHA-256 of it.

    `support`: how it was checked; "quote" (verbatim), "similar" (words and meaning) or "words" (no vectors were to be had).
    """

    id: str
    marker: int
    document_id: str
    version: int
    kind: str
    title: str
    url: str
    permalink: str
    page: int | None
    start: int
    end: int
    quote: str
    sha256: str
    support: str
    score: float


class AnswerOutput(Output):
    """`answer_mode`: generated, extractive or abstained. `annotations`: which code points of `answer` rest on which address.

    `missing`: what was asked for and stands in no source. `unsupported`: the flagged code points of `answer`.
    """

    answer: str
    answer_mode: str
    annotations: list[Any]
    citations: list[AnswerCitationOutput]
    missing: list[str]
    unsupported: list[Any]
    finish_reason: str
    model: str
    usage: Any


class CitationOutput(Output):
    """The cited span in its surroundings."""

    id: str
    document_id: str
    version: int
    kind: str
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    sha256: str
    context_before: str
    context_after: str


class AnswerEvents:
    """The chunks of a completion as the events of the native surface."""

    def __init__(self) -> None:
        self._frames = NativeFrames()
        self._info: chat_pb2.CompletionInfo | None = None
        self._seq = 0

    def take(self, part: Any) -> bytes:
        if part.HasField("info"):
            self._info = self._info or part.info
            return self._events(StreamFrame(seq=part.seq, info=part.info))
        chunks = (part.data, *part.more)
        return b"".join([self._events(StreamFrame(seq=part.seq + place, data=data)) for place, data in enumerate(chunks)])

    def headers(self) -> Headers:
        return answer_headers(self._info, final=False)

    def end(self, scope: Any, error: Exception | None) -> bytes:
        if error is None:
            return self._events(StreamFrame(seq=self._seq + 1, end=StreamEnd(status="completed")))
        told(scope, error)
        return error_frame(error).event()

    def _events(self, frame: StreamFrame) -> bytes:
        self._seq = frame.seq
        return b"".join([native.event() for native in self._frames.of(frame)])


def add_retrieval_routes(api: FastAPI, services: Services, waiting: Waiting, *, timeout: float) -> None:
    """`/api/v1/rag`, `/api/v1/citations`. `waiting` for answers, `timeout` for the rest."""

    @api.post("/api/v1/rag/query", tags=["retrieval"], responses=problem_responses(404, 409, 415))
    @access("docs:read", prompt=True)
    async def query(body: QueryInput, response: Response) -> PassagesOutput:
        answer = await services.retrieval.Retrieve(
            rag_pb2.RetrieveRequest(
                query=body.query,
                top_k=body.top_k,
                kinds=[_KINDS[kind] for kind in body.kinds],
                since=timestamp(body.since),
                collection_ids=body.collections,
                explain=body.explain,
                neighbours=body.neighbours,
                diversity=body.diversity,
            ),
            timeout=timeout,
        )
        if answer.degraded:
            response.headers["X-Retrieval"] = f"degraded: {', '.join(answer.degraded)}"
        return PassagesOutput(passages=[_passage(entry) for entry in answer.passages], degraded=list(answer.degraded))

    @api.post("/api/v1/rag/answer", tags=["retrieval"], responses=problem_responses(404, 409, 415))
    @access("llm:invoke", bucket=Bucket.CHAT, prompt=True)
    async def answer(body: AnswerInput, response: Response) -> AnswerOutput:
        answered = await services.inference.Complete(chat_pb2.CompleteRequest(body=_completion(body)), timeout=waiting.answer)
        for name, value in answer_headers(answered.info, final=True):
            response.headers[name.decode()] = value.decode()
        return _answer(answered)

    @api.post(
        "/api/v1/rag/answer/stream",
        tags=["retrieval"],
        status_code=200,
        response_class=EventStream,
        response_model=None,
        description="Events `ready`, `token` (each a checked sentence), `citation`, `usage`, then `done` or `error`.",
        responses={200: EVENTS, **problem_responses(404, 409, 415)},
    )
    @access("llm:invoke", bucket=Bucket.CHAT, prompt=True)
    async def stream_answer(body: AnswerInput) -> EventStream:
        call = services.inference.StreamComplete(
            chat_pb2.StreamCompleteRequest(body=_completion(body, stream=True)), timeout=waiting.answer
        )
        return EventStream(chunk_stream(call, services.streams, waiting.answer), AnswerEvents(), waiting)

    @api.get("/api/v1/citations/{id}", tags=["retrieval"], responses=problem_responses(404))
    @access("docs:read")
    async def citation(id: str) -> CitationOutput:  # noqa: A002 - the path's name for it
        found = await services.retrieval.ResolveCitation(rag_pb2.ResolveCitationRequest(citation_id=id), timeout=timeout)
        return CitationOutput(
            id=found.citation_id,
            document_id=found.document_id,
            version=found.version,
            kind=_KIND_NAMES.get(found.kind, "unknown"),
            title=found.title,
            url=found.url,
            page=found.page,
            start=found.start,
            end=found.end,
            text=found.text,
            sha256=found.sha256,
            context_before=found.context_before,
            context_after=found.context_after,
        )


def _completion(body: AnswerInput, *, stream: bool = False) -> bytes:
    """The same question as a chat completion."""
    sources: list[str] = []
    if "article" in body.kinds:
        sources.append(_SOURCES["article"])
    if body.collections:
        sources += [f"docs:{name}" for name in body.collections]
    elif "document" in body.kinds:
        sources.append(_SOURCES["document"])
    grounding: dict[str, Any] = {"top_k": body.top_k, "mode": body.mode}
    if sources:
        grounding["sources"] = sources
    if body.since is not None:
        grounding["since"] = body.since.isoformat()
    if body.unsupported is not None:
        grounding["unsupported"] = body.unsupported
    return orjson.dumps(
        {
            "model": body.model,
            "messages": [{"role": "user", "content": body.question}],
            "grounding": grounding,
            **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        }
    )


def _answer(answered: chat_pb2.CompleteResponse) -> AnswerOutput:
    completion = orjson.loads(answered.body)
    choice = completion["choices"][0]
    said = choice["message"]
    return AnswerOutput(
        answer=said.get("content") or "",
        answer_mode=answered.info.answer_mode,
        annotations=citations_of(said.get("annotations")),
        citations=[_cited(entry) for entry in completion.get("citations") or ()],
        missing=completion.get("missing") or [],
        unsupported=completion.get("unsupported") or [],
        finish_reason=choice.get("finish_reason") or "",
        model=answered.info.model,
        usage=completion.get("usage"),
    )


def _cited(entry: dict[str, Any]) -> AnswerCitationOutput:
    members = AnswerCitationOutput.model_fields
    return AnswerCitationOutput(**{**{name: entry.get(name) for name in members if name in entry}, "id": entry["citation_id"]})


def _passage(passage: rag_pb2.Passage) -> PassageOutput:
    return PassageOutput(
        id=passage.id,
        document_id=passage.document_id,
        version=passage.version,
        kind=_KIND_NAMES.get(passage.kind, "unknown"),
        title=passage.title,
        url=passage.url,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=passage.score,
        dense_score=passage.dense_score,
        lexical_score=passage.lexical_score,
        published_at=moment(passage, "published_at"),
        explanation=_explanation(passage.explanation) if passage.HasField("explanation") else None,
    )


def _explanation(found: rag_pb2.Explanation) -> ExplanationOutput:
    return ExplanationOutput(
        dense_rank=found.dense_rank,
        dense_score=found.dense_score,
        lexical_rank=found.lexical_rank,
        lexical_score=found.lexical_score,
        field_scores=dict(found.field_scores),
        fused_score=found.fused_score,
        rerank_score=found.rerank_score,
        mmr_penalty=found.mmr_penalty,
        recency_score=found.recency_score,
    )
