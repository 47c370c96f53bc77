"""Events that no bus would ever take: tried for a while, then parked where they can be seen, in nobody's way."""

from __future__ import annotations

from uuid import UUID

import pytest
from bus_contract_rig import SERVICE, BusRig
from sqlalchemy import text
from structlog.testing import capture_logs

from wireroom_common.bus.relay import Relay
from wireroom_common.ids import new_id
from wireroom_common.testing import eventually


async def _write(rig: BusRig, event_type: str, created_at: str = "now") -> UUID:
    event_id = new_id()
    async with rig.database.system() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (id, type, subject, partition_key, actor, traceparent, causation_id, data, created_at)"
                " VALUES (:id, :type, '', '', '', '', '', '', CAST(:created AS timestamptz))"
            ),
            {"id": event_id, "type": event_type, "created": created_at},
        )
    return event_id


async def _parked(rig: BusRig) -> dict[UUID, int]:
    async with rig.database.system() as connection:
        rows = await connection.execute(text("SELECT id, attempts FROM outbox WHERE leased_until = 'infinity'"))
        return {row.id: row.attempts for row in rows}


async def test_unknown_and_unreadable_events_are_parked_and_others_flow(bus_rig: BusRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireroom_common.bus.relay.SAMPLE_SECONDS", 0.0)
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    unknown = await _write(bus_rig, "of.tomorrow")
    unreadable = await _write(bus_rig, "rag.document.deleted", created_at="infinity")
    relay = Relay(bus_rig.database, bus, bus_rig.relay_metrics, max_attempts=2)
    bus_rig.running.insert(0, relay)
    with capture_logs() as logs:
        await relay.start()
        events = await bus_rig.emit(20)
        await bus_rig.expect_once(events)

        async def both() -> bool:
            return await _parked(bus_rig) == {unknown: 2, unreadable: 2}

        await eventually(both, within=10)
    parked = [entry for entry in logs if entry["event"] == "outbox_event_parked"]
    assert {(entry["event_id"], entry["attempts"]) for entry in parked} == {(str(unknown), 2), (str(unreadable), 2)}
    assert {entry["type"] for entry in parked} == {"of.tomorrow", "rag.document.deleted"}
    await eventually(lambda: bus_rig.sample("wireroom_outbox_parked_events", service=SERVICE) == 2)
    # Neither counts as waiting, and what comes later passes.
    await eventually(lambda: bus_rig.sample("wireroom_outbox_depth_events", service=SERVICE) == 0)
    assert bus_rig.sample("wireroom_outbox_oldest_seconds", service=SERVICE) == 0
    await bus_rig.expect_once(events + await bus_rig.emit(5))
    assert await _parked(bus_rig) == {unknown: 2, unreadable: 2}
