from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from wireroom_common.bus import Catalogue
from wireroom_common.clock import SystemClock
from wireroom_common.runtime.infra import ProcessInfra
from wireroom_common.runtime.process import Module, Process
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_common.runtime.settings import RuntimeSettings
from wireroom_common.testing import eventually


class Recorder:
    def __init__(self, name: str, log: list[str], *, fails: bool = False, hangs: bool = False) -> None:
        self.name, self.log, self.fails, self.hangs = name, log, fails, hangs
        self.runs = 0

    def build(self, _infra: Infra) -> Service:
        return Service(
            self.name, start=self.start, stop=self.stop, periodic=[Periodic("tick", 0.01, self.tick)], checks={"self": self.check}
        )

    async def check(self) -> None: ...

    async def start(self) -> None:
        if self.fails:
            raise RuntimeError(f"{self.name} cannot start")
        if self.hangs:
            await asyncio.Event().wait()
        self.log.append(f"start {self.name}")

    async def stop(self) -> None:
        self.log.append(f"stop {self.name}")

    async def tick(self) -> None:
        self.runs += 1
        raise ValueError("once more, please")


def process_of(tmp_path: Path, *recorders: Recorder) -> Process:
    infra = ProcessInfra(
        RuntimeSettings(data_dir=tmp_path), Catalogue({}), registry=CollectorRegistry(), clock=SystemClock(), announce=print
    )
    return Process([Module(recorder.name, recorder.build) for recorder in recorders], infra)


async def test_services_start_in_order_and_stop_in_reverse_and_failing_periodic_work_is_repeated(tmp_path: Path) -> None:
    log: list[str] = []
    first, second = Recorder("first", log), Recorder("second", log)
    process = process_of(tmp_path, first, second)
    task = asyncio.create_task(process.run())
    await eventually(lambda: second.runs > 3)
    process.request_stop()
    await task
    assert log == ["start first", "start second", "stop second", "stop first"]


async def test_service_that_cannot_start_ends_the_process_and_stops_the_others(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(RuntimeError, match="second cannot start"):
        await process_of(tmp_path, Recorder("first", log), Recorder("second", log, fails=True)).run()
    assert log == ["start first", "stop second", "stop first"]


async def test_stop_during_the_start_ends_the_start(tmp_path: Path) -> None:
    log: list[str] = []
    process = process_of(tmp_path, Recorder("first", log), Recorder("second", log, hangs=True))
    task = asyncio.create_task(process.run())
    await eventually(lambda: "start first" in log)
    process.request_stop()
    await asyncio.wait_for(task, 5)
    assert log == ["start first", "stop second", "stop first"]


async def test_part_that_dies_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    log: list[str] = []

    async def die() -> None:
        raise RuntimeError("the listener broke")

    async def on_ready(process: Process) -> None:
        process._supervised(die(), "listener")  # noqa: SLF001 - stands in for any of the tasks that the process keeps

    with pytest.raises(RuntimeError, match="the listener broke"):
        await asyncio.wait_for(process_of(tmp_path, Recorder("first", log)).run(on_ready), 10)
    assert log == ["start first", "stop first"]
