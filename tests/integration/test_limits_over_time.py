"""The measurement of `make bench-limits`, briefly: random load in real time on replicas in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import ROOT


@pytest.mark.timeout(180)
def test_no_window_holds_more_than_the_limit() -> None:
    options = ["--seconds", "12", "--window", "3", "--limit", "20", "--replicas", "2"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_limits.py"), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "most in any window: 20 (limit 20)" in result.stdout
