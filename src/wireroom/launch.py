"""Starts what a role needs on this machine, then hands over to the runtime."""

from __future__ import annotations

import fcntl
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from sqlalchemy.exc import OperationalError

from wireroom import tour
from wireroom.modules import CATALOGUE, modules
from wireroom.roles import CALLS, ROLES, SCHEMAS
from wireroom_common import logging, telemetry
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.errors import OperatorError
from wireroom_common.rpc import ensure_key
from wireroom_common.runtime.config_check import load
from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey
from wireroom_common.runtime.infra import ProcessInfra
from wireroom_common.runtime.memory import settle_memory, share_pools
from wireroom_common.runtime.process import Process
from wireroom_common.runtime.secrets import checked, keep_once, kept_master_secret, master_secret, new_secret, read_secret
from wireroom_common.runtime.settings import Environment, LogFormat, RuntimeSettings
from wireroom_common.runtime.status import package_version

EMBEDDED = "embedded:"
LOCAL = "local:"


def run(role: str, runtime: RuntimeSettings, settings: dict[str, BaseSettings]) -> int:
    """Run `role` until it is told to stop; 0 after a clean stop."""
    share_pools()
    as_json = runtime.log_format is LogFormat.JSON or (runtime.log_format is LogFormat.AUTO and not sys.stdout.isatty())
    logging.configure(level=runtime.log_level, as_json=as_json, service=role)
    tracing = telemetry.configure(service=role, version=package_version(), endpoint=runtime.otlp_endpoint)
    with ExitStack() as stack:
        stack.callback(tracing.shutdown)
        if "auth" in settings:
            refuse_weak_secret(runtime)
        if role != "all":
            _require_addresses(role, runtime)
        else:
            runtime = stack.enter_context(servers(runtime))
        schemas = [name for name in SCHEMAS if name in settings]
        if schemas and runtime.migrates_on_start:
            migrate(runtime, schemas)
        announcements: list[str] = []

        async def main() -> None:
            infra = ProcessInfra(
                runtime, CATALOGUE, registry=CollectorRegistry(), clock=SystemClock(), announce=announcements.append
            )
            process = Process(modules(settings), infra)

            async def ready(running: Process) -> None:
                settle_memory()
                await tour.show(running.urls, announcements, interactive=role == "all")

            await process.run(ready)

        try:
            uvloop.run(main())
        finally:
            # The loop took its signal handlers with it; a second signal must not end the process before its servers are stopped.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
    return 0


def refuse_weak_secret(runtime: RuntimeSettings) -> None:
    """OperatorError before anything is started, rather than from inside of it. One that is yet to be made needs no check."""
    given = runtime.master_secret is not None or runtime.master_secret_file is not None
    if given or runtime.environment is Environment.PRODUCTION:
        master_secret(runtime)


def _require_addresses(role: str, runtime: RuntimeSettings) -> None:
    """A process of one role starts no servers and has no neighbours: OperatorError names every address that is missing."""
    needed = {"WIREROOM_BUS_URL": runtime.bus_url.get_secret_value()}
    if role in SCHEMAS:
        needed |= {"WIREROOM_DATABASE_URL": runtime.database_url, "WIREROOM_RPC_LISTEN": runtime.rpc_listen}
    if role in {"gateway", "chat"}:
        needed["WIREROOM_REDIS_URL"] = runtime.redis_url.get_secret_value()
    needed |= {f"WIREROOM_RPC_{called.upper()}_URL": runtime.rpc_url(called) for called in CALLS.get(role, ())}
    missing = [name for name, value in needed.items() if value in {EMBEDDED, LOCAL}]
    if missing:
        raise OperatorError(f"A process of one role needs the addresses of the others: set {', '.join(missing)}.")


@contextmanager
def servers(runtime: RuntimeSettings) -> Iterator[RuntimeSettings]:
    """The settings with the URLs of the servers that were started for `embedded:`; they are stopped at the end."""
    updates: dict[str, object] = {}
    with ExitStack() as stack:
        if EMBEDDED in {runtime.database_url, runtime.redis_url.get_secret_value()}:
            stack.enter_context(_only_process(runtime.data_dir))
        data_dir = runtime.data_dir.resolve()
        if runtime.database_url == EMBEDDED:
            postgres = EmbeddedPostgres(data_dir)
            stack.callback(postgres.stop)
            url = postgres.start()
            updates |= {
                "database_url": url,
                "database_admin_url": SecretStr(postgres.admin_url(url)),
                "migrate_on_start": runtime.migrates_on_start,
            }
        if runtime.redis_url.get_secret_value() == EMBEDDED:
            valkey = EmbeddedValkey(data_dir)
            stack.callback(valkey.stop)
            updates["redis_url"] = SecretStr(valkey.start())
        yield runtime.model_copy(update=updates)


