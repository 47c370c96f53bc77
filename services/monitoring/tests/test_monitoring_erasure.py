"""What the event log keeps of a user or a tenant that was erased."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from wireroom_common.bus import Envelope, event_type
from wireroom_common.clock import SystemClock
from wireroom_common.ids import new_id
from wireroom_monitoring.erasure import BlankEvents
from wireroom_protos.events.v1 import events_pb2

TENANT, OTHER = UUID(int=1), UUID(int=2)
USER, COLLEAGUE = uuid4(), uuid4()
HASH = "ab" * 32


def event(payload: Any, tenant_id: UUID, *, subject: str = "", actor: str = "") -> Envelope:
    return Envelope(
        id=new_id(),
        source="auth",
        type=event_type(payload),
        time=SystemClock().now(),
        subject=subject,
        data=payload.SerializeToString(),
        tenant_id=tenant_id,
        actor=actor,
    )


async def logged(monitoring: Any) -> None:
    for tenant_id in (TENANT, OTHER):
        for user in (USER, COLLEAGUE):
            name = str(user)
            await monitoring.deliver(
                event(
                    events_pb2.AuthUserRegistered(user_id=name, email_sha256=HASH, via="open"),
                    tenant_id,
                    subject=name,
                    actor=name,
                )
            )
            await monitoring.deliver(event(events_pb2.ChatSessionCreated(session_id=str(uuid4()), user_id=name), tenant_id))
    await monitoring.deliver(event(events_pb2.AuthUserDeleted(user_id=str(USER), by=str(USER)), TENANT, subject=str(USER)))


async def erase(monitoring: Any, user: str) -> events_pb2.PrivacyErasurePartDone:
    await monitoring.deliver(
        event(events_pb2.PrivacyErasureRequested(erasure_id=str(uuid4()), user_id=user), TENANT), consumer="monitoring.erasure"
    )
    await monitoring.run_periodic("monitoring.erasures")
    return (await answers(monitoring))[-1]


async def answers(monitoring: Any) -> list[events_pb2.PrivacyErasurePartDone]:
    async with monitoring.database.system() as connection:
        rows = await connection.execute(text("SELECT data FROM outbox WHERE type = 'privacy.erasure.part_done' ORDER BY id"))
        return [events_pb2.PrivacyErasurePartDone.FromString(bytes(row.data)) for row in rows]


async def told(monitoring: Any, tenant_id: UUID) -> list[tuple[str, bool]]:
    """Types, and whether the event still tells anything."""
    async with monitoring.database.system() as connection:
        rows = await connection.execute(
            text("SELECT type, data <> '' AS tells FROM event_log WHERE tenant_id = :id ORDER BY log_offset"), {"id": tenant_id}
        )
        return [(row.type, row.tells) for row in rows]


async def test_events_of_the_user_lose_what_they_tell_and_the_others_do_not(monitoring: Any) -> None:
    await logged(monitoring)
    done = await erase(monitoring, str(USER))
    assert (done.part, dict(done.counts)) == ("monitoring", {"events": 2})
    registered, created = "auth.user.registered", "chat.session.created"
    assert await told(monitoring, TENANT) == [
        (registered, False),
        (created, False),
        (registered, True),
        (created, True),
        ("auth.user.deleted", True),
    ]
    assert all(tells for _, tells in await told(monitoring, OTHER))
    # What was on its way then is taken at the end.
    await monitoring.deliver(event(events_pb2.ChatSessionDeleted(session_id=str(uuid4()), user_id=str(USER)), TENANT))
    completed = events_pb2.PrivacyErasureCompleted(erasure_id=str(uuid4()), user_id=str(USER))
    await monitoring.deliver(event(completed, TENANT), consumer="monitoring.erasure")
    await monitoring.run_periodic("monitoring.erasures")
    assert (await told(monitoring, TENANT))[-1] == ("chat.session.deleted", False)
    assert (await erase(monitoring, str(USER))).counts["events"] == 0


@pytest.mark.parametrize("user", [str(USER), ""], ids=["user", "tenant"])
async def test_a_long_log_is_blanked_in_parts_and_answered_for_once_it_is_done(monitoring: Any, user: str) -> None:
    await logged(monitoring)
    requested = events_pb2.PrivacyErasureRequested(erasure_id=str(uuid4()), user_id=user)
    await monitoring.deliver(event(requested, TENANT), consumer="monitoring.erasure")
    # Who asks before it is done is not answered.
    await monitoring.deliver(event(requested, TENANT), consumer="monitoring.erasure")
    assert await answers(monitoring) == []
    await BlankEvents(monitoring.database, batch=1).run()
    (done,) = await answers(monitoring)
    assert done.counts["events"] == sum(not tells for _, tells in await told(monitoring, TENANT)) == (2 if user else 4)
    await monitoring.deliver(event(requested, TENANT), consumer="monitoring.erasure")
    await monitoring.run_periodic("monitoring.erasures")
    assert await answers(monitoring) == [done, done]


async def test_of_a_tenant_nothing_but_types_is_left(monitoring: Any) -> None:
    await logged(monitoring)
    done = await erase(monitoring, "")
    assert (done.counts["events"], done.counts["stats"] > 0) == (4, True)
    assert [entry for entry in await told(monitoring, TENANT) if entry[1]] == [("auth.user.deleted", True)]
    assert all(tells for _, tells in await told(monitoring, OTHER))
