"""Resolve `requirements.lock` from the members' pyproject files: every version with its hashes, no package host."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
MEMBERS = ("auth", "chat", "common", "gateway", "monitoring", "news", "protos", "rag")


def projects() -> list[Path]:
    """The pyproject files of all members."""
    return [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/pyproject.toml")), *sorted(ROOT.glob("*/*/pyproject.toml"))]


def resolve(out: Path, *, upgrade: bool) -> None:
    """Write the lock to `out`, keeping the versions it already names unless `upgrade`."""
    command = ["uv", "pip", "compile", "-q", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--all-extras", "--group", "dev", "-o", str(out)]
    for member in MEMBERS:
        command += ["--no-emit-package", f"wireroom-{member}"]
    if upgrade:
        command.append("--upgrade")
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([*command, *map(str, projects())], cwd=ROOT, env=environment, check=True, timeout=600)


def check() -> list[str]:
    """What is wrong with the committed lock; empty when it is fresh."""
    problems = []
    text = LOCK.read_text()
    if "://" in text:
        problems.append(f"{LOCK.name} names a package host")
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / LOCK.name
        fresh.write_text(text)
        resolve(fresh, upgrade=False)
        if fresh.read_text() != text:
            problems.append(f"{LOCK.name} does not fit the pyproject files: run `make lock`")
    return problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    resolve(LOCK, upgrade=parser.parse_args().upgrade)
