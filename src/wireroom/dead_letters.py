"""`wireroom dead-letters`: what no consumer could take, to be looked at and delivered again."""

from __future__ import annotations

import getpass
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from pydantic import SecretStr
from sqlalchemy.exc import ProgrammingError

from wireroom.launch import servers
from wireroom.modules import CATALOGUE
from wireroom.roles import SCHEMAS
from wireroom_common.bus.dead_letters import MOST_SEARCHED, DeadLetters, places
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import DeadLetter
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.errors import OperatorError
from wireroom_common.outbox import emit
from wireroom_common.runtime.settings import RuntimeSettings
from wireroom_protos.events.v1 import events_pb2

# Of the events of one replay, named in the audit trail.
_NAMED = 100


async def listed(runtime: RuntimeSettings, place: str | None, *, skip: int, limit: int) -> list[str]:
    """One line for each letter of a place, or of the first page of each."""
    async with _opened(runtime) as (found, _auth):
        lines: list[str] = []
        for name, letters in _chosen(found, place):
            page = await letters.page(skip=skip, limit=limit)
            lines += [_line(name, letter) for letter in page]
            if len(page) == limit:
                lines.append(f"There may be more: wireroom dead-letters list {name} --skip {skip + limit} --limit {limit}")
        return lines or ["There are no dead letters."]


async def shown(runtime: RuntimeSettings, place: str, event: UUID) -> str:
    """Everything about one letter, as JSON."""
    async with _opened(runtime) as (found, _auth):
        ((_, letters),) = _chosen(found, place)
        step = 500
        for skip in range(0, MOST_SEARCHED, step):
            page = await letters.page(skip=skip, limit=step)
            for letter in page:
                if letter.envelope.id == event:
                    return json.dumps(_details(place, letter), indent=2, ensure_ascii=True)
            if len(page) < step:
                break
    raise OperatorError(f"{place} has no dead letter {event}.")


async def replayed(runtime: RuntimeSettings, place: str, events: Sequence[UUID], *, limit: int) -> str:
    """Deliver again what is named, or everything (no event named); a sentence that says what was done. Noted in the audit trail first."""
    async with _opened(runtime) as (found, auth):
        ((_, letters),) = _chosen(found, place)
        await _note(auth, place, events)
        done = await letters.replay(set(events) if events else None, limit=limit)
    missing = [str(event) for event in events if event not in done]
    said = f"{len(done)} dead letters of {place} are delivered again."
    if missing:
        raise OperatorError(f"{said} There are none of {', '.join(missing)}.")
    return said + (f" There may be more: it was limited to {limit}." if len(done) == limit and not events else "")


async def _note(auth: Database, place: str, events: Sequence[UUID]) -> None:
    details = {"place": place, "events": [str(event) for event in events[:_NAMED]] or "all", "count": len(events)}
    fact = events_pb2.AuditRecorded(
        action="dead_letters.replayed", outcome="success", details_json=json.dumps(details, sort_keys=True)
    )
    async with auth.system() as connection:
        await emit(connection, fact, tenant_id=None, subject=place, actor=f"operator:{_operator()}")


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container's user may have no name.
        return "unknown"


@asynccontextmanager
async def _opened(runtime: RuntimeSettings) -> AsyncIterator[tuple[dict[str, DeadLetters], Database]]:
    # The database only: nothing here needs Redis.
    with servers(runtime.model_copy(update={"redis_url": SecretStr("redis://unused")})) as started:
        password = started.database_password.get_secret_value() if started.database_password else None
        url = DatabaseUrl.parse(started.database_url, password)
        databases = {schema: Database(url, schema, pool_size=1, max_overflow=1) for schema in SCHEMAS}
        try:
            yield places(CATALOGUE.consumers(), databases, started.bus_url.get_secret_value()), databases["auth"]
        except ProgrammingError as error:
            raise OperatorError("The database's schemas are not there or not current: run `wireroom migrate`.") from error
        finally:
            for database in databases.values():
                await database.close()


def _chosen(found: dict[str, DeadLetters], place: str | None) -> Iterable[tuple[str, DeadLetters]]:
    if place is None:
        return list(found.items())
    if place not in found:
        raise OperatorError(f"There is no place '{place}' for dead letters; there are {', '.join(found)}.")
    return [(place, found[place])]


def _line(place: str, letter: DeadLetter) -> str:
    envelope = letter.envelope
    when = envelope.time.isoformat(timespec="seconds")
    return "  ".join(
        (place, str(envelope.id), _plain(envelope.type), when, f"{letter.attempts} attempts", _plain(letter.error)[:200])
    )


def _plain(value: str) -> str:
    """Without what would move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "?" for character in value)


def _details(place: str, letter: DeadLetter) -> dict[str, object]:
    envelope = letter.envelope
    return {
        "place": place,
        "attempts": letter.attempts,
        "error": letter.error,
        "id": str(envelope.id),
        "source": envelope.source,
        "type": envelope.type,
        "time": envelope.time.isoformat(),
        "subject": envelope.subject,
        "tenant_id": str(envelope.tenant_id) if envelope.tenant_id else None,
        "actor": envelope.actor,
        "bytes": len(envelope.data),
        "payload": _payload(envelope),
    }


def _payload(envelope: Envelope) -> object:
    spec = CATALOGUE.events.get(envelope.type)
    if spec is None:
        return None
    try:
        return MessageToDict(envelope.payload(spec.payload), preserving_proto_field_name=True)
    except DecodeError:
        return None
