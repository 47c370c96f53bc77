"""Clients of providers: what they share over HTTP, and one module per wire."""
