"""The part of the composition root that makes chat sessions: what answers need before they run, and what needs answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from uuid import UUID

import grpc.aio
from prometheus_client import CollectorRegistry

from wireroom_chat.adapters.erasures_sql import SqlErasures
from wireroom_chat.adapters.export_sql import ExportStore
from wireroom_chat.adapters.pdf_transcript import PdfTranscript
from wireroom_chat.adapters.sessions_sql import SqlSessions
from wireroom_chat.adapters.turns_sql import SqlTurns
from wireroom_chat.domain.frames import Info
from wireroom_chat.domain.history import HistoryLimits
from wireroom_chat.domain.terms import Terms
from wireroom_chat.metrics import FeedbackMetrics
from wireroom_chat.ports.providers import ProviderDirectory
from wireroom_chat.ports.sessions import Personas
from wireroom_chat.settings import ChatSettings
from wireroom_chat.transport.conversation import ConversationServicer
from wireroom_chat.transport.erasure import Erasure
from wireroom_chat.transport.export import ExportServicer
from wireroom_chat.transport.sessions import SessionServicer
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_chat.usecases.conversations import (
    ORIGIN,
    ConversationLimits,
    Conversations,
    HistoryPolicy,
    RunningTurns,
    SessionAnswers,
)
from wireroom_chat.usecases.sessions import ManageSessions, purge_sessions
from wireroom_chat.usecases.stream_opening import Opening, Part, Revive
from wireroom_common.bus import Subscription
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.runtime.service import Periodic, RpcRegistration
from wireroom_protos.chat.v1 import conversation_pb2_grpc, privacy_pb2_grpc, sessions_pb2_grpc

# Leases are renewed so often that two renewals may fail.
_RENEWALS_PER_LEASE = 3
# Between two looks for what remains of erased users: somebody waits for the receipt.
_ERASE_SECONDS = 2.0


@dataclass(frozen=True)
class SessionParts:
    """What the service declares for its sessions."""

    rpc: RpcRegistration
    subscriptions: tuple[Subscription, ...]
    periodic: tuple[Periodic, ...]


class SessionWiring:
    """`sink` is for `Runs`; `parts` comes after everything else."""

    def __init__(self, settings: ChatSettings, database: Database, clock: Clock) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._turns = SqlTurns(database)
        self._running = RunningTurns(self._turns, clock, settings.turn_lease, settings.max_generation)
        self.sink = SessionAnswers(self._turns, self._running, clock)

    def adopting(self, revive: Revive) -> Revive:
        """`revive` that keeps the lease of a session's turn from here on, when the process that began it is gone."""

        def adopt(opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Part, None]:
            generation = opening.generation
            if generation.origin.kind == ORIGIN:
                self._running.add(UUID(generation.origin.id), generation.tenant_id)
            return revive(opening, info, chunks)

        return adopt

    def parts(
        self,
        *,
        completing: CompleteChat,
        directory: ProviderDirectory,
        personas: Personas,
        terms: Terms,
        registry: CollectorRegistry,
    ) -> SessionParts:
        """Everything that is left."""
        settings, clock = self._settings, self._clock
        erasures = SqlErasures(self._database)
        store = SqlSessions(self._database)
        conversations = ConversationServicer(
            Conversations(
                completing=completing,
                directory=directory,
                sessions=store,
                turns=self._turns,
                running=self._running,
                personas=personas,
                terms=terms,
                clock=clock,
                limits=ConversationLimits(
                    message_characters=settings.max_message_characters,
                    history=HistoryLimits(settings.history_messages, settings.history_tokens),
                    policy=HistoryPolicy(settings.history_policy),
                    summary_model=settings.summary_model,
                    lease=settings.turn_lease,
                    grace=settings.stream_grace,
                ),
            )
        )
        sessions = SessionServicer(
            ManageSessions(
                sessions=store,
                directory=directory,
                personas=personas,
                pdf=PdfTranscript(),
                clock=clock,
                metrics=FeedbackMetrics(registry),
            )
        )

        export = ExportServicer(ExportStore(self._database))

        def register(server: grpc.aio.Server) -> None:
            conversation_pb2_grpc.add_ChatServiceServicer_to_server(conversations, server)
            sessions_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)
            privacy_pb2_grpc.add_TextExportServiceServicer_to_server(export, server)

        purge_erased = purge_sessions(store, clock, 0)

        async def erase() -> None:
            await purge_erased()
            await erasures.complete()

        return SessionParts(
            rpc=register,
            subscriptions=(Erasure(self._database).subscription(),),
            periodic=(
                Periodic("renew-turns", settings.turn_lease / _RENEWALS_PER_LEASE, self._running.renew),
                Periodic(
                    "purge-sessions", settings.purge_interval, purge_sessions(store, clock, settings.session_retention_days)
                ),
                Periodic("erase-users", min(settings.purge_interval, _ERASE_SECONDS), erase),
            ),
        )
