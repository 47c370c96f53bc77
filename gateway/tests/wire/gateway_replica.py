"""A gateway in a process of its own: as a program it runs one and prints its address; `replica_processes` starts several."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replica_processes(folder: Path, count: int, *, redis_url: str, settings: dict[str, Any]) -> Iterator[list[str]]:
    """The addresses of `count` gateways that share a Redis; `settings` are those of the gateway. They end with this process."""
    with ExitStack() as stack:
        processes = []
        for number in range(count):
            process = subprocess.Popen(
                [sys.executable, __file__, str(folder / f"replica{number}"), redis_url, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(folder / f"replica{number}.log").open("wb"),
                env={name: value for name, value in os.environ.items() if not name.startswith("WIREROOM_")},
                text=True,
            )
            stack.callback(_end, process)
            processes.append(process)
        urls = []
        for number, process in enumerate(processes):
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, (folder / f"replica{number}.log").read_text(errors="replace")[-3000:]
            urls.append(url)
        yield urls


def _end(process: subprocess.Popen[str]) -> None:
    # A replica ends when its input does.
    process.communicate(timeout=30)


async def _serve(folder: Path, redis_url: str, settings: dict[str, Any]) -> None:
    # The log goes to the file: nobody reads the pipe after the address.
    address, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, str(Path(__file__).parent))
    from gateway_rig import running  # noqa: PLC0415 - beside this file

    async with running(folder, redis_url=redis_url, **settings) as rig:
        address.write(f"{rig.url}\n")
        address.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
