"""Make `.venv`, install what `requirements.lock` names, build the embedding model. Each step says what it does and is skipped when done.

`--with lancedb` installs what that option needs, too; it stays until `.venv` is made anew.
Runs on any Python ≥ 3.11 with nothing installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from lock import LOCK, OPTIONAL

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BUILD = ROOT / ".build"
PYTHON = VENV / "bin" / "python"
MEMBERS = (
    ".",
    "gateway",
    "libs/common",
    "protos",
    "services/auth",
    "services/chat",
    "services/monitoring",
    "services/news",
    "services/rag",
)


def main(asked: Sequence[str] = ()) -> int:
    """Run the steps; 0 when everything stands. `asked`: options."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the one script that runs before anything is installed
        print(
            f"Wireroom needs Python 3.11 or newer; this is {sys.version.split()[0]}. Say `make PYTHON=python3.12 …` to use another."
        )
        return 1
    BUILD.mkdir(exist_ok=True)
    if not _works(PYTHON):
        step(f"making .venv with Python {sys.version.split()[0]}")
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=True).create(VENV)
    entry = _locked("uv")
    version = entry.split("==")[1].split()[0]
    if not _has_uv(version):
        step(f"installing uv {version}")
        (BUILD / "uv.txt").write_text(entry)
        pip = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        _call([*pip, "-r", str(BUILD / "uv.txt")])
    chosen = VENV / "wireroom-options"
    options = sorted({*asked, *(chosen.read_text().split() if chosen.exists() else ())})
    locks = [LOCK, *(OPTIONAL[option] for option in options)]
    fingerprint = _fingerprint([*locks, *(ROOT / member / "pyproject.toml" for member in MEMBERS)])
    stamp = VENV / "wireroom-installed"
    if not stamp.exists() or stamp.read_text() != fingerprint:
        step(f"installing the packages of {' and '.join(lock.name for lock in locks)}")
        uv = [str(VENV / "bin" / "uv"), "pip"]
        environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_PYTHON": str(PYTHON), "UV_NO_PROGRESS": "1"}
        _call([*uv, "sync", "-q", "--require-hashes", *map(str, locks)], environment)
        step("installing the members of the workspace")
        editable = [argument for member in MEMBERS for argument in ("-e", str(ROOT / member))]
        _call([*uv, "install", "-q", "--no-deps", "--no-build-isolation", *editable], environment)
        chosen.write_text(" ".join(options))
        stamp.write_text(fingerprint)
    model_stamp = BUILD / "models"
    _call([str(PYTHON), "-m", "wireroom_rag.embedding.model_build", str(model_stamp)])
    return 0


def step(text: str) -> None:
    """Say what happens now."""
    print(f"[setup {time.strftime('%H:%M:%S')}] {text}", flush=True)


def _works(python: Path) -> bool:
    return python.exists() and subprocess.run([str(python), "-c", "import pip"], check=False, capture_output=True).returncode == 0


def _has_uv(version: str) -> bool:
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        return False
    shown = subprocess.run([str(uv), "--version"], check=False, capture_output=True, text=True).stdout
    return shown.split()[1:2] == [version]


def _locked(package: str) -> str:
    """The lock's entry of a package: its version and hashes, one entry over several lines."""
    found = re.search(rf"^{package}==.*(?:(?<=\\)\n.*)*", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{LOCK.name} does not name {package}: run `make lock`.")
    return found[0] + "\n"


def _fingerprint(paths: list[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _call(command: list[str], environment: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=1800)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"This step failed (exit {error.returncode}): {' '.join(command)}") from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with", dest="options", action="append", default=[], choices=sorted(OPTIONAL))
    sys.exit(main(parser.parse_args().options))
