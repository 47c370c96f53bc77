"""The schema `rag`."""
