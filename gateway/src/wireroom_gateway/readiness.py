"""Whether this replica should get traffic, and what is not as it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wireroom_common.errors import WireroomError
from wireroom_common.runtime.service import Check


@dataclass(frozen=True)
class Readiness:
    """`checks` decide; `degraded` names what is merely worse than usual. While `draining` nothing is ready: the process is about to end."""

    checks: Mapping[str, Check]
    degraded: Callable[[], list[str]]
    draining: Callable[[], bool]

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Ready or not, and by name "ok" or what is the matter."""
        results: dict[str, str] = {}
        ready = not self.draining()
        if not ready:
            results["process"] = "stopping"
        for name, check in self.checks.items():
            try:
                await check()
            except WireroomError as error:
                ready = False
                results[name] = error.detail
            else:
                results[name] = "ok"
        if self.draining():
            ready = False
            results["process"] = "It was told to stop and takes no new traffic."
        results.update(dict.fromkeys(self.degraded(), "degraded"))
        return ready, results
