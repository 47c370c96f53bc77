"""One-time tickets: how a page that must not put its token into an address opens a WebSocket.

The store holds no rights and nothing that opens without the ticket: under the ticket's hash lies the caller's own credential, sealed with a
key that is derived from the ticket. Whoever redeems one is checked as if that credential had been sent; whoever reads or writes
the store gains nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import Awaitable
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wireroom_common.errors import ErrorKind, WireroomError

T = TypeVar("T")

# Of the Authorization header that a handshake with a ticket has inside the pipeline.
SCHEME = "Ticket"
PREFIX = "wr_wt_"
_SHAPE = re.compile(r"wr_wt_[A-Za-z0-9_-]{43}", re.ASCII)
_NONCE = 12


class Tickets:
    """Tickets are good for `lifetime` seconds, once, on any replica; `bind_address`: only from the address that got them."""

    def __init__(self, client: Redis, *, lifetime: float, bind_address: bool, timeout: float) -> None:
        self._client = client
        self.lifetime = lifetime
        self._bind = bind_address
        self._timeout = timeout

    async def issue(self, credential: str, client_address: str) -> str:
        """A ticket in place of `credential`, which was verified. UNAVAILABLE when the store is away."""
        ticket = PREFIX + secrets.token_urlsafe(32)
        name, key = _derived(ticket)
        nonce = os.urandom(_NONCE)
        sealed = nonce + AESGCM(key).encrypt(nonce, credential.encode("ascii"), self._bound_to(client_address))
        await self._run(self._client.set(name, sealed, px=int(self.lifetime * 1000)))
        return ticket

    async def redeem(self, ticket: str, client_address: str) -> str:
        """The credential; the ticket is used up. UNAUTHENTICATED if it is not good, UNAVAILABLE when the store is away."""
        if _SHAPE.fullmatch(ticket):
            name, key = _derived(ticket)
            sealed: bytes | None = await self._run(self._client.getdel(name))
            if sealed is not None:
                try:
                    plain = AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound_to(client_address))
                    return plain.decode("ascii")
                except (InvalidTag, ValueError):
                    pass
        raise WireroomError(
            ErrorKind.UNAUTHENTICATED,
            "credential_invalid",
            f"The ticket is not valid: it is good once, for {self.lifetime:g} s. Get another one from POST /api/v1/ws-tickets.",
        )

    def _bound_to(self, client_address: str) -> bytes:
        return client_address.encode() if self._bind else b""

    async def _run(self, call: Awaitable[T]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except (RedisError, OSError, TimeoutError) as error:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "tickets_unavailable",
                "There are no tickets at the moment. Try again, or send the token as a subprotocol.",
                retry_after=2.0,
            ) from error


def _derived(ticket: str) -> tuple[str, bytes]:
    data = ticket.encode("ascii")
    return f"wst:{hashlib.sha256(b'name' + data).hexdigest()}", hashlib.sha256(b"seal" + data).digest()
