"""Where the data of test servers goes: main memory where that is possible, because tests make and drop thousands of databases."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - the system's own
# A container's default is 64 MiB.
ENOUGH_BYTES = 4 * 2**30


@contextlib.contextmanager
def server_folder(prefix: str) -> Iterator[Path]:
    """A short-named folder that servers' system user may enter; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if _fits() else None))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fits() -> bool:
    """Programs are copied there too, so they must be allowed to run."""
    if not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(MEMORY)
    return not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= ENOUGH_BYTES
