"""Providers as the tests of use cases need them."""

from __future__ import annotations

from wireroom_chat.adapters.providers.anthropic import AnthropicProvider
from wireroom_chat.adapters.providers.http import Endpoint, ProviderHttp, ProviderSessions
from wireroom_chat.adapters.providers.openai import OpenAiProvider
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_common.clock import SystemClock


def provider_sessions() -> ProviderSessions:
    """The connections of one test; not yet open."""
    return ProviderSessions(max_connections=100)


def open_provider(name: str, base_url: str, sessions: ProviderSessions) -> OpenAiProvider:
    """A provider on open connections, with short time limits."""
    return OpenAiProvider(_http(name, base_url, sessions))


def open_anthropic(name: str, base_url: str, sessions: ProviderSessions) -> AnthropicProvider:
    """The same with the other wire."""
    return AnthropicProvider(_http(name, base_url, sessions), SystemClock(), {"m": 512})


def _http(name: str, base_url: str, sessions: ProviderSessions) -> ProviderHttp:
    return ProviderHttp(Endpoint(name, base_url, {}, ProviderTimeouts(2.0, 2.0, 2.0, 5.0)), sessions, SystemClock())
