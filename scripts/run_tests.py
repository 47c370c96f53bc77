"""Every check and test: lint first, then lanes side by side, with progress; `run_tests.py STAGE …` runs only those, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import lint

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = ("libs/common", "services/auth", "services/chat", "services/monitoring", "services/news", "services/rag", "gateway")
# What a stage runs: pytest arguments. Unit and component tests live with their member, journeys in tests/.
STAGES: dict[str, Sequence[str]] = {
    # Two workers: most of these tests wait for servers and locks. Each worker has servers of its own.
    "unit": ["-n", "2", "--dist", "loadfile", "tests/launcher", "tests/reference", "deploy", *MEMBERS],
    # Part of "unit": what every adapter of a port promises, by itself.
    "contract": [*MEMBERS, "-k", "contract"],
    # The first test of a module waits for its installation, six processes that start beside everything else.
    "integration": ["tests/integration", "--timeout=300"],
    # Apart, because each folder's tests share one conftest. Citations: chat and rag together, without a gateway.
    "citations": ["tests/citations"],
    "clients": ["tests/clients"],
    "security": ["tests/security"],
}
# Stages that wait more than they work run beside each other: a lane's stages one after the other, the lanes together.
LANES = (("unit",), ("integration", "citations", "clients", "security"))
_LIMIT = 3000
_SIGN_OF_LIFE = 60


def main(wanted: Sequence[str]) -> int:
    """Run the stages, stop at the first that fails; its exit status."""
    if wanted:
        return next((status for name in wanted if (status := _alone(name))), 0)
    return _alone("lint") or _together(LANES)


def _alone(name: str) -> int:
    start = time.monotonic()
    print(f"== {name}", flush=True)
    status = lint.main() if name == "lint" else _status_of(name)
    return _told(name, status, start)


def _status_of(name: str) -> int:
    return subprocess.run(_command(name), cwd=ROOT, env=_environment(), check=False, timeout=_LIMIT).returncode


@dataclass
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    start: float


def _together(lanes: Sequence[Sequence[str]]) -> int:
    """The output of each stage is shown when it has ended."""
    waiting = [list(lane) for lane in lanes]
    running: list[_Running | None] = [None] * len(waiting)
    last_sign = time.monotonic()
    status = 0
    while any(running) or (status == 0 and any(waiting)):
        for lane, current in enumerate(running):
            if current is None and waiting[lane] and status == 0:
                running[lane] = _started(waiting[lane].pop(0))
            elif current is not None and _ended(current):
                shown = _shown(current)
                status = status or shown
                running[lane] = None
        if time.monotonic() - last_sign > _SIGN_OF_LIFE:
            last_sign = time.monotonic()
            names = ", ".join(f"{item.name} ({last_sign - item.start:.0f} s)" for item in running if item is not None)
            print(f"== running: {names}", flush=True)
        time.sleep(0.2)
    return status


def _started(name: str) -> _Running:
    print(f"== {name}", flush=True)
    output = tempfile.TemporaryFile()  # noqa: SIM115 - read and closed when the stage has ended
    return _Running(
        name,
        subprocess.Popen(_command(name), cwd=ROOT, env=_environment(), stdout=output, stderr=output),
        output,
        time.monotonic(),
    )


def _ended(stage: _Running) -> bool:
    if stage.process.poll() is None and time.monotonic() - stage.start > _LIMIT:
        stage.process.kill()
        stage.process.wait()
    return stage.process.poll() is not None


def _shown(stage: _Running) -> int:
    stage.output.seek(0)
    print(f"== output of {stage.name}", flush=True)
    sys.stdout.buffer.write(stage.output.read())
    sys.stdout.flush()
    stage.output.close()
    return _told(stage.name, stage.process.returncode, stage.start)


def _told(name: str, status: int, start: float) -> int:
    print(f"== {name}: {'ok' if status == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
    return status


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "--durations=15", *STAGES[name]]


def _environment() -> dict[str, str]:
    """The caller's, with compiled modules kept in .build.

    The tests start hundreds of interpreters. Where compiled modules are not kept, as the images of Python ask for, each of them
    compiles everything it imports anew, which takes twice as long as everything else it does until it is ready.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(ROOT / ".build" / "pycache"), **kept}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
