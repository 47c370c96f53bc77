"""PostgreSQL refuses to run as root: then it runs as a system user of its own."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wireroom_common.errors import OperatorError

SYSTEM_USER = "wireroom"
# A Unix socket path holds 107 bytes on Linux and 103 on macOS, file name included.
_MAX_SOCKET_DIR = 80


@dataclass(frozen=True)
class RunAs:
    """The user that servers run as: None for the current one."""

    user: str | None

    @classmethod
    def detect(cls) -> RunAs:
        """The current user, or for root the system user `wireroom`, which is created if it is missing."""
        if os.geteuid() != 0:
            return cls(None)
        try:
            pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            subprocess.run(
                ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],  # noqa: S607 - found on PATH
                check=True,
                timeout=30,
                capture_output=True,
            )
        return cls(SYSTEM_USER)

    def own(self, path: Path) -> None:
        """Give a folder to the user and to nobody else."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        path.chmod(0o700)

    def unreachable_parent(self, path: Path) -> Path | None:
        """The first parent folder of `path` that the user may not enter, if any."""
        if self.user is None:
            return None
        for parent in reversed(path.resolve().parents):
            if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
                return parent
        return None

    def run(
        self, command: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user; output is captured, a failure raises CalledProcessError."""
        return subprocess.run(
            list(command),
            check=True,
            timeout=timeout,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            cwd="/",
            env=dict(env) if env is not None else None,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def socket_folder(data_dir: Path, run_as: RunAs) -> Path:
    """A private folder for a Unix socket: in the data directory, or a short one named after it when that path is too long."""
    wanted = data_dir / "run"
    if len(str(wanted).encode()) > _MAX_SOCKET_DIR:
        digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
        wanted = Path(tempfile.gettempdir()) / f"wireroom-{digest}"
    try:
        wanted.mkdir(mode=0o700)
    except FileExistsError:
        expected = pwd.getpwnam(run_as.user).pw_uid if run_as.user else os.geteuid()
        info = wanted.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (expected, os.geteuid()):
            msg = f"{wanted} belongs to someone else; remove it or choose another WIREROOM_DATA_DIR."
            raise OperatorError(msg) from None
    run_as.own(wanted)
    return wanted


def copy_tree_if_unreachable(source: Path, target: Path, run_as: RunAs) -> Path:
    """`source`, or a copy of it in `target` when the user could not enter `source`'s parents."""
    if run_as.unreachable_parent(source / "x") is None:
        return source
    if not target.exists():
        staging = target.with_name(target.name + ".new")
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(source, staging, symlinks=True)
        staging.chmod(0o755)
        staging.rename(target)
    return target
