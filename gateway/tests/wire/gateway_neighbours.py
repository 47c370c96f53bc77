"""The services behind the gateway: real servicers of the generated kind whose answers a test may script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from wireroom_common.principal import Principal, current_principal
from wireroom_common.rpc import current_request_id
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.auth.v1 import privacy_pb2 as auth_privacy_pb2
from wireroom_protos.auth.v1 import privacy_pb2_grpc as auth_privacy_pb2_grpc
from wireroom_protos.chat.v1 import (
    assistants_pb2,
    assistants_pb2_grpc,
    budgets_pb2,
    budgets_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    compatibility_pb2,
    compatibility_pb2_grpc,
    conversation_pb2,
    conversation_pb2_grpc,
    providers_pb2,
    providers_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    tools_pb2,
    tools_pb2_grpc,
)
from wireroom_protos.chat.v1 import privacy_pb2 as chat_privacy_pb2
from wireroom_protos.chat.v1 import privacy_pb2_grpc as chat_privacy_pb2_grpc
from wireroom_protos.common.v1 import status_pb2, status_pb2_grpc
from wireroom_protos.monitoring.v1 import monitoring_pb2, monitoring_pb2_grpc
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc
from wireroom_protos.rag.v1 import (
    access_pb2,
    access_pb2_grpc,
    collections_pb2,
    collections_pb2_grpc,
    file_batches_pb2,
    file_batches_pb2_grpc,
    processing_pb2,
    processing_pb2_grpc,
    rag_pb2,
    rag_pb2_grpc,
)
from wireroom_protos.rag.v1 import privacy_pb2 as rag_privacy_pb2
from wireroom_protos.rag.v1 import privacy_pb2_grpc as rag_privacy_pb2_grpc

PUBLIC = frozenset(
    f"/wireroom_protos.auth.v1.{name}"
    for name in (
        "AuthService/Register",
        "AuthService/Login",
        "AuthService/Refresh",
        "AuthService/GetJwks",
        "AuthService/ListRevocations",
        "AuthService/IssueToken",
        "AuthService/StartReset",
        "AuthService/FinishReset",
        "AuthService/VerifyEmail",
        "SecondFactorService/FinishLogin",
        "OidcService/ListProviders",
        "OidcService/StartOidc",
        "OidcService/FinishOidc",
        "ApiKeyService/VerifyKey",
        "PrivacyService/OpenErasure",
        "PrivacyService/GetReceiptKey",
    )
)
_STATUS = (status_pb2, status_pb2_grpc, "StatusService")
SERVICES: dict[str, list[tuple[Any, Any, str]]] = {
    "auth": [
        (auth_pb2, auth_pb2_grpc, "AuthService"),
        (auth_pb2, auth_pb2_grpc, "ApiKeyService"),
        (auth_pb2, auth_pb2_grpc, "DirectoryService"),
        (auth_pb2, auth_pb2_grpc, "SecondFactorService"),
        (auth_pb2, auth_pb2_grpc, "OidcService"),
        (auth_pb2, auth_pb2_grpc, "AddressService"),
        (auth_pb2, auth_pb2_grpc, "AuditService"),
        (auth_pb2, auth_pb2_grpc, "KeyMaterialService"),
        (auth_privacy_pb2, auth_privacy_pb2_grpc, "PrivacyService"),
        _STATUS,
    ],
    "chat": [
        (chat_pb2, chat_pb2_grpc, "InferenceService"),
        (chat_privacy_pb2, chat_privacy_pb2_grpc, "TextExportService"),
        (providers_pb2, providers_pb2_grpc, "ProviderService"),
        (budgets_pb2, budgets_pb2_grpc, "BudgetService"),
        (assistants_pb2, assistants_pb2_grpc, "AssistantService"),
        (tools_pb2, tools_pb2_grpc, "ToolService"),
        (tools_pb2, tools_pb2_grpc, "ArtefactService"),
        (compatibility_pb2, compatibility_pb2_grpc, "CompatibilityService"),
        (responses_pb2, responses_pb2_grpc, "ResponseService"),
        (conversation_pb2, conversation_pb2_grpc, "ChatService"),
        (conversation_pb2, conversation_pb2_grpc, "StreamService"),
        (sessions_pb2, sessions_pb2_grpc, "SessionService"),
        _STATUS,
    ],
    "rag": [
        (rag_privacy_pb2, rag_privacy_pb2_grpc, "DocumentExportService"),
        (rag_pb2, rag_pb2_grpc, "DocumentService"),
        (rag_pb2, rag_pb2_grpc, "RetrievalService"),
        (processing_pb2, processing_pb2_grpc, "ProcessingService"),
        (collections_pb2, collections_pb2_grpc, "CollectionService"),
        (file_batches_pb2, file_batches_pb2_grpc, "FileBatchService"),
        (access_pb2, access_pb2_grpc, "AccessService"),
        (access_pb2, access_pb2_grpc, "ReceiptService"),
        _STATUS,
    ],
    "news": [(news_pb2, news_pb2_grpc, "FeedService"), (news_pb2, news_pb2_grpc, "NewsService"), _STATUS],
    "monitoring": [
        (monitoring_pb2, monitoring_pb2_grpc, "MetricsService"),
        (monitoring_pb2, monitoring_pb2_grpc, "EventLogService"),
        _STATUS,
    ],
}


@dataclass(frozen=True)
class Call:
    """A call that arrived."""

    method: str
    request: Any
    principal: Principal
    request_id: str


class Neighbours:
    """Answers by method name, for example `neighbours.answers["Complete"] = handler`; otherwise an empty message.

    A handler takes the request (an iterator for an upload) and is a coroutine, or an asynchronous generator for a stream.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.calls: list[Call] = []

    def called(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def register(self, service: str, server: Any) -> None:
        for messages, stubs, name in SERVICES[service]:
            methods = {
                method.name: self._method(method)
                for method in messages.DESCRIPTOR.services_by_name[name].methods_by_name.values()
            }
            servicer = type(f"Scripted{name}", (getattr(stubs, f"{name}Servicer"),), methods)()
            getattr(stubs, f"add_{name}Servicer_to_server")(servicer, server)

    def _method(self, descriptor: Any) -> Any:
        empty = GetMessageClass(descriptor.output_type)

        def arrived(request: Any) -> Callable[[Any], Any] | None:
            self.calls.append(Call(descriptor.name, request, current_principal(), current_request_id()))
            return self.answers.get(descriptor.name)

        async def answer(_servicer: Any, request: Any, _context: Any) -> Any:
            handler = arrived(request)
            if handler is not None:
                return await handler(request)
            if descriptor.client_streaming:
                async for _ in request:
                    pass
            return empty()

        async def stream(_servicer: Any, request: Any, _context: Any) -> Any:
            handler = arrived(request)
            if handler is not None:
                async for part in handler(request):
                    yield part

        return stream if descriptor.server_streaming else answer
