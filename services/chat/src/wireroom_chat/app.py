"""The composition root of the chat service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol
from urllib.parse import urlsplit

import grpc.aio

from wireroom_chat.adapters.local_embeddings import NAME, RagEmbeddings
from wireroom_chat.adapters.responses_sql import SqlResponses
from wireroom_chat.adapters.retrieval import RagRetrieval
from wireroom_chat.adapters.sealing import Seal
from wireroom_chat.adapters.stream_buffer import RedisStreamBuffer
from wireroom_chat.adapters.vectors import RagVectors
from wireroom_chat.assistant_wiring import assistant_wiring
from wireroom_chat.budget_wiring import BudgetWiring
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.request import Unsupported
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.wire import Links
from wireroom_chat.metrics import ChatMetrics, StreamMetrics
from wireroom_chat.ports.providers import Embeddings
from wireroom_chat.ports.retrieval import Retrieval, TextVectors
from wireroom_chat.provider_wiring import ProviderWiring
from wireroom_chat.session_wiring import SessionWiring
from wireroom_chat.settings import ANSWER_SECONDS, ChatSettings
from wireroom_chat.transport.compatibility import CompatibilityServicer
from wireroom_chat.transport.grpc import InferenceServicer
from wireroom_chat.transport.responses import ResponseServicer
from wireroom_chat.transport.source_changes import source_changes
from wireroom_chat.transport.streams import StreamServicer
from wireroom_chat.usecases.answer_cache import PURPOSE, SOURCES, AnswerCache, Entry, Vectors, answers
from wireroom_chat.usecases.checking import Checking
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_chat.usecases.conversations import ORIGIN as SESSION_ORIGIN
from wireroom_chat.usecases.embedding import EmbedTexts
from wireroom_chat.usecases.generating import Generator
from wireroom_chat.usecases.generation_caps import GenerationCaps
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_chat.usecases.responding import Respond
from wireroom_chat.usecases.run import Runs
from wireroom_chat.usecases.stream_opening import StreamPolicy
from wireroom_chat.usecases.streams import Streams
from wireroom_chat.usecases.texts import CompleteText
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_protos.chat.v1 import chat_pb2_grpc, compatibility_pb2_grpc, conversation_pb2_grpc, responses_pb2_grpc


class AnyVectors(Vectors, TextVectors, Protocol):
    """Vectors of questions and of what answers say."""


def build(settings: ChatSettings, infra: Infra) -> Service:
    """The chat service with the rag service as its source of passages."""
    channel = infra.channel("rag")
    return assemble(
        settings,
        infra,
        RagRetrieval(channel, timeout=settings.retrieval_timeout),
        RagVectors(channel, timeout=settings.retrieval_timeout),
        {NAME: RagEmbeddings(channel, timeout=settings.retrieval_timeout)},
    )


def assemble(
    settings: ChatSettings,
    infra: Infra,
    retrieval: Retrieval,
    vectors: AnyVectors,
    embeddings: Mapping[str, Embeddings] | None = None,
) -> Service:
    """The chat service on any source of passages and vectors. `embeddings`: built-in embedding models, by name."""
    clock = infra.clock
    database = infra.database("chat")
    budgeting = BudgetWiring(settings, database, clock)
    conversing = SessionWiring(settings, database, clock)
    metrics = ChatMetrics(infra.registry)
    buffer = RedisStreamBuffer(
        infra.redis(),
        infra.secret("master"),
        ttl=settings.stream_kept,
        lease=settings.stream_lease,
        max_bytes=settings.stream_max_bytes,
    )
    streams = Streams(
        buffer,
        StreamMetrics(infra.registry),
        StreamPolicy(
            flush_interval=settings.stream_flush_milliseconds / 1000,
            take_up_after=settings.stream_take_up_after,
            max_followers=settings.stream_max_followers,
        ),
    )
    runs = Runs(
        budgeting.ledger,
        budgeting.pricing,
        clock,
        metrics,
        {SESSION_ORIGIN: conversing.sink},
        ownership=streams,
        caps=GenerationCaps(per_user=settings.max_generations_per_user, per_tenant=settings.max_generations_per_tenant),
    )
    providing = ProviderWiring(settings, infra, database)
    directory, health = providing.directory, providing.health
    terms = Terms()
    selector = QuoteSelector(terms)
    checking = Checking(terms, vectors, settings.support_timeout)
    hosts = {*settings.allowed_link_hosts, urlsplit(infra.public_url()).hostname or ""} - {""}
    assisting = assistant_wiring(
        settings,
        database,
        clock,
        retrieval=retrieval,
        selector=selector,
        terms=terms,
        public_url=infra.public_url(),
        checking=checking,
        hosts=hosts,
    )
    # Open also where none are kept: other replicas may keep them, and hear of changes from here.
    kept_answers = infra.caches().open(
        answers(settings.answer_cache_seconds or ANSWER_SECONDS), Entry, seal=Seal(infra.secret("master"), PURPOSE)
    )
    completing = CompleteChat(
        directory=directory,
        generator=Generator(directory, health),
        quoted=QuotedAnswer(retrieval, selector, hosts=hosts),
        grounded=GroundedAnswer(retrieval, selector, terms, checking=checking, hosts=hosts),
        runs=runs,
        streams=streams,
        links=Links(infra.public_url()),
        terms=terms,
        cache=AnswerCache(kept_answers, vectors, retrieval, clock, metrics) if settings.answer_cache_seconds else None,
        degrade=settings.degrade,
        assistants=assisting.assistants,
        assisting=assisting.answer,
        embedding_models=tuple(embeddings or ()),
        unsupported={name: Unsupported(policy) for name, policy in settings.unsupported.items()},
    )
    streams.revive = conversing.adopting(completing.take_up)
    responses = SqlResponses(database)
    compatibility = CompatibilityServicer(CompleteText(completing, streams), EmbedTexts(directory, health, runs, embeddings))
    respond = Respond(completing, streams, responses, clock)
    responding = ResponseServicer(respond)
    chatting = conversing.parts(
        completing=completing, directory=directory, personas=assisting.personas, terms=terms, registry=infra.registry
    )
    resuming = StreamServicer(streams)
    servicer = InferenceServicer(completing, int(clock.now().timestamp()))

    def register(server: grpc.aio.Server) -> None:
        chat_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
        conversation_pb2_grpc.add_StreamServiceServicer_to_server(resuming, server)
        compatibility_pb2_grpc.add_CompatibilityServiceServicer_to_server(compatibility, server)
        responses_pb2_grpc.add_ResponseServiceServicer_to_server(responding, server)

    async def sweep() -> None:
        await budgeting.ledger.settle_abandoned(clock, timedelta(seconds=settings.max_generation))

    async def expire_responses() -> None:
        await responses.expire(clock.now() - timedelta(days=settings.response_retention_days))

    async def start() -> None:
        await providing.start()
        await streams.start()

    async def stop() -> None:
        await streams.stop()
        await runs.drain()
        await respond.drain()
        await providing.stop()

    return Service(
        name="chat",
        rpc=[register, assisting.rpc, budgeting.rpc, chatting.rpc, providing.rpc],
        subscriptions=[
            source_changes(database, lambda tenant_id: kept_answers.invalidate(tenant_id, SOURCES)),
            *budgeting.subscriptions,
            *chatting.subscriptions,
            *providing.subscriptions,
        ],
        periodic=[
            Periodic("chat.streams", 2.0, streams.take_up_orphans),
            Periodic("settle-abandoned", settings.sweep_interval, sweep),
            Periodic("expire-responses", settings.sweep_interval, expire_responses),
            *budgeting.periodic,
            *chatting.periodic,
            *assisting.periodic,
            *providing.periodic,
        ],
        checks={"database": database.ping},
        start=start,
        stop=stop,
        database=database,
    )
