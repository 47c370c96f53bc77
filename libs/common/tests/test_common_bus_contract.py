"""What every bus promises, over both adapters, on real PostgreSQL and RabbitMQ."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from bus_contract_rig import DELETED, OTHER_TENANT, REVOKED, SERVICE, TENANT, BusRig, record_effect
from opentelemetry import trace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription
from wireroom_common.bus.port import PublishError
from wireroom_common.bus.relay import Relay
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.inbox import purge_inbox
from wireroom_common.outbox import emit
from wireroom_common.principal import ANONYMOUS, current_principal, set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2


async def test_event_committed_has_one_effect_per_consumer(bus_rig: BusRig) -> None:
    tenants: set[tuple[UUID | None, str]] = set()

    async def note_tenant(connection: AsyncConnection, envelope: Envelope) -> None:
        tenants.add((envelope.tenant_id, await connection.scalar(text("SELECT current_setting('wireroom.tenant')")) or ""))

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, note_tenant), bus_rig.work(bus_rig.two))
    await bus_rig.relay(bus)
    events = await bus_rig.emit(300) + await bus_rig.emit(20, OTHER_TENANT)
    await bus_rig.expect_once(events)
    assert tenants == {(TENANT, str(TENANT)), (OTHER_TENANT, str(OTHER_TENANT))}
    assert await eventually(lambda: bus_rig.sample("wireroom_outbox_published_total", service=SERVICE) == 320)
    assert await bus_rig.outbox() == 0


async def test_notify_wakes_relay_without_waiting_for_the_poll(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    relay = Relay(bus_rig.database, bus, bus_rig.relay_metrics, poll_interval=3600.0)
    bus_rig.running.insert(0, relay)
    await relay.start()
    for _ in range(3):
        await bus_rig.expect_once(sorted([*(await bus_rig.effects(bus_rig.one)), *await bus_rig.emit(1)]), within=5.0)


async def test_duplicate_publication_has_one_effect(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    envelope = bus_rig.envelope()
    await asyncio.gather(*(bus.publish([envelope, envelope]) for _ in range(5)))
    await eventually(lambda: bus_rig.delivered(bus_rig.one, "duplicate") == 9)
    await bus_rig.expect_once([envelope.id])


async def test_handler_that_recovers_has_one_effect(bus_rig: BusRig) -> None:
    attempts: Counter[UUID] = Counter()

    async def fail_thrice(connection: AsyncConnection, envelope: Envelope) -> None:
        attempts[envelope.id] += 1
        if attempts[envelope.id] <= 3:
            # Work done before the failure must be rolled back, or the effect is counted twice.
            await record_effect(connection, envelope, bus_rig.one)
            raise RuntimeError("not yet")

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, fail_thrice, max_attempts=4), bus_rig.work(bus_rig.two))
    await bus_rig.relay(bus)
    events = await bus_rig.emit(5)
    await bus_rig.expect_once(events)
    assert attempts == dict.fromkeys(events, 4)
    assert await bus.dead_letters(bus_rig.one) == []


async def test_poison_is_dead_lettered_while_others_flow(bus_rig: BusRig) -> None:
    poison: set[UUID] = set()
    attempts: Counter[UUID] = Counter()

    async def choke(connection: AsyncConnection, envelope: Envelope) -> None:
        if envelope.id in poison:
            attempts[envelope.id] += 1
            await connection.execute(text("SELECT CAST(:secret AS integer)"), {"secret": "hunter2"})

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, choke, max_attempts=3), bus_rig.work(bus_rig.two))
    bad = [bus_rig.envelope() for _ in range(3)]
    poison.update(envelope.id for envelope in bad)
    good = [bus_rig.envelope() for _ in range(50)]
    await bus.publish([*bad, *good])
    await bus_rig.expect_once([e.id for e in good], bus_rig.one)
    await bus_rig.expect_once([e.id for e in (*bad, *good)], bus_rig.two)

    async def buried() -> bool:
        return len(await bus.dead_letters(bus_rig.one)) == 3

    await eventually(buried)
    for _ in range(2):  # Reading leaves them where they are.
        letters = await bus.dead_letters(bus_rig.one)
        assert {letter.envelope.id for letter in letters} == poison
    assert attempts == dict.fromkeys(poison, 3)
    assert letters[0].envelope in bad
    assert {letter.attempts for letter in letters} == {3}
    assert "InvalidTextRepresentation" in letters[0].error
    assert "SELECT" not in letters[0].error
    assert len(await bus.dead_letters(bus_rig.one, limit=2)) == 2
    with pytest.raises(WireroomError):
        await bus.dead_letters("nobody.here")


async def test_event_of_rolled_back_transaction_never_arrives(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    await bus_rig.relay(bus)

    async def change_then_fail() -> None:
        async with bus_rig.database.tenant(TENANT) as connection:
            await emit(connection, events_pb2.RagDocumentDeleted(document_id="no"), tenant_id=TENANT, subject="no")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_then_fail()
    await bus_rig.expect_once(await bus_rig.emit(1))


async def test_relay_that_dies_between_publish_and_delete_has_one_effect(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    bus_rig.admin(f"REVOKE DELETE ON {SERVICE}.outbox FROM {SERVICE}_system")
    await bus_rig.relay(bus, lease=0.3)
    events = await bus_rig.emit(10)
    await eventually(lambda: bus_rig.delivered(bus_rig.one, "duplicate") >= 10, what="second publication")
    await eventually(lambda: bus_rig.sample("wireroom_outbox_failures_total", service=SERVICE) >= 2, what="second refusal")
    assert await bus_rig.outbox() == 10
    bus_rig.admin(f"GRANT DELETE ON {SERVICE}.outbox TO {SERVICE}_system")

    async def drained() -> bool:
        return await bus_rig.outbox() == 0

    await eventually(drained)
    await bus_rig.expect_once(events)


async def test_two_relays_on_one_outbox_have_one_effect_each(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    events = [event for _ in range(3) for event in await bus_rig.emit(250)]
    await bus_rig.relay(bus)
    await bus_rig.relay(bus)
    await bus_rig.expect_once(events)
    assert bus_rig.delivered(bus_rig.one, "duplicate") == 0


async def test_broadcast_reaches_every_subscriber(bus_rig: BusRig) -> None:
    seen: list[tuple[int, UUID]] = []

    def listener(number: int) -> Subscription:
        async def show(envelope: Envelope) -> None:
            if (number, envelope.id) not in seen:
                seen.append((number, envelope.id))
                raise RuntimeError("shown again after a failure")
            seen.append((number, envelope.id))

        return Subscription(f"listener.{number}", broadcast=show, types=frozenset({REVOKED}))

    work = (bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    if bus_rig.kind == "local":  # One process is the only replica.
        bus = await bus_rig.bus(*work, listener(1), listener(2))
    else:
        bus = await bus_rig.bus(*work, listener(1))
        await bus_rig.bus(*work, listener(2))
    envelope, other = bus_rig.envelope(REVOKED), bus_rig.envelope()
    await bus.publish([envelope, other])
    await eventually(lambda: Counter(seen) == {(1, envelope.id): 2, (2, envelope.id): 2})
    await bus_rig.expect_once([other.id], bus_rig.one)
    await bus_rig.expect_once([envelope.id, other.id], bus_rig.two)


async def test_refused_event_holds_up_nobody(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    unknown, large, good = bus_rig.envelope("no.such.event"), bus_rig.envelope(data=b"x" * 1_048_577), bus_rig.envelope()
    with pytest.raises(PublishError) as caught:
        await bus.publish([unknown, large, good])
    assert set(caught.value.failed) == {unknown.id, large.id}
    async with bus_rig.database.system() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)"
                " VALUES (:id, NULL, 'no.such.event', '', '', '', '', '', '')"
            ),
            {"id": UUID(int=0)},
        )
    await bus_rig.relay(bus)
    events = await bus_rig.emit(3)
    await bus_rig.expect_once([good.id, *events])
    assert await eventually(lambda: bus_rig.sample("wireroom_outbox_failures_total", service=SERVICE) >= 2, what="tried again")
    assert await bus_rig.outbox() == 1


async def test_handler_sees_trace_of_producer_but_no_principal(bus_rig: BusRig) -> None:
    seen: list[tuple[int, int]] = []

    async def look(_connection: AsyncConnection, _envelope: Envelope) -> None:
        with pytest.raises(WireroomError) as caught:
            current_principal()
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED
        context = trace.get_current_span().get_span_context()
        seen.append((context.trace_id, context.span_id))

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, look), bus_rig.work(bus_rig.two))
    set_current_principal(ANONYMOUS)
    tracer = bus_rig.tracing.get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        producer = span.get_span_context()
        await bus_rig.emit(1)
    with tracer.start_as_current_span("unrelated"):
        await bus_rig.relay(bus)
        await eventually(lambda: len(seen) == 1)
    assert seen[0][0] == producer.trace_id
    assert seen[0][1] != producer.span_id


async def test_handlers_run_in_parallel_but_bounded(bus_rig: BusRig) -> None:
    running, most = 0, 0
    release = asyncio.Event()

    async def wait(_connection: AsyncConnection, _envelope: Envelope) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, wait), bus_rig.work(bus_rig.two))
    envelopes = [bus_rig.envelope() for _ in range(30)]
    publishing = asyncio.create_task(bus.publish(envelopes))
    await bus_rig.expect_once([e.id for e in envelopes], bus_rig.two)  # The slow consumer does not hold up the other one.
    await eventually(lambda: running == 8)
    release.set()
    await publishing
    await bus_rig.expect_once([e.id for e in envelopes])
    assert most == 8


async def test_stop_lets_running_handler_finish(bus_rig: BusRig) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def wait(_connection: AsyncConnection, _envelope: Envelope) -> None:
        started.set()
        await release.wait()

    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, wait), bus_rig.work(bus_rig.two))
    relay = await bus_rig.relay(bus)
    events = await bus_rig.emit(1)
    await started.wait()
    stopping = asyncio.gather(relay.stop(), bus.stop())
    asyncio.get_running_loop().call_later(0.1, release.set)
    await stopping
    await bus_rig.expect_once(events, bus_rig.one, within=0.1)
    with pytest.raises(WireroomError):
        await bus.ping()
    with pytest.raises(WireroomError):
        await bus.publish([bus_rig.envelope()])


async def test_outage_of_the_consumers_database_uses_up_no_attempt(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one, max_attempts=2), bus_rig.work(bus_rig.two, max_attempts=2))
    roles = (f"{SERVICE}_app", f"{SERVICE}_system")
    refusals: list[ErrorKind] = []
    cut = [f"ALTER ROLE {role} NOLOGIN" for role in roles]
    try:
        bus_rig.admin(*cut, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'bustest_%'")
        envelope = bus_rig.envelope()

        async def publish() -> bool:
            try:
                await bus.publish([envelope])
            except WireroomError as error:
                refusals.append(error.kind)
                return False
            return True

        for _ in range(3):
            await publish()
        # Without a broker nobody holds the event meanwhile: the outbox keeps it.
        assert refusals == ([ErrorKind.UNAVAILABLE] * 3 if bus_rig.kind == "local" else [])
        await eventually(lambda: bus_rig.delivered(bus_rig.one, "deferred") >= 3)
    finally:
        bus_rig.admin(*(f"ALTER ROLE {role} LOGIN" for role in roles))
    await eventually(publish)
    await bus_rig.expect_once([envelope.id])
    assert await bus.dead_letters(bus_rig.one) == []


async def test_subscriptions_that_do_not_fit_the_catalogue_are_refused(bus_rig: BusRig) -> None:
    async def show(_envelope: Envelope) -> None:
        raise AssertionError("never started")

    one, two = bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two)
    cases = {
        "names the consumer": [one, two, bus_rig.work("not.in.catalogue")],
        "subscribed twice": [one, one, two],
        "not a broadcast event": [one, two, Subscription("listener", broadcast=show, types=frozenset({DELETED}))],
    }
    if bus_rig.kind == "local":  # With a broker the queue keeps the events for a process that is not there yet.
        cases["would be lost"] = [one]
    for message, subscriptions in cases.items():
        with pytest.raises(ValueError, match=message):
            await bus_rig.bus(*subscriptions)


async def test_purge_removes_only_old_inbox_rows_and_is_bounded(bus_rig: BusRig) -> None:
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    envelopes = [bus_rig.envelope() for _ in range(4)]
    await bus.publish(envelopes)
    await bus_rig.expect_once([e.id for e in envelopes])
    bus_rig.admin("UPDATE bustest.inbox SET seen_at = now() - interval '8 days' WHERE consumer LIKE 'one.%'")
    assert await purge_inbox(bus_rig.database, timedelta(days=7), limit=3) == 3
    assert await purge_inbox(bus_rig.database, timedelta(days=7), limit=3) == 1
    assert await purge_inbox(bus_rig.database, timedelta(days=7), limit=3) == 0
