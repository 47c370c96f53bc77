"""The commands of whoever operates an installation. Imported only by them: a question should not load a server."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from wireroom import dead_letters, launch
from wireroom.modules import settings_of
from wireroom.roles import ROLES, SCHEMAS, roles_of
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.config_check import describe, load
from wireroom_common.runtime.settings import RuntimeSettings

ENV_FILE = Path(".env")


def run(options: argparse.Namespace) -> int:
    """`wireroom run [ROLE]`."""
    runtime = _runtime()
    return launch.run(options.role, runtime, settings_of(roles_of(options.role), runtime, ENV_FILE))


def migrate(options: argparse.Namespace) -> int:
    """`wireroom migrate [SCHEMA …]`."""
    unknown = set(options.schemas) - set(SCHEMAS)
    if unknown:
        raise OperatorError(f"There is no schema '{min(unknown)}'; there are {', '.join(SCHEMAS)}.")
    launch.migrate(_runtime(), options.schemas or SCHEMAS)
    return 0


def config_check(options: argparse.Namespace) -> int:
    """`wireroom config-check [ROLE]`: fails where `run` would refuse the settings or the master secret."""
    runtime = _runtime()
    roles = settings_of(roles_of(options.role), runtime, ENV_FILE)
    for line in describe([runtime, *roles.values()], ENV_FILE):
        print(f"{line.name}={line.value}  [{line.source}]  {line.description}")
    if "auth" in roles:
        launch.refuse_weak_secret(runtime)
    return 0


def keys(options: argparse.Namespace) -> int:
    """`wireroom keys FOLDER`."""
    launch.make_keys(options.folder)
    print(f"The keys of {', '.join(ROLES)} stand in {options.folder}: give each role its own .key file, and trusted.json to all.")
    return 0


def admin_token(_options: argparse.Namespace) -> int:
    """`wireroom admin-token`."""
    print(asyncio.run(launch.admin_token(_runtime())))
    return 0


def rotate_signing_key(_options: argparse.Namespace) -> int:
    """`wireroom rotate-signing-key`."""
    kid, previous_until = asyncio.run(launch.rotate_signing_key(_runtime(), ENV_FILE))
    print(f"{kid} signs from now on; its predecessor stays published until {previous_until:%Y-%m-%d %H:%M:%S} UTC.")
    return 0


def rotate_master_secret(options: argparse.Namespace) -> int:
    """`wireroom rotate-master-secret [--new-secret-file FILE]`."""
    print(asyncio.run(launch.rotate_master_secret(_runtime(), options.new_secret_file)))
    return 0


def list_dead_letters(options: argparse.Namespace) -> int:
    """`wireroom dead-letters list [PLACE] [--skip N] [--limit N]`."""
    print(*asyncio.run(dead_letters.listed(_runtime(), options.place, skip=options.skip, limit=options.limit)), sep="\n")
    return 0


def show_dead_letter(options: argparse.Namespace) -> int:
    """`wireroom dead-letters show PLACE EVENT`."""
    print(asyncio.run(dead_letters.shown(_runtime(), options.place, options.event)))
    return 0


def replay_dead_letters(options: argparse.Namespace) -> int:
    """`wireroom dead-letters replay PLACE EVENT … | --all [--limit N]`."""
    print(asyncio.run(dead_letters.replayed(_runtime(), options.place, options.events, limit=options.limit)))
    return 0


def _runtime() -> RuntimeSettings:
    return load(RuntimeSettings, ENV_FILE)
