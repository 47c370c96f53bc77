"""The part of the composition root that makes tools and assistants."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import grpc.aio

from wireroom_chat.adapters.artefacts import SqlArtefacts
from wireroom_chat.adapters.assistants import SqlAssistants
from wireroom_chat.domain.assistants import PREFIX
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.terms import Terms
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.ports.sessions import Persona
from wireroom_chat.settings import ChatSettings
from wireroom_chat.tools.calculator import calculator
from wireroom_chat.tools.contract import Toolbox
from wireroom_chat.tools.lending import loan_tools
from wireroom_chat.tools.sanction_letter import sanction_letter
from wireroom_chat.tools.search import search_tools
from wireroom_chat.transport.assistants import AssistantServicer
from wireroom_chat.transport.tools import ArtefactServicer, ToolServicer
from wireroom_chat.usecases.assistants import Assistants, built_in_assistants
from wireroom_chat.usecases.assisting import AssistantAnswer
from wireroom_chat.usecases.checking import Checking
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.runtime.service import Periodic
from wireroom_protos.chat.v1 import assistants_pb2_grpc, tools_pb2_grpc


class AssistantPersonas:
    """An assistant of a session answers under its model name; instructions, sources and tools come from its version."""

    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    async def persona(self, tenant_id: UUID, name: str, session_id: UUID | None) -> Persona:
        del session_id
        await self._assistants.require(tenant_id, name)
        return Persona(instructions="", model=f"{PREFIX}{name}")


@dataclass(frozen=True)
class AssistantWiring:
    """`assistants` and `answer` are for `CompleteChat`, `personas` for sessions, the rest for the service's declaration."""

    assistants: Assistants
    answer: AssistantAnswer
    personas: AssistantPersonas
    periodic: tuple[Periodic, ...]
    tools: ToolServicer
    artefacts: ArtefactServicer

    def rpc(self, server: grpc.aio.Server) -> None:
        """Register the services."""
        assistants_pb2_grpc.add_AssistantServiceServicer_to_server(AssistantServicer(self.assistants), server)
        tools_pb2_grpc.add_ToolServiceServicer_to_server(self.tools, server)
        tools_pb2_grpc.add_ArtefactServiceServicer_to_server(self.artefacts, server)


def assistant_wiring(
    settings: ChatSettings,
    database: Database,
    clock: Clock,
    *,
    retrieval: Retrieval,
    selector: QuoteSelector,
    terms: Terms,
    public_url: str,
    checking: Checking | None = None,
    hosts: Collection[str] = (),
) -> AssistantWiring:
    """All of it."""
    artefacts = SqlArtefacts(database, clock, lifetime=settings.artefact_lifetime, per_user=settings.max_artefacts)
    toolbox = Toolbox([*search_tools(retrieval), calculator(), *loan_tools(), sanction_letter(artefacts, clock)])
    assistants = Assistants(
        SqlAssistants(database, clock),
        built_in_assistants(),
        [tool.name for tool in toolbox.all()],
        clock,
        cache_seconds=settings.assistant_cache,
    )

    async def purge() -> None:
        await artefacts.purge()

    return AssistantWiring(
        assistants,
        AssistantAnswer(
            retrieval,
            selector,
            terms,
            quoted=QuotedAnswer(retrieval, selector, hosts=hosts),
            toolbox=toolbox,
            public_url=public_url,
            checking=checking,
        ),
        AssistantPersonas(assistants),
        (Periodic("purge-artefacts", settings.purge_interval, purge),),
        ToolServicer(toolbox, seconds=settings.tool_timeout),
        ArtefactServicer(artefacts),
    )
