"""Whether this replica should get traffic, and what is not as it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wireroom_common.errors import WireroomError
from wireroom_common.runtime.service import Check


@dataclass(frozen=True)
class Readiness:
    """`checks` decide; `degraded` names what is merely worse than usual. A callback may close the door (shutdown)."""

    checks: Mapping[str, Check]
    degraded: Callable[[], list[str]]

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Ready or not, and by name "ok" or what is the matter."""
        results: dict[str, str] = {}
        ready = True
        for name, check in self.checks.items():
            try:
                await check()
            except WireroomError as error:
                ready = False
                results[name] = error.detail
            else:
                results[name] = "ok"
        results.update(dict.fromkeys(self.degraded(), "degraded"))
        return ready, results
