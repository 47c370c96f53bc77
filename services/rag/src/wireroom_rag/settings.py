"""Settings of the rag service: environment variables `WIREROOM_RAG_*`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wireroom_rag.embedding.settings import EmbeddingEndpoint, RerankEndpoint, require_address

_MOST_DOCUMENTS = 1_000_000_000
_MOST_BYTES = 10**15


class RagSettings(BaseSettings):
    """Limits and times of documents, extraction and the index."""

    model_config = SettingsConfigDict(env_prefix="WIREROOM_RAG_", frozen=True, extra="ignore")

    model_dir: str = Field(
        default="",
        description="Folder of the built embedding model; empty for `models` in the service's data folder. Built when missing.",
    )
    max_document_bytes: int = Field(
        default=25_000_000, ge=1, le=1_000_000_000, description="Largest file that an upload may have."
    )
    max_pages: int = Field(default=2_000, ge=1, le=100_000, description="Most pages of a PDF.")
    max_characters: int = Field(default=5_000_000, ge=1_000, le=50_000_000, description="Most characters of a document's text.")
    extraction_seconds: float = Field(default=60.0, gt=0, le=3600, description="Time that reading one file may take.")
    extraction_memory_bytes: int = Field(
        default=1_500_000_000,
        ge=300_000_000,
        le=64_000_000_000,
        description="Address space that reading one file may take, in a process of its own.",
    )
    extraction_processes: int = Field(
        default=2,
        ge=1,
        le=32,
        description="Files that are read at a time, each in a process of its own; from two on, large files never get the last one.",
    )
    extraction_idle_seconds: float = Field(
        default=60.0, ge=0, le=3600, description="How long an idle extraction process is kept."
    )
    lease_seconds: float = Field(
        default=15.0, gt=0.1, le=600, description="A worker that is silent for so long loses its jobs to others."
    )
    heartbeat_seconds: float = Field(
        default=5.0, gt=0.01, le=300, description="How often a worker renews its leases; below a third of them."
    )
    poll_seconds: float = Field(
        default=0.5, gt=0.01, le=60, description="How often a worker looks for work that nobody told it of."
    )
    waiting_max_seconds: float = Field(
        default=90_000.0,
        gt=0,
        le=2_592_000,
        description="A document that was not begun with by then fails (`processing_overdue`).",
    )
    stage_max_seconds: float = Field(
        default=21_600.0,
        gt=0,
        le=2_592_000,
        description="So does one that stays `extracted`, `chunked` or `embedded` for so long.",
    )
    clamd: str = Field(
        default="",
        description="Address of ClamAV's daemon, host:port or the path of a Unix socket; empty: files are not scanned for viruses.",
    )
    clamd_seconds: float = Field(default=60.0, gt=0, le=3600, description="Time that scanning one file may take.")
    quarantine_days: float = Field(default=30.0, gt=0, le=3650, description="How long files with malware are kept in quarantine.")
    blobs: str = Field(
        default="",
        description="Where files are kept: file:///folder, s3://bucket/prefix, or empty for `blobs` in the service's data folder.",
    )
    blobs_endpoint: str = Field(default="", description="Address of an S3-compatible server; empty for AWS.")
    blobs_region: str = Field(default="", description="Region of the bucket; empty for us-east-1.")
    blobs_access_key: str = Field(
        default="", description="Access key of the bucket; empty for the environment's or the machine's."
    )
    blobs_secret_key: SecretStr = Field(default=SecretStr(""), description="Secret key of the bucket.")
    blobs_seconds: float = Field(default=30.0, gt=0, le=600, description="Time limit of a request to the bucket.")
    sweep_seconds: float = Field(default=600.0, ge=1, le=86_400, description="How often files without a document are looked for.")
    exact_scan_chunks: int = Field(
        default=20_000,
        ge=0,
        le=1_000_000,
        description="Scopes of up to so many chunks are read whole and searched exactly; larger ones through the HNSW graph.",
    )
    vectors: Literal["postgresql", "lancedb"] = Field(
        default="postgresql",
        description="Where the vectors of indexes that begin from now on are kept; others stay where they are until they are rebuilt."
        " LanceDB is an optional package.",
    )
    vectors_at: str = Field(
        default="",
        description="LanceDB's place: file:///folder, s3://bucket/prefix (reached as BLOBS_* say), or empty for `vectors` in the"
        " service's data folder. Keep it set as long as an index has its vectors there.",
    )
    vectors_seconds: float = Field(default=10.0, gt=0, le=600, description="Time limit of a search or a write in LanceDB.")
    vectors_cache_bytes: int = Field(
        default=256_000_000, ge=1_000_000, le=64_000_000_000, description="Memory in which LanceDB keeps graphs between searches."
    )
    kept_vector_days: int = Field(
        default=7,
        ge=0,
        le=3650,
        description="Days for which vectors of passages are kept after their last use, so that equal passages are not embedded again;"
        " 0 keeps none.",
    )
    kept_vectors: int = Field(
        default=1_000_000,
        ge=0,
        le=100_000_000,
        description="Most vectors of passages that are kept, of all tenants together (about 1 KB each); those not used for long go first.",
    )
    query_vector_seconds: float = Field(
        default=3600.0,
        ge=1,
        le=30 * 86_400,
        description="How long vectors of queries are kept in memory.",
    )
    embedding_model: str = Field(
        default="minilm-l6-v2",
        description="Model that new tenants' indexes begin with and rebuilt ones get: the local `minilm-l6-v2`, or the id of an endpoint.",
    )
    embedding_endpoints: tuple[EmbeddingEndpoint, ...] = Field(
        default=(),
        max_length=8,
        description="OpenAI-compatible embeddings endpoints, as JSON. Keep one as long as an index was made with it.",
    )
    embedding_processes: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes of the local model for passages, about 110 MB and one core each; 0 for a thread of the service.",
    )
    query_embedding_seconds: float = Field(
        default=3.0, gt=0, le=60, description="A model that has not embedded a query by then is done without: words alone decide."
    )
    reranker: RerankEndpoint | None = Field(
        default=None, description="Endpoint of a model that reads query and passage together, as JSON; none: no reranking."
    )
    news_half_life_days: float = Field(
        default=14.0,
        ge=0,
        le=3650,
        description="Age at which an article's advantage of being new is half of today's; 0: age does not count.",
    )
    generation_keep_seconds: float = Field(
        default=600.0, ge=60, le=2_592_000, description="How long an index is kept after another one took its place."
    )

    document_access: Literal["tenant", "private", "collections"] = Field(
        default="tenant",
        description="Who reads an upload that says nothing of it: everybody with docs:read, its owner, or readers of its collections.",
    )
    tenant_max_documents: int = Field(
        default=1_000_000, ge=0, le=_MOST_DOCUMENTS, description="Most documents of a tenant; 0: no limit."
    )
    tenant_max_bytes: int = Field(
        default=500_000_000_000,
        ge=0,
        le=_MOST_BYTES,
        description="Most bytes of a tenant's files, all kept versions counted; 0: no limit.",
    )
    user_max_documents: int = Field(
        default=100_000, ge=0, le=_MOST_DOCUMENTS, description="Most documents of a user; 0: no limit."
    )
    user_max_bytes: int = Field(
        default=100_000_000_000, ge=0, le=_MOST_BYTES, description="Most bytes of a user's files; 0: no limit."
    )
    collection_max_documents: int = Field(
        default=100_000,
        ge=0,
        le=_MOST_DOCUMENTS,
        description="Most documents of a collection without a quota of its own; 0: no limit.",
    )
    collection_max_bytes: int = Field(
        default=100_000_000_000,
        ge=0,
        le=_MOST_BYTES,
        description="Most bytes of a collection without a quota of its own; 0: no limit.",
    )
    versions_kept: int = Field(
        default=20, ge=1, le=10_000, description="Versions of a document that are kept, the newest among them."
    )
    version_days: int = Field(
        default=0, ge=0, le=36_500, description="Older versions are removed after so many days; 0: only by their number."
    )
    article_days: int = Field(default=0, ge=0, le=36_500, description="Articles leave the index after so many days; 0: never.")
    retention_seconds: float = Field(
        default=3600.0, ge=1, le=86_400, description="How often what is kept no longer is looked for."
    )
    purge_seconds: float = Field(
        default=5.0, ge=0.05, le=3600, description="How often deletions that were interrupted are taken up again."
    )

    @field_validator("blobs_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return require_address(value) if value else value

    @model_validator(mode="after")
    def _fits_together(self) -> RagSettings:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            msg = (
                f"WIREROOM_RAG_HEARTBEAT_SECONDS is {self.heartbeat_seconds:g}, but must be at most half of"
                f" WIREROOM_RAG_LEASE_SECONDS, which is {self.lease_seconds:g}: workers would lose their jobs."
            )
            raise ValueError(msg)
        if bool(self.blobs_access_key) != bool(self.blobs_secret_key.get_secret_value()):
            msg = "WIREROOM_RAG_BLOBS_ACCESS_KEY and WIREROOM_RAG_BLOBS_SECRET_KEY belong together: set both or neither."
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _known_models(self) -> RagSettings:
        names = ["minilm-l6-v2", *(endpoint.name for endpoint in self.embedding_endpoints)]
        if len(set(names)) < len(names):
            msg = "WIREROOM_RAG_EMBEDDING_ENDPOINTS: two models have the same id."
            raise ValueError(msg)
        if self.embedding_model not in names:
            msg = f"WIREROOM_RAG_EMBEDDING_MODEL: '{self.embedding_model}' is not set up; there are {', '.join(names)}."
            raise ValueError(msg)
        return self
