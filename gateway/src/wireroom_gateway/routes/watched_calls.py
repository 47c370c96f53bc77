"""Streams that only watch: they end with the credential that they were asked for with, and do not hold up the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import credential_refused
from wireroom_gateway.routes.answering import Parts

_LOOK_SECONDS = 0.5


class WatchedCall:
    """Implements `Parts`: those of `call`, until the credential is void (UNAUTHENTICATED) or the process is to end (UNAVAILABLE)."""

    def __init__(self, call: Parts, principal: Principal, revocations: Revocations, draining: Callable[[], bool]) -> None:
        self._call = call
        self._principal = principal
        self._revocations = revocations
        self._draining = draining
        self._reason: WireroomError | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        unwatch = self._revocations.watch(self._principal, self._void)
        looking = asyncio.create_task(self._until_drained())
        try:
            async for part in self._call:
                yield part
        except asyncio.CancelledError:
            if self._reason is None:
                raise
            raise self._reason from None
        finally:
            looking.cancel()
            unwatch()

    def cancel(self) -> Any:
        """Nobody wants it any more."""
        return self._call.cancel()

    def _void(self) -> None:
        self._end(
            credential_refused(
                "The session has ended, or its rights have changed. Sign in or refresh the token, and follow again."
            )
        )

    async def _until_drained(self) -> None:
        while not self._draining():  # noqa: ASYNC110 - the runtime tells by a flag
            await asyncio.sleep(_LOOK_SECONDS)
        self._end(
            WireroomError(ErrorKind.UNAVAILABLE, "service_stopping", "This server is about to stop. Follow again.", retry_after=1)
        )

    def _end(self, reason: WireroomError) -> None:
        self._reason = reason
        self._call.cancel()
