"""The monitoring service: event log, statistics."""
