"""The providers of the settings."""

from __future__ import annotations

from collections.abc import Mapping

from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.providers import Candidate
from wireroom_chat.ports import ChatProvider
from wireroom_common.errors import ErrorKind, WireroomError


class SettingsDirectory:
    """Providers that do not change while the process runs."""

    def __init__(self, catalogue: Catalogue, providers: Mapping[str, ChatProvider]) -> None:
        self._catalogue = catalogue
        self._providers = providers

    def catalogue(self) -> Catalogue:
        return self._catalogue

    def provider(self, candidate: Candidate) -> ChatProvider:
        provider = self._providers.get(candidate.model.provider)
        if provider is None:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "provider_gone", f"The provider '{candidate.model.provider}' was taken away."
            )
        return provider
