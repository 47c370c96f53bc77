"""Generate the Python code and type stubs of `protos/` into a folder (default: where they are committed)."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos" / "proto"
COMMITTED = ROOT / "protos" / "src"
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(out: Path) -> list[Path]:
    """Bring the generated files below `out` up to date, remove those whose source is gone, return what stands there.

    Files that did not change are left alone and the others replaced whole: what imports them meanwhile sees the old or the new ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".generated-") as fresh_folder:
        fresh = Path(fresh_folder)
        _compile(fresh)
        made = {path.relative_to(fresh) for pattern in GENERATED_PATTERNS for path in fresh.rglob(pattern)}
        for relative in sorted(made):
            target = out / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != (fresh / relative).read_bytes():
                (fresh / relative).replace(target)
    standing = {path.relative_to(out) for pattern in GENERATED_PATTERNS for path in out.rglob(pattern)}
    for stale in standing - made:
        (out / stale).unlink()
    for folder in {(out / relative).parent for relative in made}:
        for package in (folder, *folder.parents):
            if package == out:
                break
            (package / "__init__.py").touch()
    (out / "wireroom_protos" / "py.typed").touch()
    return sorted(out / relative for relative in made)


def _compile(out: Path) -> None:
    protos = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        # By path: the environment need not be activated.
        *(f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")),
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out={out}",
        f"--mypy_grpc_out={out}",
        *protos,
    ]
    subprocess.run(command, cwd=SOURCES, check=True, timeout=120, capture_output=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=COMMITTED)
    print(f"generated {len(generate(parser.parse_args().out.resolve()))} files")
