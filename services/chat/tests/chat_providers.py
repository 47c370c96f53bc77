"""Providers of the OpenAI wire as the tests of use cases need them."""

from __future__ import annotations

from wireroom_chat.adapters.provider import OpenAiProvider, ProviderSessions, ProviderTimeouts
from wireroom_common.clock import SystemClock


def provider_sessions() -> ProviderSessions:
    """The connections of one test; not yet open."""
    return ProviderSessions(max_connections=100)


def open_provider(name: str, base_url: str, sessions: ProviderSessions) -> OpenAiProvider:
    """A provider on open connections, with short time limits."""
    return OpenAiProvider(
        name=name,
        base_url=base_url,
        api_key=None,
        timeouts=ProviderTimeouts(2.0, 2.0, 2.0, 5.0),
        sessions=sessions,
        clock=SystemClock(),
    )
