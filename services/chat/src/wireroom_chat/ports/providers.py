"""Those who answer: language models and embedding models, and what is known of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.providers import Candidate, Strategy
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_common.errors import WireroomError


class LeftBeforeCallError(asyncio.CancelledError):
    """The caller left while the call waited for a free connection: nothing was sent, nothing will be billed."""


class ChatProvider(Protocol):
    """One provider through one of its keys; takes and gives OpenAI's shapes, whatever it speaks itself.

    Failures are WireroomErrors that name the provider, never its words.
    """

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion object; `choices` is a list that is not empty."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks in order; each has a `choices` list. Closing the generator closes the connection at once."""

    async def batches(self, body: Mapping[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The chunks of `stream`, those together that are there at the same moment."""
        async with aclosing(self.stream(body)) as chunks:
            async for chunk in chunks:
                yield [chunk]


class Writer(ChatProvider, Protocol):
    """Whoever writes an answer: all providers of a model as one."""

    def reading(self, terms: SourceTerms) -> Writer:
        """Those of them that may receive texts under these terms; FORBIDDEN `collection_provider_not_allowed` when none may."""


class Embeddings(Protocol):
    """Turns texts into vectors, in OpenAI's shapes."""

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The embedding object for `input` (a text, texts, or tokens where the model takes them); failures are WireroomErrors."""


class Provider(ChatProvider, Embeddings, Protocol):
    """All that one provider does."""


class ProviderDirectory(Protocol):
    """The configured providers, as of now."""

    def catalogue(self) -> Catalogue:
        """The current snapshot; no I/O."""

    def provider(self, candidate: Candidate) -> Provider:
        """The provider of a candidate of the current or a recent snapshot; UNAVAILABLE `provider_gone` when it was taken away."""


class ProviderHealth(Protocol):
    """What is known of candidates from recent calls, on all replicas. Cheap calls without I/O."""

    def order(self, candidates: Sequence[Candidate], strategy: Strategy) -> list[Candidate]:
        """All of them in the order in which to try them: usable ones by the strategy, then those in cooldown."""

    def blocked_for(self, candidate: Candidate) -> float:
        """Seconds for which it had better not be called; 0 when it may."""

    def began(self, candidate: Candidate) -> None:
        """It is being called now: after a failure only one call at a time may find out whether it works again."""

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        """A call ended well."""

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        """A call ended badly, for a reason that lies with the provider."""

    def released(self, candidate: Candidate, *, alive: bool) -> None:
        """A call ended for a reason that does not lie with the provider. `alive`: the provider has answered."""
