"""Contracts: buf's lint, generated code that is fresh, and no change that breaks a peer that runs the previous version."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from generate_protos import COMMITTED, GENERATED_PATTERNS, ROOT, generate

BUF = str(Path(sys.executable).parent / "buf")


def check() -> list[str]:
    """Everything that is wrong; empty when the contracts are in order."""
    return [*_lint(), *_stale(), *_breaking()]


def _lint() -> list[str]:
    result = subprocess.run([BUF, "lint"], cwd=ROOT / "protos", capture_output=True, text=True, check=False, timeout=120)
    return result.stdout.splitlines()


def _stale() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        expected = {path.relative_to(fresh) for path in generate(fresh)}
        present = {path.relative_to(COMMITTED) for pattern in GENERATED_PATTERNS for path in COMMITTED.rglob(pattern)}
        _, different, failed = filecmp.cmpfiles(fresh, COMMITTED, [str(path) for path in expected & present], shallow=False)
    return [
        f"{path} is not what `make protos` generates" for path in sorted({*different, *failed, *map(str, expected ^ present)})
    ]


def _breaking() -> list[str]:
    base = base_commit()
    if base is None:
        if os.environ.get("CI") and not _is_first_commit():
            return ["This clone holds no earlier commit to compare the contracts with: check out the whole history (depth 0)."]
        print(
            f"    contracts: not compared, this {'is the first commit' if _is_first_commit() else 'clone holds no earlier one'}"
        )
        return []
    if not _git("ls-tree", base, "protos/buf.yaml"):
        print(f"    contracts: not compared, {base[:12]} has none")
        return []
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", base, "protos"], cwd=ROOT, capture_output=True, check=True, timeout=60)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True, timeout=60)
        result = subprocess.run(
            [BUF, "breaking", "--against", str(Path(folder) / "protos")],
            cwd=ROOT / "protos",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    return [f"breaks a peer at {base[:12]}: {line}" for line in [*result.stdout.splitlines(), *result.stderr.splitlines()]]


def base_commit() -> str | None:
    """What the contracts are compared with: where HEAD left `origin/main`, or HEAD's parent when HEAD is on it or it is unknown.

    None when the clone does not hold that commit, or when HEAD is the first one.
    """
    head = _git("rev-parse", "HEAD")
    main = _git("rev-parse", "--verify", "--quiet", "origin/main")
    if main and main != head:
        base = _git("merge-base", "origin/main", "HEAD")
        if base != head:
            return base or None
    return _git("rev-parse", "--verify", "--quiet", "HEAD^") or None


def _is_first_commit() -> bool:
    return _git("rev-parse", "--is-shallow-repository") == "false" and _git("rev-list", "--count", "HEAD") == "1"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


if __name__ == "__main__":
    problems = check()
    print("\n".join(problems))
    sys.exit(1 if problems else 0)
