"""The names of the roles."""

from __future__ import annotations

# In the order of starting: a role stands after those it calls while it starts.
ROLES = ("auth", "monitoring", "news", "rag", "chat", "gateway")
# Roles with a schema of their own.
SCHEMAS = ("auth", "monitoring", "news", "rag", "chat")

# Which services a role calls.
CALLS = {"gateway": SCHEMAS, "chat": ("rag",), "rag": ("news",)}


def roles_of(name: str) -> tuple[str, ...]:
    """The roles that `wireroom run NAME` runs."""
    return ROLES if name == "all" else (name,)
