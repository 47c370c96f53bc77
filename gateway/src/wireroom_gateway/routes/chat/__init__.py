"""The native chat surface below /api/v1."""
