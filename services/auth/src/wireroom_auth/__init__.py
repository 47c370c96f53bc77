"""Users, tenants, tokens and API keys."""
