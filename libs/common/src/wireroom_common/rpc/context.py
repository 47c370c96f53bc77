"""What belongs to the call being served and travels on to the calls made for it: principal, deadline, request id.

The variables live in the context of the task that serves the call. Tasks started by a servicer inherit them, the deadline included;
work that is to outlive the call is started with `asyncio.create_task(…, context=contextvars.Context())`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from wireroom_common.errors import WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind, current_principal, set_current_principal

_MAX_REQUEST_ID = 128
_IDEMPOTENCY_KEY = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"[0-9a-fA-F:.]{2,45}")


@dataclass(frozen=True)
class ReceivedPrincipal:
    """A verified principal and the signed bytes it came in, which may be forwarded as they are."""

    principal: Principal
    signed: bytes


@dataclass(frozen=True)
class EffectKey:
    """The idempotency key of the call being served, made specific to its method, and the call's own id."""

    value: str
    call_id: UUID


_received: ContextVar[ReceivedPrincipal | None] = ContextVar("wireroom_rpc_received_principal", default=None)
_deadline: ContextVar[float | None] = ContextVar("wireroom_rpc_deadline", default=None)
_request_id: ContextVar[str] = ContextVar("wireroom_rpc_request_id", default="")
_client_address: ContextVar[str] = ContextVar("wireroom_rpc_client_address", default="")
_sent_idempotency_key: ContextVar[str] = ContextVar("wireroom_rpc_idempotency_key", default="")
_effect_key: ContextVar[EffectKey | None] = ContextVar("wireroom_rpc_effect_key", default=None)


def received_principal() -> ReceivedPrincipal | None:
    """The principal of the call being served with its signed bytes; None outside a call."""
    return _received.get()


def set_received_principal(received: ReceivedPrincipal | None) -> None:
    """For the RPC server: remember the signed bytes and make their principal the current one."""
    _received.set(received)
    set_current_principal(received.principal if received else None)


def remaining_time() -> float | None:
    """Seconds until the deadline of the call being served (never negative); None outside a call."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())


def set_remaining_time(seconds: float | None) -> None:
    """For the RPC server and whoever opens a request: calls made from here on end within `seconds`."""
    _deadline.set(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def current_request_id() -> str:
    """The id of the request this work belongs to; empty if there is none."""
    return _request_id.get()


def set_request_id(request_id: str) -> None:
    """For the gateway and the RPC server; calls made from here on carry it as `x-request-id`.

    An id that is not printable ASCII, or longer than 128 characters, could not be sent and counts as none.
    """
    usable = request_id.isascii() and request_id.isprintable() and len(request_id) <= _MAX_REQUEST_ID
    _request_id.set(request_id if usable else "")


def current_client_address() -> str:
    """The network address of the client this work is done for, as the gateway saw it; empty if there is none."""
    return _client_address.get()


def set_client_address(address: str) -> None:
    """For the gateway and the RPC server; calls made from here on carry it as `x-client-address`.

    Anything that could not be an IPv4 or IPv6 address counts as none.
    """
    _client_address.set(address if _ADDRESS.fullmatch(address) else "")


def idempotency_key_to_send() -> str:
    """What calls made from here carry as `idempotency-key`; empty for none. It ends at the service that is called."""
    return _sent_idempotency_key.get()


def set_idempotency_key(key: str) -> None:
    """For the gateway: calls made from here on carry `key`, 64 hexadecimal digits; empty for none."""
    if key and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValueError("an idempotency key is 64 hexadecimal digits")
    _sent_idempotency_key.set(key)


def current_effect_key() -> EffectKey | None:
    """The key under which the call being served may change something once; None if it has none."""
    return _effect_key.get()


def receive_idempotency_key(key: str, method: str) -> None:
    """For the RPC server: the key that the call to `method` carries. What is not a key counts as none."""
    # A servicer's own calls are other effects: they do not carry the key on.
    _sent_idempotency_key.set("")
    if _IDEMPOTENCY_KEY.fullmatch(key):
        # A request may lead to calls of several methods, each with its own effect.
        _effect_key.set(EffectKey(hashlib.sha256(f"{method} {key}".encode()).hexdigest(), new_id()))
    else:
        _effect_key.set(None)


@contextmanager
def acting_as_service(tenant_id: UUID | None = None, *, service: str = "") -> Iterator[Principal]:
    """Make calls inside the block in the name of the service itself, for `tenant_id` or for no tenant.

    For background work. An empty `service` is filled in with the name of the signing process role when a call is signed; other names
    can be signed by the gateway's key only. The previous principal is restored at the end.
    """
    try:
        previous: Principal | None = current_principal()
    except WireroomError:
        previous = None
    principal = Principal(PrincipalKind.SERVICE, subject=service, tenant_id=tenant_id)
    set_current_principal(principal)
    try:
        yield principal
    finally:
        set_current_principal(previous)
