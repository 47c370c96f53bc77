"""Readiness: real checks with a time limit, their results shared between probes for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.runtime.service import Check

_TIME_LIMIT = 2.0
_SHARED_FOR = 0.5


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    name: str
    ok: bool
    milliseconds: float
    detail: str


class Health:
    """The checks of one service, and whether the process is willing to take work at all.

    `start_checks` must have passed once: without its queues a service would lose events. Later their failure is shown but takes no
    traffic away, because events wait in the outbox.
    """

    def __init__(self, service: str, checks: Mapping[str, Check], clock: Clock, *, start_checks: Mapping[str, Check]) -> None:
        self.service = service
        self._checks = {**checks, **start_checks}
        self._pending = set(start_checks)
        self._required = set(checks)
        self._clock = clock
        self._accepting = False
        self._latest: tuple[float, list[CheckResult]] | None = None
        self._lock = asyncio.Lock()
        self._started_at = clock.monotonic()

    def uptime(self) -> float:
        """Seconds since the service was built."""
        return self._clock.monotonic() - self._started_at

    def accept(self, accepting: bool) -> None:  # noqa: FBT001 - reads as a sentence
        """Say that start-up is complete, or that shutdown has begun."""
        self._accepting = accepting
        self._latest = None

    async def results(self) -> list[CheckResult]:
        """Every check's result, at most half a second old. A check that raises or takes 2 s is not ok."""
        async with self._lock:
            if self._latest is None or self._clock.monotonic() - self._latest[0] > _SHARED_FOR:
                results = await asyncio.gather(*(self._run(name, check) for name, check in self._checks.items()))
                self._pending -= {result.name for result in results if result.ok}
                self._latest = (self._clock.monotonic(), list(results))
            return self._latest[1]

    async def ready(self) -> bool:
        """Whether the service should get traffic."""
        results = await self.results()
        return self._accepting and not self._pending and all(result.ok for result in results if result.name in self._required)

    async def _run(self, name: str, check: Check) -> CheckResult:
        start = self._clock.monotonic()
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                await check()
        except WireroomError as error:
            outcome, detail = False, error.detail
        except TimeoutError:
            outcome, detail = False, f"no answer within {_TIME_LIMIT:g} s"
        except Exception as error:  # noqa: BLE001 - a check may fail in any way; its text stays inside
            outcome, detail = False, type(error).__name__
        else:
            outcome, detail = True, ""
        return CheckResult(name, outcome, (self._clock.monotonic() - start) * 1000, detail)