@contextmanager
def _only_process(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(
                f"Another process uses {data_dir}: stop it, or set WIREROOM_DATA_DIR to another folder."
            ) from None
        yield


def migrate(runtime: RuntimeSettings, schemas: Sequence[str]) -> None:
    """Make roles and schemas where an administrator's URL is given, then bring every schema up to date."""
    if runtime.database_url == EMBEDDED:
        with servers(runtime) as started:
            migrate(started, schemas)
        return
    password = runtime.database_password.get_secret_value() if runtime.database_password else None
    url = DatabaseUrl.parse(runtime.database_url, password)
    try:
        if runtime.database_admin_url is not None:
            bootstrap(DatabaseUrl.parse(runtime.database_admin_url.get_secret_value()), schemas, password=password)
        for schema in schemas:
            upgrade(url, schema)
    except OperationalError as error:
        raise OperatorError(f"The database refuses or does not answer: {str(error.orig).strip().splitlines()[0]}") from error


def make_keys(folder: Path) -> None:
    """Signing keys for every role in `folder`; keys that stand there are kept."""
    for role in ROLES:
        ensure_key(folder, role)


async def admin_token(runtime: RuntimeSettings) -> str:
    """A new one-time admin token; OperatorError when there is a user already."""
    from wireroom_auth.admin_token import issue  # noqa: PLC0415 - only this command needs it

    with servers(runtime) as started:
        password = started.database_password.get_secret_value() if started.database_password else None
        database = Database(DatabaseUrl.parse(started.database_url, password), "auth")
        try:
            return await issue(database, SystemClock())
        finally:
            await database.close()


async def rotate_signing_key(runtime: RuntimeSettings, env_file: Path) -> tuple[str, datetime]:
    """The id of the key that signs from now on, and when its predecessor stops being published."""
    from wireroom_auth.settings import AuthSettings  # noqa: PLC0415 - only this command needs it
    from wireroom_auth.signing_key_rotation import rotate  # noqa: PLC0415

    refuse_weak_secret(runtime)
    with servers(runtime) as started:
        database = Database(_auth_url(started), "auth")
        try:
            rotated = await rotate(database, SystemClock(), lambda: master_secret(runtime), load(AuthSettings, env_file))
        finally:
            await database.close()
    return rotated.kid, rotated.previous_until


async def rotate_master_secret(runtime: RuntimeSettings, new_file: Path | None) -> str:
    """Seal everything anew; a sentence that says what was done and what is to do. May be repeated after it was interrupted."""
    from wireroom_auth.master_secret import reseal  # noqa: PLC0415 - only this command needs it
    from wireroom_chat.master_secret import reseal as reseal_provider_keys  # noqa: PLC0415 - as above

    kept = kept_master_secret(runtime)
    given = runtime.master_secret is not None or runtime.master_secret_file is not None
    if new_file is None and given:
        raise OperatorError("The master secret comes from a setting: name the new one with --new-secret-file.")
    old = master_secret(runtime)
    # Written before it is used: whatever happens, what was sealed can be opened with a secret that stands in a file.
    waiting = kept.with_name("master.new")
    new = checked(read_secret(new_file), str(new_file)) if new_file else keep_once(waiting, new_secret)
    if new == old:
        raise OperatorError("The new master secret is the present one.")
    with servers(runtime) as started:
        resealed = await reseal(_auth_url(started), old, new)
        provider_keys = await reseal_provider_keys(_auth_url(started), old, new)
    count = sum(resealed.changed.values()) + provider_keys.changed
    left = ""
    if provider_keys.unreadable:
        left = f" These provider keys could not be opened with the old one either, set them anew: {', '.join(provider_keys.unreadable)}."
    if new_file is None:
        waiting.replace(kept)
        return f"{count} values are sealed under the new master secret, which stands in {kept}.{left}"
    return (
        f"{count} values are sealed under the secret in {new_file}: give it to the auth and chat services"
        f" (WIREROOM_MASTER_SECRET_FILE), start them, then destroy the old one.{left}"
    )


def _auth_url(runtime: RuntimeSettings) -> DatabaseUrl:
    password = runtime.database_password.get_secret_value() if runtime.database_password else None
    return DatabaseUrl.parse(runtime.database_url, password)
