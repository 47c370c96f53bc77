from __future__ import annotations

import asyncio

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.runtime.health import Health


class Dependency:
    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if not self.up:
            raise WireroomError(ErrorKind.UNAVAILABLE, "away", "It is away.")


async def test_ready_follows_required_checks_and_the_will_to_take_work() -> None:
    clock, database = ManualClock(), Dependency()
    health = Health("demo", {"database": database.check}, clock, start_checks={})
    assert not await health.ready()
    health.accept(True)
    assert await health.ready()
    database.up = False
    clock.advance(1)
    assert not await health.ready()
    assert [(result.name, result.ok, result.detail) for result in await health.results()] == [("database", False, "It is away.")]
    database.up = True
    clock.advance(1)
    assert await health.ready()
    health.accept(False)
    assert not await health.ready()


async def test_start_check_gates_the_start_and_is_only_shown_later() -> None:
    clock, bus = ManualClock(), Dependency()
    bus.up = False
    health = Health("demo", {}, clock, start_checks={"bus": bus.check})
    health.accept(True)
    assert not await health.ready()
    bus.up = True
    clock.advance(1)
    assert await health.ready()
    bus.up = False
    clock.advance(1)
    assert await health.ready()
    assert not (await health.results())[0].ok


async def test_many_probes_share_one_check_and_failures_show_no_internals() -> None:
    clock, database = ManualClock(), Dependency()

    async def broken() -> None:
        raise ValueError("password=hunter2")

    health = Health("demo", {"database": database.check, "broken": broken}, clock, start_checks={})
    await asyncio.gather(*(health.results() for _ in range(20)))
    assert database.asked == 1
    assert "hunter2" not in str(await health.results())
