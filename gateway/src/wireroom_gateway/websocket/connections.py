"""How many WebSockets are open, and how many one user may have."""

from __future__ import annotations

from collections import Counter

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal
from wireroom_gateway.metrics import GatewayMetrics

_CODES = frozenset({1000, 1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4403, 4404, 4408, 4429})


class OpenConnections:
    """Counts those of this process."""

    def __init__(self, metrics: GatewayMetrics, *, most: int, most_per_user: int) -> None:
        self._metrics = metrics
        self._most = most
        self._most_per_user = most_per_user
        self._by_user: Counter[tuple[str, str]] = Counter()
        self._open = 0

    def take(self, principal: Principal) -> None:
        """One more; RATE_LIMITED if the user has too many, UNAVAILABLE if there are too many altogether."""
        if self._open >= self._most:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "too_many_websockets", "Too many WebSockets are open here. Connect again.", retry_after=5.0
            )
        user = _user(principal)
        if self._by_user[user] >= self._most_per_user:
            raise WireroomError(
                ErrorKind.RATE_LIMITED,
                "too_many_websockets",
                f"You have {self._most_per_user} WebSockets open, which is the most. Close one.",
                retry_after=5.0,
            )
        self._open += 1
        self._by_user[user] += 1
        self._metrics.websockets.set(self._open)

    def give_back(self, principal: Principal) -> None:
        """One less."""
        user = _user(principal)
        self._open -= 1
        self._by_user[user] -= 1
        if self._by_user[user] <= 0:
            del self._by_user[user]
        self._metrics.websockets.set(self._open)

    def closed(self, code: int) -> None:
        """Count an end by its code: a closed set."""
        self._metrics.websockets_closed.labels(str(code) if code in _CODES else "other").inc()


def _user(principal: Principal) -> tuple[str, str]:
    return str(principal.tenant_id or ""), principal.subject
