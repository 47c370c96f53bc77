"""Dead letters of both buses and parked events, looked at and delivered again as an operator does."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from bus_contract_rig import BusRig
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope
from wireroom_common.bus.dead_letters import DeadDeliveries, DeadLetters, DeadQueue, ParkedEvents, places
from wireroom_common.bus.parking import purge_dead_letters
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.testing import eventually


def _letters(rig: BusRig, consumer: str) -> DeadLetters:
    return DeadDeliveries(rig.database, consumer) if rig.kind == "local" else DeadQueue(rig.amqp_url, consumer)


async def _ids(letters: DeadLetters, *, skip: int = 0, limit: int = 100) -> list[UUID]:
    return [letter.envelope.id for letter in await letters.page(skip=skip, limit=limit)]


async def test_replayed_letters_have_their_effect_once_and_the_others_stay(
    bus_rig: BusRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wireroom_common.bus.local.IDLE_POLL_SECONDS", 0.1)
    broken = True

    async def choke(_connection: AsyncConnection, _envelope: Envelope) -> None:
        if broken:
            raise RuntimeError("cannot yet")

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, choke, max_attempts=2), bus_rig.work(bus_rig.two))
    letters = _letters(bus_rig, bus_rig.one)
    envelopes = [bus_rig.envelope() for _ in range(5)]
    events = [envelope.id for envelope in envelopes]
    await bus.publish(envelopes)

    async def all_dead() -> bool:
        return set(await _ids(letters)) == set(events)

    await eventually(all_dead)
    pages = [await _ids(letters, skip=skip, limit=2) for skip in (0, 2, 4, 6)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert {event for page in pages for event in page} == set(events)
    (first,) = await letters.page(skip=0, limit=1)
    assert (first.consumer, first.attempts, first.envelope) == (bus_rig.one, 2, envelopes[events.index(first.envelope.id)])
    assert "RuntimeError" in first.error

    # Still broken: it dies again after as many attempts as at first.
    assert await letters.replay({events[0]}, limit=10) == [events[0]]
    await eventually(lambda: bus_rig.delivered(bus_rig.one, "dead") == 6)
    await eventually(all_dead)
    assert (await bus_rig.effects(bus_rig.one)) == {}

    broken = False
    assert set(await letters.replay({events[1], events[2], new_id()}, limit=10)) == {events[1], events[2]}
    await bus_rig.expect_once([events[1], events[2]], bus_rig.one)
    # What had its effect is not there any more, so that a second replay finds nothing.
    assert await letters.replay({events[1]}, limit=10) == []
    assert len(await letters.replay(None, limit=1)) == 1
    assert len(await letters.replay(None, limit=10)) == 2
    await bus_rig.expect_once(events, bus_rig.one)
    # Published a second time after all: the inbox remembers.
    await bus.publish([envelopes[1]])
    await eventually(lambda: bus_rig.delivered(bus_rig.one, "duplicate") == 1)
    await bus_rig.expect_once(events, bus_rig.one, bus_rig.two)
    assert await _ids(letters) == []


async def test_parked_event_is_shown_and_tried_anew_when_replayed(amqp_rig: BusRig) -> None:
    rig, event_id = amqp_rig, new_id()
    async with rig.database.system() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (id, type, subject, partition_key, actor, traceparent, causation_id, data, leased_until, attempts)"
                " VALUES (:id, 'of.tomorrow', 's', '', '', '', '', '', 'infinity', 20)"
            ),
            {"id": event_id},
        )
    parked = ParkedEvents(rig.database)
    (letter,) = await parked.page(skip=0, limit=10)
    assert (letter.envelope.id, letter.envelope.type, letter.attempts) == (event_id, "of.tomorrow", 20)
    assert await parked.page(skip=1, limit=10) == []
    assert await parked.replay({new_id()}, limit=10) == []
    assert await parked.replay(None, limit=10) == [event_id]
    assert await parked.page(skip=0, limit=10) == []
    async with rig.database.system() as connection:
        assert (await connection.execute(text("SELECT leased_until, attempts FROM outbox"))).one() == (None, 0)


async def test_dead_deliveries_and_parked_events_are_kept_for_their_time_only(amqp_rig: BusRig) -> None:
    rig = amqp_rig
    async with rig.database.system() as connection:
        for state, age in (("dead", 91), ("dead", 89), ("retry", 91)):
            await connection.execute(
                text(
                    "INSERT INTO deliveries (consumer, event_id, state, envelope, attempts, next_attempt_at, error, updated_at)"
                    " VALUES ('a', :id, :state, '', 5, now(), '', now() - :age)"
                ),
                {"id": new_id(), "state": state, "age": timedelta(days=age)},
            )
        for lease, age in (("infinity", 91), ("infinity", 89), (None, 91)):
            await connection.execute(
                text(
                    "INSERT INTO outbox (id, type, subject, partition_key, actor, traceparent, causation_id, data,"
                    " leased_until, created_at)"
                    " VALUES (:id, 'x', '', '', '', '', '', '', CAST(:lease AS timestamptz), now() - :age)"
                ),
                {"id": new_id(), "lease": lease, "age": timedelta(days=age)},
            )
    assert await purge_dead_letters(rig.database, timedelta(days=90)) == 2
    assert await purge_dead_letters(rig.database, timedelta(days=90)) == 0
    async with rig.database.system() as connection:
        states = (await connection.execute(text("SELECT state FROM deliveries ORDER BY state"))).scalars().all()
        waiting = (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one()
    assert (list(states), waiting) == (["dead", "retry"], 2)


async def test_places_are_those_of_the_bus_and_a_missing_queue_is_told(amqp_rig: BusRig) -> None:
    databases = {"bustest": amqp_rig.database}
    consumers: dict[str, frozenset[str]] = {"bustest.one": frozenset(), "elsewhere.two": frozenset()}
    local = places(consumers, databases, "local:")
    assert {name: type(place) for name, place in local.items()} == {
        "bustest.one": DeadDeliveries,
        "outbox.bustest": ParkedEvents,
    }
    between = places(consumers, databases, amqp_rig.amqp_url)
    assert [name for name, place in between.items() if isinstance(place, DeadQueue)] == ["bustest.one", "elsewhere.two"]
    with pytest.raises(WireroomError) as caught:
        await between["elsewhere.two"].page(skip=0, limit=1)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    away = places(consumers, databases, "amqp://guest:guest@127.0.0.1:9/")
    with pytest.raises(WireroomError) as caught:
        await away["bustest.one"].page(skip=0, limit=1)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
