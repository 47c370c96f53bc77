"""All static checks: format, lint, types, import contracts, words kept to the runtime, contracts, lock."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import api_reference
import check_imports
import check_protos
import lock

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# Only the launcher and the runtime know which deployment they run in.
_MODE_WORDS = re.compile(
    r"embedded:|Embedded[A-Z]|is_embedded|embedded (?:mode|deployment|installation)|all[-_ ]in[-_ ]one|single[-_ ]process"
)
_MODE_SOURCES = ("gateway/src", "services", "libs/common/src")
_MODE_ALLOWED = ("libs/common/src/wireroom_common/runtime/", "libs/common/src/wireroom_common/testing/")
_SOURCES = [
    f"{folder}/src"
    for folder in ("gateway", "libs/common", *(f"services/{s}" for s in ("auth", "chat", "monitoring", "news", "rag")))
]


def _program(*command: str) -> list[str]:
    result = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    return [] if result.returncode == 0 else [*result.stdout.splitlines(), *result.stderr.splitlines()]


def _mode_words() -> list[str]:
    return list(_mode_word_lines())


def _mode_word_lines() -> Iterator[str]:
    for source in _MODE_SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            if relative.startswith(_MODE_ALLOWED) or "/tests/" in relative or "/benchmarks/" in relative:
                continue
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                if _MODE_WORDS.search(line):
                    yield f"{relative}:{number}: asks or tells which deployment it runs in: {line.strip()}"


CHECKS: dict[str, Callable[[], list[str]]] = {
    "format": lambda: _program("ruff", "format", "--check", "."),
    "lint": lambda: _program("ruff", "check", "--output-format", "concise", "."),
    "declared imports": check_imports.check,
    "architecture": lambda: _program("lint-imports", "--no-cache"),
    "mode words": _mode_words,
    "contracts": check_protos.check,
    "reference": api_reference.check,
    "lock": lock.check,
    "types": lambda: _program("mypy", "src", *_SOURCES),
}


def main() -> int:
    """Run every check, say how long each took, show all findings."""
    failed = 0
    for name, check in CHECKS.items():
        start = time.monotonic()
        problems = check()
        print(
            f"  lint/{name}: {'ok' if not problems else f'{len(problems)} lines'} ({time.monotonic() - start:.1f} s)", flush=True
        )
        for problem in problems[:200]:
            print(f"    {problem}")
        failed += bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
