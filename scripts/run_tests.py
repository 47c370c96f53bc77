"""Every check and test, quickest first, with progress; `run_tests.py STAGE …` runs only those stages."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lint

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = ("libs/common", "services/auth", "services/chat", "services/monitoring", "services/news", "services/rag", "gateway")
# What a stage runs: pytest arguments. Unit and component tests live with their member, journeys in tests/.
STAGES: dict[str, Sequence[str]] = {
    # Two workers: most of these tests wait for servers and locks. Each worker has servers of its own.
    "unit": ["-n", "2", "--dist", "loadfile", "tests/launcher", "tests/reference", "deploy", *MEMBERS, "-k", "not contract"],
    "contract": [*MEMBERS, "-k", "contract"],
    "integration": ["tests/integration"],
    # Apart, because each folder's tests share one conftest.
    "clients": ["tests/clients"],
    "security": ["tests/security"],
}


def main(wanted: Sequence[str]) -> int:
    """Run the stages in order, stop at the first that fails; its exit status."""
    for name in wanted or ["lint", *STAGES]:
        start = time.monotonic()
        print(f"== {name}", flush=True)
        status = lint.main() if name == "lint" else _pytest(STAGES[name])
        print(f"== {name}: {'ok' if status == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
        if status != 0:
            return status
    return 0


def _pytest(arguments: Sequence[str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments], cwd=ROOT, check=False, timeout=3000
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
