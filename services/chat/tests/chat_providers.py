"""Providers of the OpenAI wire as the tests of use cases need them."""

from __future__ import annotations

from wireroom_chat.adapters.providers.http import Endpoint, ProviderHttp, ProviderSessions
from wireroom_chat.adapters.providers.openai import OpenAiProvider
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_common.clock import SystemClock


def provider_sessions() -> ProviderSessions:
    """The connections of one test; not yet open."""
    return ProviderSessions(max_connections=100)


def open_provider(name: str, base_url: str, sessions: ProviderSessions) -> OpenAiProvider:
    """A provider on open connections, with short time limits."""
    endpoint = Endpoint(name, base_url, {}, ProviderTimeouts(2.0, 2.0, 2.0, 5.0))
    return OpenAiProvider(ProviderHttp(endpoint, sessions, SystemClock()))
