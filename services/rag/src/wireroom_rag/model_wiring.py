"""The models of this installation: the local one, endpoints, the reranker; loaded and connected with the service."""

from __future__ import annotations

from pathlib import Path

from wireroom_rag.adapters.rerank_endpoint import EndpointReranker
from wireroom_rag.chunking import CHUNKER, Chunker
from wireroom_rag.embedding.embedder import Embedder
from wireroom_rag.embedding.endpoint import EndpointEmbeddings
from wireroom_rag.embedding.files import DIMENSIONS, ModelFiles
from wireroom_rag.embedding.http import ModelHttp
from wireroom_rag.embedding.models import EmbeddingModels, Wrap
from wireroom_rag.embedding.provision import ensure_model
from wireroom_rag.ports.processing import Embeddings
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.embed import MODEL


class InstalledModels:
    """Embedder and chunker exist from `start` on."""

    def __init__(self, settings: RagSettings, data: Path, *, wrap: Wrap) -> None:
        self._files = ModelFiles(Path(settings.model_dir) if settings.model_dir else data / "models")
        self.embedder = Embedder(self._files, processes=settings.embedding_processes)
        self._https: list[ModelHttp] = []
        models: dict[str, tuple[int, Embeddings]] = {MODEL: (DIMENSIONS, self.embedder)}
        for endpoint in settings.embedding_endpoints:
            embeddings = EndpointEmbeddings(
                self._http(ModelHttp(endpoint.http(endpoint.name))),
                model=endpoint.model,
                dimension=endpoint.dimensions,
                batch=endpoint.batch,
                asks_dimensions=endpoint.ask_dimensions,
            )
            models[endpoint.name] = (endpoint.dimensions, embeddings)
        self.models = EmbeddingModels(models, default=settings.embedding_model, chunker=CHUNKER, wrap=wrap)
        rerank = settings.reranker
        self.reranker = (
            EndpointReranker(self._http(ModelHttp(rerank.http(rerank.model))), model=rerank.model) if rerank is not None else None
        )
        self._chunker: Chunker | None = None

    async def start(self) -> None:
        """Build the local model if it is missing, load it, open connection pools."""
        await ensure_model(self._files)
        await self.embedder.start()
        self._chunker = Chunker(self.embedder.tokenizer)
        for http in self._https:
            await http.start()

    async def stop(self) -> None:
        """Unload and disconnect."""
        for http in self._https:
            await http.stop()
        await self.embedder.stop()

    def chunker(self) -> Chunker:
        """What cuts texts, for all models alike."""
        if self._chunker is None:
            msg = "The embedding model is not loaded."
            raise RuntimeError(msg)
        return self._chunker

    def _http(self, http: ModelHttp) -> ModelHttp:
        self._https.append(http)
        return http
