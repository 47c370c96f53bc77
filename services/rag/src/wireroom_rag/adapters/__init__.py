"""The ports' adapters: PostgreSQL, blob storage, the extraction process, the news service."""
