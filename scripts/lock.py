"""Resolve `requirements.lock` from the members' pyproject files: every version with its hashes, no package host.

What only an optional store needs stands in a lock of its own, to be installed beside the first: `requirements-lancedb.lock`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OPTIONAL = {"lancedb": ROOT / "requirements-lancedb.lock"}
_EXTRAS = ("embedded", "testing")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==.*(?:(?<=\\)\n.*)*\n?", re.MULTILINE)
MEMBERS = ("auth", "chat", "common", "gateway", "monitoring", "news", "protos", "rag")


def projects() -> list[Path]:
    """The pyproject files of all members."""
    return [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/pyproject.toml")), *sorted(ROOT.glob("*/*/pyproject.toml"))]


def resolve(out: Path, *, upgrade: bool) -> None:
    """Write the lock to `out`, keeping the versions it already names unless `upgrade`."""
    _compile(out, _EXTRAS, ["--upgrade"] if upgrade else [])


def resolve_optional(extra: str, out: Path, main: Path, *, upgrade: bool) -> None:
    """Write to `out` what the extra needs beyond the lock `main`, in versions that fit it."""
    _compile(out, (*_EXTRAS, extra), ["-c", str(main), *(["--upgrade"] if upgrade else [])])
    known = {entry[1] for entry in _ENTRY.finditer(main.read_text())}
    out.write_text("".join(entry[0] for entry in _ENTRY.finditer(out.read_text()) if entry[1] not in known))


def _compile(out: Path, extras: Sequence[str], options: Sequence[str]) -> None:
    command = ["uv", "pip", "compile", "-q", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--group", "dev", "-o", str(out), *options]
    for extra in extras:
        command += ["--extra", extra]
    for member in MEMBERS:
        command += ["--no-emit-package", f"wireroom-{member}"]
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([*command, *map(str, projects())], cwd=ROOT, env=environment, check=True, timeout=600)


def check() -> list[str]:
    """What is wrong with the committed locks; empty when they are fresh."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = _copy(LOCK, Path(folder))
        resolve(fresh, upgrade=False)
        problems = _differences(LOCK, fresh)
        for extra, committed in OPTIONAL.items():
            optional = _copy(committed, Path(folder))
            resolve_optional(extra, optional, fresh, upgrade=False)
            problems += _differences(committed, optional)
    return problems


def _copy(lock: Path, folder: Path) -> Path:
    return Path(shutil.copy(lock, folder))


def _differences(committed: Path, fresh: Path) -> list[str]:
    text = committed.read_text()
    problems = [f"{committed.name} names a package host"] if "://" in text else []
    if fresh.read_text() != text:
        problems.append(f"{committed.name} does not fit the pyproject files: run `make lock`")
    return problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    newest = parser.parse_args().upgrade
    resolve(LOCK, upgrade=newest)
    for name, file in OPTIONAL.items():
        resolve_optional(name, file, LOCK, upgrade=newest)
