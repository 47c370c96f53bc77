"""Any sequence of uses of two replicas behaves like one dictionary whose entries end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, ClassVar

import pytest
from cache_rig import A, B, Rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from wireroom_common.cache import Cache, Key
from wireroom_common.clock import ManualClock
from wireroom_common.testing.polling import eventually

SECONDS = 100.0
TENANTS = st.sampled_from([A, B])
NAMES = st.sampled_from(["x", "y"])
REPLICAS = st.integers(0, 1)
TAGS = ("one", "two")


def key_of(tenant: Any, name: str) -> Key:
    return Key.of(tenant, name, tags=TAGS if name == "x" else TAGS[:1])


class Model(RuleBasedStateMachine):
    """`kept` is what must be found: value and end by key."""

    url: ClassVar[str]
    numbers: ClassVar[Any] = count()

    @initialize(verify=st.booleans(), seconds=st.just(SECONDS))
    def begin(self, verify: bool, seconds: float) -> None:  # noqa: FBT001 - drawn
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = ManualClock()
        self.kept: dict[Key, tuple[str, float]] = {}
        self.run(self.open(verify=verify, seconds=seconds))

    async def open(self, *, verify: bool, seconds: float) -> None:
        rig = Rig(self.url, self.stack, self.clock)
        replicas = [rig.replica(), rig.replica()]
        name = f"test.model_{next(self.numbers)}"
        self.caches: list[Cache[str]] = [
            replica.open(name=name, seconds=seconds, verify=verify, memory_entries=2) for replica in replicas
        ]
        for replica in replicas:
            await replica.listening()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def expected(self, key: Key) -> str | None:
        value, until = self.kept.get(key, ("", 0.0))
        return value if until > self.clock.monotonic() else None

    @rule(replica=REPLICAS, tenant=TENANTS, name=NAMES)
    def get(self, replica: int, tenant: Any, name: str) -> None:
        key = key_of(tenant, name)

        async def agrees() -> bool:
            return await self.caches[replica].get(key) == self.expected(key)

        # Within the promised time: invalidations by the other replica come by broadcast.
        self.run(eventually(agrees, within=2.0))

    @rule(replica=REPLICAS, tenant=TENANTS)
    def get_many(self, replica: int, tenant: Any) -> None:
        keys = [key_of(tenant, name) for name in ("x", "y", "z")]

        async def agrees() -> bool:
            found = await self.caches[replica].get_many(keys)
            return found == {key: value for key in keys if (value := self.expected(key)) is not None}

        self.run(eventually(agrees, within=2.0))

    @rule(replica=REPLICAS, tenant=TENANTS, name=NAMES)
    def get_or_make(self, replica: int, tenant: Any, name: str) -> None:
        self.get(replica, tenant, name)
        key = key_of(tenant, name)
        value = f"value {next(self.numbers)}"

        async def make() -> str:
            return value

        if self.expected(key) is None:
            self.kept[key] = value, self.clock.monotonic() + SECONDS
        assert self.run(self.caches[replica].get_or_make(key, make)) == self.expected(key)

    @rule(replica=REPLICAS, tenant=TENANTS, tag=st.sampled_from(TAGS))
    def invalidate(self, replica: int, tenant: Any, tag: str) -> None:
        self.run(self.caches[replica].invalidate(tenant, tag))
        self.kept = {key: kept for key, kept in self.kept.items() if key.scope != tenant or tag not in key.tags}

    @rule(replica=REPLICAS, tenant=TENANTS, name=NAMES)
    def delete(self, replica: int, tenant: Any, name: str) -> None:
        key = key_of(tenant, name)
        self.run(self.caches[replica].delete(key))
        self.kept.pop(key, None)

    @rule(seconds=st.sampled_from([1.0, 49.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.stack.aclose())
            self.runner.close()


@pytest.mark.timeout(60)
def test_two_replicas_behave_like_one_dictionary_with_ends(clean_valkey_url: str) -> None:
    Model.url = clean_valkey_url
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )
