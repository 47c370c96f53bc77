"""Real servers out of Python wheels, for one machine: PostgreSQL 18 with pgvector, and Valkey."""

from wireroom_common.runtime.embedded.postgres import EmbeddedPostgres
from wireroom_common.runtime.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
