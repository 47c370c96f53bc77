"""Settings of the rag service: environment variables `WIREROOM_RAG_*`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
        description="Address space that reading one file may take, in a process of its own.",
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
    sweep_seconds: float = Field(default=600.0, ge=1, le=86_400, description="How often files without a document are looked for.")
    exact_scan_chunks: int = Field(
        default=20_000,
        ge=0,
        le=1_000_000,
        description="Tenants up to this size are searched exactly; larger ones through the HNSW graph.",
    )
