"""The command `wireroom`."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from wireroom.client import Client
from wireroom.demo import DEMO_ADDRESS
from wireroom.roles import ROLES, SCHEMAS
from wireroom_common.errors import OperatorError, WireroomError

DEFAULT_URL = "http://127.0.0.1:8000"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.command(options)
    except WireroomError as error:
        print(f"wireroom: {error.detail}", file=sys.stderr)
        return 1
    except (OperatorError, OSError) as error:
        print(f"wireroom: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wireroom", description="Answers from your documents and the news, with citations it has checked."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run every role in one process, or one role")
    run.add_argument("role", nargs="?", default="all", choices=["all", *ROLES])
    run.set_defaults(command=_operate("run"))

    migrate = commands.add_parser("migrate", help="make roles and schemas and bring them up to date")
    migrate.add_argument("schemas", nargs="*", metavar="SCHEMA", help=f"of {', '.join(SCHEMAS)}; default: all")
    migrate.set_defaults(command=_operate("migrate"))

    check = commands.add_parser("config-check", help="show every setting, its value and its source")
    check.add_argument("role", nargs="?", default="all", choices=["all", *ROLES])
    check.set_defaults(command=_operate("config_check"))

    keys = commands.add_parser("keys", help="make the keys with which the roles sign who a call is made for")
    keys.add_argument("folder", type=Path)
    keys.set_defaults(command=_operate("keys"))

    token = commands.add_parser(
        "admin-token", help="make a new one-time admin token (only while nobody has redeemed one; stop `wireroom run` first)"
    )
    token.set_defaults(command=_operate("admin_token"))

    rotate = commands.add_parser(
        "rotate-signing-key",
        help="let the next key sign access tokens; the present one stays published until its last token ends",
    )
    rotate.set_defaults(command=_operate("rotate_signing_key"))

    master = commands.add_parser(
        "rotate-master-secret",
        help="seal everything that the master secret protects under a new one (stop the auth service first)",
    )
    master.add_argument(
        "--new-secret-file", type=Path, metavar="FILE", help="holds the new secret; default: one is made, if the present one was"
    )
    master.set_defaults(command=_operate("rotate_master_secret"))

    _add_dead_letters(commands)

    demo = commands.add_parser("demo", help="serve a sample feed and documents on this machine")
    demo.add_argument("--address", default=DEMO_ADDRESS, help=f"host:port, default {DEMO_ADDRESS}")
    demo.set_defaults(command=_demo)

    join = commands.add_parser("join", help="redeem the admin token: make the first user and print an API key")
    join.add_argument("--admin-token", default=os.environ.get("WIREROOM_ADMIN_TOKEN", ""), help="default: $WIREROOM_ADMIN_TOKEN")
    join.add_argument("--email", required=True)
    join.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input; else one is made and shown"
    )
    join.set_defaults(command=_join)

    upload = commands.add_parser("upload", help="upload a document and wait until it is searchable")
    upload.add_argument("file", type=Path)
    upload.add_argument("--wait", type=float, default=60, metavar="SECONDS")
    upload.set_defaults(command=_upload)

    feed = commands.add_parser("feed", help="add a news feed")
    feed.add_argument("feed_url")
    feed.set_defaults(command=_feed)

    ask = commands.add_parser("ask", help="ask a question; the answer comes with its sources")
    ask.add_argument("question")
    ask.add_argument("--model", default="grounded")
    ask.set_defaults(command=_ask)

    for client in (join, upload, feed, ask):
        client.add_argument(
            "--url", default=os.environ.get("WIREROOM_URL", DEFAULT_URL), help="default: $WIREROOM_URL or %(default)s"
        )
    return parser


def _add_dead_letters(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    letters = commands.add_parser("dead-letters", help="events that a consumer could not take: list, show, replay")
    actions = letters.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="one line for each")
    listing.add_argument("place", nargs="?", help="a consumer, or outbox.SERVICE; default: the first page of each")
    listing.add_argument("--skip", type=_number(0, 100_000), default=0, metavar="N")
    listing.add_argument("--limit", type=_number(1, 1000), default=50, metavar="N")
    listing.set_defaults(command=_operate("list_dead_letters"))

    show = actions.add_parser("show", help="everything about one, its payload too")
    show.add_argument("place")
    show.add_argument("event", type=UUID)
    show.set_defaults(command=_operate("show_dead_letter"))

    replay = actions.add_parser("replay", help="deliver again; an effect that was had before is not had twice")
    replay.add_argument("place")
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument("events", nargs="*", type=UUID, default=[], metavar="EVENT")
    which.add_argument("--all", action="store_true", help="everything there, up to --limit")
    replay.add_argument("--limit", type=_number(1, 10_000), default=1000, metavar="N")
    replay.set_defaults(command=_operate("replay_dead_letters"))


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be between {least} and {most}")
        return number

    return parse


def _terminate(_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _operate(name: str) -> Callable[[argparse.Namespace], int]:
    def command(options: argparse.Namespace) -> int:
        from wireroom import operate  # noqa: PLC0415 - loads every service, which a question does not need

        # Until an event loop takes over: a plain SIGTERM would end the process without stopping the servers it has started.
        signal.signal(signal.SIGTERM, _terminate)
        result: int = getattr(operate, name)(options)
        return result

    return command


def _demo(options: argparse.Namespace) -> int:
    from wireroom.demo.server import serve  # noqa: PLC0415 - only this command needs a web server

    asyncio.run(serve(options.address))
    return 0


def _join(options: argparse.Namespace) -> int:
    if not options.admin_token:
        raise OperatorError("--admin-token or WIREROOM_ADMIN_TOKEN is needed: `make run` printed it.")
    if options.password_stdin:
        password = sys.stdin.readline().rstrip("\n")
        if not password:
            raise OperatorError("There is no password on standard input.")
    else:
        password = secrets.token_urlsafe(18)
        # Before it is used: the token can be redeemed only once, and what follows may fail.
        print(f"Your password, shown this once: {password}", file=sys.stderr, flush=True)
    print(asyncio.run(Client(options.url).join(options.email, options.admin_token, password)))
    return 0


def _client(options: argparse.Namespace) -> Client:
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise OperatorError("OPENAI_API_KEY is not set: export the key that `wireroom join` printed.")
    return Client(options.url, key)


def _upload(options: argparse.Namespace) -> int:
    if not options.file.is_file():
        raise OperatorError(f"{options.file} is not a file.")
    document = asyncio.run(_client(options).upload(options.file, options.wait))
    print(
        f"{document['name']}: {document['state']}, {document['pages']} pages, {document['chunks']} passages {document['reason'] or ''}"
    )
    return 0 if document["state"] == "indexed" else 1


def _feed(options: argparse.Namespace) -> int:
    feed = asyncio.run(_client(options).add_feed(options.feed_url))
    print(f"{feed['title'] or feed['url']}: {feed['articles']} articles")
    return 0


def _ask(options: argparse.Namespace) -> int:
    async def ask() -> None:
        sources: list[dict[str, str]] = []
        async for chunk in _client(options).ask(options.question, options.model):
            for choice in chunk.get("choices", []):
                delta = choice["delta"]
                print(delta.get("content") or "", end="", flush=True)
                sources += [item["url_citation"] for item in delta.get("annotations") or []]
        print()
        for source in sources:
            print(f"  {source['title']} — {source['url']}")

    asyncio.run(ask())
    return 0
