"""Generate the Python code and type stubs of `protos/` into a folder (default: where they are committed)."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos" / "proto"
COMMITTED = ROOT / "protos" / "src"
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(out: Path) -> list[Path]:
    """Write the generated files below `out`, remove generated files whose source is gone, return what stands there."""
    for pattern in GENERATED_PATTERNS:
        for stale in out.rglob(pattern):
            stale.unlink()
    out.mkdir(parents=True, exist_ok=True)
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
    for folder in {path.parent for path in out.rglob("*_pb2.py")}:
        for package in (folder, *folder.parents):
            if package == out:
                break
            (package / "__init__.py").touch()
    (out / "wireroom_protos" / "py.typed").touch()
    return sorted(path for pattern in GENERATED_PATTERNS for path in out.rglob(pattern))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=COMMITTED)
    print(f"generated {len(generate(parser.parse_args().out.resolve()))} files")
