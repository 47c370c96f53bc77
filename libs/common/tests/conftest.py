"""What the tests of this member share."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from wireroom_common.db.schema import messaging_tables, statements_of, tenant_table
from wireroom_common.testing.plugin import MakeDatabase

# Test modules are imported by path; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent))

from bus_contract_rig import SERVICE, BusRig, MakeBusRig
from rpc_contract_rig import Kind, Rig, opened


@pytest.fixture
async def make_bus_rig(
    make_database: MakeDatabase, fresh_database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[MakeBusRig]:
    rigs: list[BusRig] = []

    async def make(kind: str, url: str = "") -> BusRig:
        effects = [
            f"CREATE TABLE {SERVICE}.effects (tenant_id uuid NOT NULL, consumer text NOT NULL, event_id uuid NOT NULL)",
            *tenant_table(SERVICE, "effects", system="SELECT"),
        ]
        database = await make_database(SERVICE, statements_of(messaging_tables(SERVICE), effects))
        amqp_url = url or (request.getfixturevalue("rabbitmq_url") if kind == "amqp" else "")
        rigs.append(BusRig(kind, database, fresh_database_url, amqp_url))
        return rigs[-1]

    yield make
    for rig in rigs:
        await rig.close()


@pytest.fixture(params=["local", "amqp"])
async def bus_rig(make_bus_rig: MakeBusRig, request: pytest.FixtureRequest) -> BusRig:
    return await make_bus_rig(request.param)


@pytest.fixture
async def amqp_rig(make_bus_rig: MakeBusRig) -> BusRig:
    return await make_bus_rig("amqp")


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """One service and channels to it, of each kind."""
    async with opened(request.param, tmp_path) as made:
        yield made
