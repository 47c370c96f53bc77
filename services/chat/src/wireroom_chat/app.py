"""The composition root of the chat service."""

from __future__ import annotations

from datetime import timedelta

import grpc.aio

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.adapters.provider import OpenAiProvider, ProviderSessions, ProviderTimeouts
from wireroom_chat.adapters.provider_config import SettingsDirectory
from wireroom_chat.adapters.provider_health import AlwaysHealthy
from wireroom_chat.adapters.retrieval import RagRetrieval
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.domain.providers import FREE, Candidate, ProviderModel
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.wire import Links
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports import Retrieval
from wireroom_chat.settings import ChatSettings
from wireroom_chat.transport.grpc import InferenceServicer
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_chat.usecases.generating import Generator
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_chat.usecases.run import Runs
from wireroom_chat.usecases.streams import Streams
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_protos.chat.v1 import chat_pb2_grpc


def build(settings: ChatSettings, infra: Infra) -> Service:
    """The chat service with the rag service as its source of passages."""
    return assemble(settings, infra, RagRetrieval(infra.channel("rag"), timeout=settings.retrieval_timeout))


def assemble(settings: ChatSettings, infra: Infra, retrieval: Retrieval) -> Service:
    """The chat service on any source of passages."""
    clock = infra.clock
    database = infra.database("chat")
    ledger = SqlLedger(database)
    runs = Runs(ledger, Pricing(FREE), clock, ChatMetrics(infra.registry))
    sessions = ProviderSessions(max_connections=settings.max_connections)
    providers = {
        entry.name: OpenAiProvider(
            name=entry.name,
            base_url=entry.base_url,
            api_key=entry.api_key,
            timeouts=ProviderTimeouts(
                settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout, entry.timeout
            ),
            sessions=sessions,
            clock=clock,
        )
        for entry in settings.providers
    }
    candidates = [Candidate(ProviderModel(entry.name, model)) for entry in settings.providers for model in entry.models]
    directory = SettingsDirectory(Catalogue(candidates, default=settings.default_model), providers)
    terms = Terms()
    selector = QuoteSelector(terms)
    completing = CompleteChat(
        directory=directory,
        generator=Generator(directory, AlwaysHealthy()),
        quoted=QuotedAnswer(retrieval, selector),
        grounded=GroundedAnswer(retrieval, selector, terms),
        runs=runs,
        streams=Streams(),
        links=Links(infra.public_url()),
    )
    servicer = InferenceServicer(completing, int(clock.now().timestamp()))

    def register(server: grpc.aio.Server) -> None:
        chat_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)

    async def sweep() -> None:
        await ledger.settle_abandoned(clock, timedelta(seconds=settings.max_generation))

    async def stop() -> None:
        await runs.drain()
        await sessions.stop()

    return Service(
        name="chat",
        rpc=[register],
        periodic=[Periodic("settle-abandoned", settings.sweep_interval, sweep)],
        checks={"database": database.ping},
        start=sessions.start,
        stop=stop,
        database=database,
    )
