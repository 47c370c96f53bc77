"""The parts of the service that know providers, wired: configuration, clients, health, and their management."""

from __future__ import annotations

import grpc.aio

from wireroom_chat.adapters.provider_config import EVENTS, ConfiguredDirectory
from wireroom_chat.adapters.provider_health import CandidateKey, SharedHealth
from wireroom_chat.adapters.provider_keys import KeySafe
from wireroom_chat.adapters.provider_metrics import ProviderMetrics
from wireroom_chat.adapters.provider_store import ProviderStore, SqlIncidents
from wireroom_chat.adapters.providers.http import ProviderSessions
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_chat.settings import ChatSettings
from wireroom_chat.transport.providers import ProviderServicer
from wireroom_chat.usecases.managing_providers import ManageProviders
from wireroom_common.bus import Subscription
from wireroom_common.db import Database
from wireroom_common.runtime.service import Infra, Periodic
from wireroom_protos.chat.v1 import providers_pb2_grpc


class ProviderWiring:
    """`directory` and `health` are what the use cases need; the rest is for the runtime."""

    def __init__(self, settings: ChatSettings, infra: Infra, database: Database) -> None:
        metrics = ProviderMetrics(infra.registry)
        store = ProviderStore(database, KeySafe(lambda: infra.secret("master")))
        self._sessions = ProviderSessions(max_connections=settings.max_connections, wait=settings.connection_wait)
        self.directory = ConfiguredDirectory(
            settings.providers,
            default_model=settings.default_model,
            timeouts=ProviderTimeouts(
                settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout, settings.provider_timeout
            ),
            file=settings.providers_file,
            store=store,
            sessions=self._sessions,
            clock=infra.clock,
            metrics=metrics,
            exhausted=self._exhausted,
        )
        self.health = SharedHealth(
            infra.redis(),
            infra.clock,
            lambda: self.directory.catalogue().candidates(),
            metrics,
            incidents=SqlIncidents(database),
        )
        servicer = ProviderServicer(ManageProviders(self.directory, store, self.health, infra.clock))

        def register(server: grpc.aio.Server) -> None:
            providers_pb2_grpc.add_ProviderServiceServicer_to_server(servicer, server)

        self.rpc = register
        self.subscriptions = [Subscription("chat.providers", broadcast=self.directory.on_event, types=EVENTS)]
        # Both wait for work by themselves.
        self.periodic = [Periodic("provider-config", 0.1, self.directory.run), Periodic("provider-health", 0.05, self.health.run)]

    def _exhausted(self, key: CandidateKey, seconds: float) -> None:
        # The directory is made first: health is kept of what it lists.
        self.health.limited(key, seconds)

    async def start(self) -> None:
        """Open the connections and read the configuration."""
        await self._sessions.start()
        await self.directory.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._sessions.stop()
