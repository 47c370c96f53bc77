"""Turns blocked callers away before anything else is done for them."""

from __future__ import annotations

import math
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS
from wireroom_gateway.access import Need
from wireroom_gateway.limits.blocks import AddressBlocks
from wireroom_gateway.limits.policy import Policy
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.request_state import RequestState, request_state


class BlockedAddresses:
    """429 for anonymous callers of a blocked address, without a look at the body, the credentials or the counters.

    A block of anonymous callers leaves those alone who show who they are: a request with a credential goes on to authentication, and
    is refused by the rate limits' stage if the credential is no good. Probes (no bucket) always pass.
    """

    def __init__(self, app: ASGIApp, *, gate: BlockGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gate.active:
            state = request_state(scope)
            if not _may_be_signed_in(state, scope):
                self._gate.refuse_blocked(state)
        await self._app(scope, receive, send)


class BlockGate:
    """Refuses the blocked, at both places where it can be known who calls."""

    def __init__(self, blocks: AddressBlocks, policy: Callable[[], Policy], metrics: GatewayMetrics) -> None:
        self._blocks = blocks
        self._policy = policy
        self._metrics = metrics

    @property
    def active(self) -> bool:
        """Whether anyone is blocked."""
        return len(self._blocks) > 0

    def refuse_blocked(self, state: RequestState) -> None:
        """RATE_LIMITED if the caller, as far as it is known by now, is blocked."""
        access = state.route.access if state.route else None
        if not self.active or (access is not None and (access.bucket is None or access.credential_in_body)):
            return
        left = self._blocks.remaining(state.client_ip, state.principal, self._policy().allow)
        if left > 0:
            self._metrics.blocked_requests.labels(state.principal.kind.value).inc()
            raise address_blocked(left)

    def violated(self, state: RequestState, violations: int) -> None:
        """Block the caller: the last straw has come."""
        self._blocks.block(state.client_ip, state.principal, violations, self._policy().blocks)


def address_blocked(seconds: float) -> WireroomError:
    """The refusal."""
    wait = max(1, math.ceil(seconds))
    return WireroomError(
        ErrorKind.RATE_LIMITED,
        "address_blocked",
        f"Too many requests were refused from this address; it is blocked for {wait} s. An operator can lift the block.",
        retry_after=wait,
    )


def _may_be_signed_in(state: RequestState, scope: Scope) -> bool:
    if state.principal is not ANONYMOUS:
        return True
    if state.route is None or state.route.access.need is Need.NOTHING:
        return False
    return any(name in (b"authorization", b"signature") for name, _ in scope["headers"])
