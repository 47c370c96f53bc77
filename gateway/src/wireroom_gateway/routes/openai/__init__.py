"""The OpenAI-compatible surface below /v1."""
