"""Who is calling: access tokens, API keys, revocations."""
