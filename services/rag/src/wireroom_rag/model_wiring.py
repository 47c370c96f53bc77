"""The models of this installation: the local one, endpoints, the reranker; loaded and connected with the service."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from wireroom_rag.adapters.provider_terms_sql import IndexReceivers
from wireroom_rag.adapters.rerank_endpoint import EndpointReranker
from wireroom_rag.chunking import CHUNKER, Chunkers, window_chunker
from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.domain.provider_terms import Receiver
from wireroom_rag.embedding.embedder import Embedder
from wireroom_rag.embedding.endpoint import EndpointEmbeddings
from wireroom_rag.embedding.files import DIMENSIONS, ModelFiles
from wireroom_rag.embedding.guarded import GuardedEmbeddings
from wireroom_rag.embedding.http import ModelHttp
from wireroom_rag.embedding.models import EmbeddingModels, Wrap
from wireroom_rag.embedding.provision import ensure_model
from wireroom_rag.ports.processing import Embeddings
from wireroom_rag.ports.provider_terms import TenantTerms
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.embed import MODEL


class InstalledModels:
    """Embedder and chunkers can be used from `start` on."""

    def __init__(self, settings: RagSettings, data: Path, *, terms: TenantTerms, wrap: Wrap) -> None:
        self._files = ModelFiles(Path(settings.model_dir) if settings.model_dir else data / "models")
        self.embedder = Embedder(self._files, processes=settings.embedding_processes)
        self._https: list[ModelHttp] = []
        models: dict[str, tuple[Blueprint, Embeddings]] = {MODEL: (Blueprint(MODEL, DIMENSIONS, CHUNKER), self.embedder)}
        for endpoint in settings.embedding_endpoints:
            embeddings = EndpointEmbeddings(
                self._http(ModelHttp(endpoint.http(endpoint.name))),
                model=endpoint.model,
                dimension=endpoint.dimensions,
                batch=endpoint.batch,
                asks_dimensions=endpoint.ask_dimensions,
            )
            chunker = window_chunker(endpoint.max_tokens) if endpoint.max_tokens else CHUNKER
            models[endpoint.name] = (Blueprint(endpoint.name, endpoint.dimensions, chunker), embeddings)
        endpoints = {endpoint.name: endpoint.receiver for endpoint in settings.embedding_endpoints}

        def guarded(tenant_id: UUID, blueprint: Blueprint, embeddings: Embeddings) -> Embeddings:
            receiver = endpoints.get(blueprint.model)
            sent = embeddings if receiver is None else GuardedEmbeddings(embeddings, receiver, terms, tenant_id)
            return wrap(tenant_id, blueprint, sent)

        self.models = EmbeddingModels(models, default=settings.embedding_model, wrap=guarded)
        self.receivers = IndexReceivers(endpoints, settings.embedding_model)
        rerank = settings.reranker
        self.ranks = rerank.receiver if rerank is not None else Receiver()
        self.reranker = (
            EndpointReranker(self._http(ModelHttp(rerank.http(rerank.model))), model=rerank.model) if rerank is not None else None
        )
        self.chunkers = Chunkers(lambda: self.embedder.tokenizer)

    async def start(self) -> None:
        """Build the local model if it is missing, load it, open connection pools."""
        await ensure_model(self._files)
        await self.embedder.start()
        for http in self._https:
            await http.start()

    async def stop(self) -> None:
        """Unload and disconnect."""
        for http in self._https:
            await http.stop()
        await self.embedder.stop()

    def _http(self, http: ModelHttp) -> ModelHttp:
        self._https.append(http)
        return http
