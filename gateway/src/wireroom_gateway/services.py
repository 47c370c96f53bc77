"""The generated stubs, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from wireroom_protos.auth.v1 import auth_pb2_grpc, privacy_pb2_grpc
from wireroom_protos.chat.v1 import (
    assistants_pb2_grpc,
    budgets_pb2_grpc,
    chat_pb2_grpc,
    compatibility_pb2_grpc,
    conversation_pb2_grpc,
    providers_pb2_grpc,
    responses_pb2_grpc,
    sessions_pb2_grpc,
    tools_pb2_grpc,
)
from wireroom_protos.chat.v1 import privacy_pb2_grpc as chat_privacy_pb2_grpc
from wireroom_protos.common.v1 import status_pb2_grpc
from wireroom_protos.monitoring.v1 import monitoring_pb2_grpc
from wireroom_protos.news.v1 import news_pb2_grpc
from wireroom_protos.rag.v1 import (
    access_pb2_grpc,
    collections_pb2_grpc,
    file_batches_pb2_grpc,
    generations_pb2_grpc,
    processing_pb2_grpc,
    rag_pb2_grpc,
)
from wireroom_protos.rag.v1 import privacy_pb2_grpc as rag_privacy_pb2_grpc

NAMES = ("auth", "chat", "rag", "news", "monitoring")


@dataclass(frozen=True)
class Services:
    """One stub per RPC service; `status` by service name."""

    auth: auth_pb2_grpc.AuthServiceAsyncStub
    addresses: auth_pb2_grpc.AddressServiceAsyncStub
    api_keys: auth_pb2_grpc.ApiKeyServiceAsyncStub
    audit: auth_pb2_grpc.AuditServiceAsyncStub
    key_material: auth_pb2_grpc.KeyMaterialServiceAsyncStub
    oidc: auth_pb2_grpc.OidcServiceAsyncStub
    second_factors: auth_pb2_grpc.SecondFactorServiceAsyncStub
    directory: auth_pb2_grpc.DirectoryServiceAsyncStub
    privacy: privacy_pb2_grpc.PrivacyServiceAsyncStub
    text_export: chat_privacy_pb2_grpc.TextExportServiceAsyncStub
    document_export: rag_privacy_pb2_grpc.DocumentExportServiceAsyncStub
    assistants: assistants_pb2_grpc.AssistantServiceAsyncStub
    tools: tools_pb2_grpc.ToolServiceAsyncStub
    artefacts: tools_pb2_grpc.ArtefactServiceAsyncStub
    budgets: budgets_pb2_grpc.BudgetServiceAsyncStub
    inference: chat_pb2_grpc.InferenceServiceAsyncStub
    providers: providers_pb2_grpc.ProviderServiceAsyncStub
    chat: conversation_pb2_grpc.ChatServiceAsyncStub
    streams: conversation_pb2_grpc.StreamServiceAsyncStub
    sessions: sessions_pb2_grpc.SessionServiceAsyncStub
    compatibility: compatibility_pb2_grpc.CompatibilityServiceAsyncStub
    responses: responses_pb2_grpc.ResponseServiceAsyncStub
    documents: rag_pb2_grpc.DocumentServiceAsyncStub
    retrieval: rag_pb2_grpc.RetrievalServiceAsyncStub
    processing: processing_pb2_grpc.ProcessingServiceAsyncStub
    collections: collections_pb2_grpc.CollectionServiceAsyncStub
    file_batches: file_batches_pb2_grpc.FileBatchServiceAsyncStub
    indexes: generations_pb2_grpc.IndexServiceAsyncStub
    document_access: access_pb2_grpc.AccessServiceAsyncStub
    receipts: access_pb2_grpc.ReceiptServiceAsyncStub
    feeds: news_pb2_grpc.FeedServiceAsyncStub
    news: news_pb2_grpc.NewsServiceAsyncStub
    metrics: monitoring_pb2_grpc.MetricsServiceAsyncStub
    events: monitoring_pb2_grpc.EventLogServiceAsyncStub
    status: dict[str, status_pb2_grpc.StatusServiceAsyncStub]


def connect(channel: Callable[[str], grpc.aio.Channel]) -> Services:
    """Stubs over the channels that `channel` names."""
    return Services(
        auth=auth_pb2_grpc.AuthServiceStub(channel("auth")),
        addresses=auth_pb2_grpc.AddressServiceStub(channel("auth")),
        api_keys=auth_pb2_grpc.ApiKeyServiceStub(channel("auth")),
        audit=auth_pb2_grpc.AuditServiceStub(channel("auth")),
        key_material=auth_pb2_grpc.KeyMaterialServiceStub(channel("auth")),
        oidc=auth_pb2_grpc.OidcServiceStub(channel("auth")),
        second_factors=auth_pb2_grpc.SecondFactorServiceStub(channel("auth")),
        directory=auth_pb2_grpc.DirectoryServiceStub(channel("auth")),
        privacy=privacy_pb2_grpc.PrivacyServiceStub(channel("auth")),
        text_export=chat_privacy_pb2_grpc.TextExportServiceStub(channel("chat")),
        document_export=rag_privacy_pb2_grpc.DocumentExportServiceStub(channel("rag")),
        assistants=assistants_pb2_grpc.AssistantServiceStub(channel("chat")),
        tools=tools_pb2_grpc.ToolServiceStub(channel("chat")),
        artefacts=tools_pb2_grpc.ArtefactServiceStub(channel("chat")),
        budgets=budgets_pb2_grpc.BudgetServiceStub(channel("chat")),
        inference=chat_pb2_grpc.InferenceServiceStub(channel("chat")),
        providers=providers_pb2_grpc.ProviderServiceStub(channel("chat")),
        chat=conversation_pb2_grpc.ChatServiceStub(channel("chat")),
        streams=conversation_pb2_grpc.StreamServiceStub(channel("chat")),
        sessions=sessions_pb2_grpc.SessionServiceStub(channel("chat")),
        compatibility=compatibility_pb2_grpc.CompatibilityServiceStub(channel("chat")),
        responses=responses_pb2_grpc.ResponseServiceStub(channel("chat")),
        documents=rag_pb2_grpc.DocumentServiceStub(channel("rag")),
        retrieval=rag_pb2_grpc.RetrievalServiceStub(channel("rag")),
        processing=processing_pb2_grpc.ProcessingServiceStub(channel("rag")),
        collections=collections_pb2_grpc.CollectionServiceStub(channel("rag")),
        file_batches=file_batches_pb2_grpc.FileBatchServiceStub(channel("rag")),
        indexes=generations_pb2_grpc.IndexServiceStub(channel("rag")),
        document_access=access_pb2_grpc.AccessServiceStub(channel("rag")),
        receipts=access_pb2_grpc.ReceiptServiceStub(channel("rag")),
        feeds=news_pb2_grpc.FeedServiceStub(channel("news")),
        news=news_pb2_grpc.NewsServiceStub(channel("news")),
        metrics=monitoring_pb2_grpc.MetricsServiceStub(channel("monitoring")),
        events=monitoring_pb2_grpc.EventLogServiceStub(channel("monitoring")),
        status={name: status_pb2_grpc.StatusServiceStub(channel(name)) for name in NAMES},
    )
