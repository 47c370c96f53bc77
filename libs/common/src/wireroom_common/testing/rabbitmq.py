"""A private RabbitMQ node on loopback for tests: own data, own ports, own epmd; it ends with the test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

import pytest

INSTALLED = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
RELATIONS_LEFT_OUT = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")


class RabbitMqUnavailableError(RuntimeError):
    """RabbitMQ is not here and cannot be installed; the text says what to do."""


class RabbitMqNode:
    """One node. `stop` and `kill` keep the data, a later `start` brings the same node back; `close` removes everything."""

    def __init__(self, directory: Path | None = None) -> None:
        self._script, self._erlang = _find_server()
        self._dir = Path(tempfile.mkdtemp(prefix="wireroom-rabbitmq-", dir=directory))
        self.port = _free_port()
        self._dist_port, self._epmd_port = _free_port(), _free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        for name in ("home", "mnesia", "log"):
            (self._dir / name).mkdir()
        (self._dir / "enabled_plugins").write_text("[].\n")
        (self._dir / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nloopback_users.guest = true\n")

    @property
    def url(self) -> str:
        """The AMQP URL of the default vhost."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start the node and wait until it takes connections; RuntimeError with the end of its log otherwise."""
        environment = self._environment()
        if self._epmd is None:
            self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], environment, "epmd")
            _wait_for_port(self._epmd_port, 10.0, lambda: None)
        self._server = self._spawn([str(self._script)], environment, "server")
        _wait_for_port(self.port, START_SECONDS, self._fail_if_ended)

    def stop(self) -> None:
        """Shut the node down in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node without warning."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End the node and its epmd by their own ids, and remove the data."""
        self.kill()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait(STOP_SECONDS)
            self._epmd = None
        shutil.rmtree(self._dir, ignore_errors=True)

    def _spawn(self, command: list[str], environment: dict[str, str], name: str) -> subprocess.Popen[bytes]:
        with (self._dir / "log" / f"{name}.out").open("ab") as output:
            # A session of its own: the node's helper programs end with its process group.
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self._dir,
            )

    def _end(self, how: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if how is signal.SIGKILL:
            _signal_group(server.pid, how)
        else:
            server.send_signal(how)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _signal_group(server.pid, signal.SIGKILL)
            server.wait(STOP_SECONDS)
        _signal_group(server.pid, signal.SIGKILL)  # Helper programs that outlive the node.
        deadline = time.monotonic() + STOP_SECONDS
        while _answers(self.port):
            if time.monotonic() > deadline:
                raise RuntimeError(f"RabbitMQ still answers on port {self.port} after it was ended.")
            time.sleep(0.02)

    def _fail_if_ended(self) -> None:
        if self._server is not None and self._server.poll() is not None:
            tail = (self._dir / "log" / "server.out").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"RabbitMQ ended at once with status {self._server.returncode}:\n{tail}")

    def _environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
        return {
            "PATH": f"{self._erlang}:{path}" if self._erlang else path,
            "LANG": "C.UTF-8",
            "HOME": str(self._dir / "home"),
            "RABBITMQ_NODENAME": f"wireroom{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._dir / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._dir / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._dir / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self._dir / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


def _find_server() -> tuple[Path, str]:
    """The server script and, if Erlang is not where the system has it, the folder of its programs; installs what is missing."""
    if found := sorted(glob(INSTALLED)):  # noqa: PTH207 - an absolute pattern
        return Path(found[-1]), ""
    if sys.platform == "darwin":
        brewed = shutil.which("rabbitmq-server") or "/opt/homebrew/sbin/rabbitmq-server"
        if Path(brewed).exists():
            return Path(brewed), ""
        raise RabbitMqUnavailableError("RabbitMQ is not installed: run `brew install rabbitmq`, or set WIREROOM_TEST_AMQP_URL.")
    if shutil.which("apt-get") is None:
        raise RabbitMqUnavailableError(
            "RabbitMQ is not installed: install the package rabbitmq-server, or set WIREROOM_TEST_AMQP_URL."
        )
    if os.geteuid() == 0:
        _install()
        if found := sorted(glob(INSTALLED)):  # noqa: PTH207 - an absolute pattern
            return Path(found[-1]), ""
        raise RabbitMqUnavailableError(
            "The package rabbitmq-server was installed, but its server script is not where it should be."
        )
    return _unpack()


def _install() -> None:
    """Install the Debian package; never start its service."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server"]):
        _run(command, environment=environment, why="Installing rabbitmq-server failed")


def _unpack() -> tuple[Path, str]:
    """Without root: download the packages and unpack them into the user's cache folder, once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wireroom" / "rabbitmq"
    if not (cache / "ready").exists():
        why = "RabbitMQ is not installed; as root run `apt-get install rabbitmq-server`, or set WIREROOM_TEST_AMQP_URL. Unpacking it failed"
        listing = _run(
            ["apt-cache", "depends", "--recurse", *(f"--no-{relation}" for relation in RELATIONS_LEFT_OUT), "rabbitmq-server"],
            why=why,
        )
        packages = sorted(
            {line for line in listing.splitlines() if line.startswith(("erlang-", "libsctp"))} | {"rabbitmq-server"}
        )
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        _run(["apt-get", "download", *packages], directory=cache, why=why)
        for package in sorted(cache.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(cache)], why=why)
            package.unlink()
        for launcher in (cache / "usr/lib/erlang/bin/erl", *cache.glob("usr/lib/erlang/erts-*/bin/erl")):
            launcher.write_text(launcher.read_text().replace("/usr/lib/erlang", str(cache / "usr/lib/erlang")))
        (cache / "ready").touch()
    scripts = sorted(cache.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    programs = sorted(cache.glob("usr/lib/erlang/erts-*/bin"))
    return scripts[-1], f"{cache / 'usr/lib/erlang/bin'}:{programs[-1]}"


def _run(command: list[str], *, why: str, environment: dict[str, str] | None = None, directory: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=directory,
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
    except (subprocess.SubprocessError, OSError) as error:
        output = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise RabbitMqUnavailableError(f"{why} ({' '.join(command[:2])}): {output[-1] if output else error}") from error
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int, seconds: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if _answers(port):
            return
        check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"Nothing answers on port {port} after {seconds:.0f} s.")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _signal_group(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, how)


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitMqNode]:
    """A private node, for tests that stop or kill the broker."""
    node = RabbitMqNode()
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """URL of a broker: `WIREROOM_TEST_AMQP_URL` if set, else the private node's."""
    given = os.environ.get("WIREROOM_TEST_AMQP_URL")
    if given:
        return given
    node: RabbitMqNode = request.getfixturevalue("rabbitmq_node")
    return node.url
