"""One process: builds the services it was given, starts them in order, drains and stops them in reverse.

Start: databases → `Service.start` → RPC servers → bus (topology, then consumers) → relays and periodic work → HTTP → ready.
SIGTERM or SIGINT: not ready → `drain_delay` → HTTP drained → periodic work → RPC drained → `Service.stop` → relays → bus → databases.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter, start_http_server

from wireroom_common.bus.parking import purge_dead_letters
from wireroom_common.bus.relay import Relay, RelayMetrics
from wireroom_common.db.capacity import capacity_of
from wireroom_common.db.migrate import require_current
from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.idempotency import purge_effects
from wireroom_common.inbox import purge_inbox
from wireroom_common.logging import get_logger
from wireroom_common.runtime.health import Health
from wireroom_common.runtime.http import HttpServers
from wireroom_common.runtime.infra import ProcessInfra
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_common.runtime.status import register_status

# Beyond the drain time, for what has to be closed after the work is done.
_STOP_MARGIN = 10.0
_CANCEL_AGAIN = 0.5
_DATABASE_WAIT = 60.0
_INBOX_KEPT = timedelta(days=14)
# Longer than any gateway answers a repeated request from its store.
_EFFECTS_KEPT = timedelta(days=8)
_READINESS_INTERVAL = 1.0

Build = Callable[[Infra], Service]


@dataclass(frozen=True)
class Module:
    """One role: its name and how its service is built."""

    name: str
    build: Build


class Process:
    """The life of one process. `run()` returns after a clean stop and raises when a part could not start or died."""

    def __init__(self, modules: Sequence[Module], infra: ProcessInfra) -> None:
        self._modules = modules
        self._infra = infra
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._log = get_logger("wireroom.process")
        self._periodic_failures = Counter(
            "wireroom_periodic_failures", "Failed runs of periodic work", ["service", "name"], registry=infra.registry
        )
        self._http: list[HttpServers] = []
        self.urls: list[str] = []

    def request_stop(self) -> None:
        """Begin the graceful stop."""
        self._stop.set()

    async def run(self, on_ready: Callable[[Process], Awaitable[None]] | None = None) -> None:
        """Start everything, call `on_ready`, wait for a signal, `request_stop` or a fatal failure; stop everything.

        A signal during the start ends the start. Raises what made a part fail.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._infra.close)
            health = await self._unless_stopped(self._start(stack))
            if health is not None:
                self._log.info("ready", services=[module.name for module in self._modules], urls=self.urls)
                if on_ready is not None:
                    await on_ready(self)
                await self._stop.wait()
                self._log.info("stopping")
                self._infra.draining = True
                for item in health:
                    item.accept(False)
                await self._infra.report_ready(False)
                for servers in self._http:
                    servers.drain()
                await asyncio.sleep(self._infra.settings.drain_delay)
        self._log.info("stopped")
        if self._failure is not None:
            raise self._failure

    async def _unless_stopped(self, start: Coroutine[None, None, list[Health]]) -> list[Health] | None:
        starting = asyncio.create_task(start, name="start")
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            return starting.result()
        self._log.info("stopping", during="start")
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return None

    async def _start(self, stack: contextlib.AsyncExitStack) -> list[Health]:
        infra = self._infra
        services = [module.build(infra.for_role(module.name)) for module in self._modules]
        infra.start_caches()
        health = [self._health(service) for service in services]
        metrics = RelayMetrics(infra.registry)
        relays = [Relay(service.database, infra.bus, metrics) for service in services if service.database is not None]
        # Entered first and so left last: calls that are drained still write events, and the relays send them on.
        stack.push_async_callback(self._limited, "bus.stop", infra.bus.stop)
        stack.push_async_callback(self._all_limited, {f"relay.{index}.stop": relay.stop for index, relay in enumerate(relays)})
        await self._start_services(services, stack)
        await self._start_rpc(services, health, stack)
        await infra.bus.start([subscription for service in services for subscription in service.subscriptions])
        for relay in relays:
            await relay.start()
        tasks = [
            self._supervised(self._repeat(service.name, work), f"{service.name}.{work.name}")
            for service in services
            for work in [*service.periodic, *self._housekeeping(service)]
        ]
        stack.push_async_callback(_cancel, tasks)
        if infra.settings.metrics_port:
            exporter, thread = start_http_server(infra.settings.metrics_port, registry=infra.registry)
            stack.callback(thread.join, 5)
            stack.callback(exporter.server_close)
            stack.callback(exporter.shutdown)
        for item in health:
            item.accept(True)
        tasks.append(self._supervised(self._report_readiness(health), "readiness"))
        await self._start_http(services, stack)
        return health

    async def _start_services(self, services: Sequence[Service], stack: contextlib.AsyncExitStack) -> None:
        for service in services:
            if service.database is not None:
                await self._wait_for_database(service)
        if databases := [service.database for service in services if service.database is not None]:
            (await capacity_of(databases)).check()
        for service in services:
            if service.stop is not None:
                stack.push_async_callback(self._limited, f"{service.name}.stop", service.stop)
            if service.start is not None:
                await service.start()

    async def _start_rpc(self, services: Sequence[Service], health: Sequence[Health], stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(self._limited, "rpc.stop", self._infra.stop_rpc)
        for service, item in zip(services, health, strict=True):
            server = await self._infra.rpc_server(service)
            register_status(server, item)
            for register in service.rpc:
                register(server)
            await self._infra.start_rpc(service.name)

    async def _start_http(self, services: Sequence[Service], stack: contextlib.AsyncExitStack) -> None:
        for service in services:
            if service.http is None:
                continue
            servers = HttpServers(
                service.http,
                certificate_dir=self._infra.settings.data_dir / "tls",
                clock=self._infra.clock,
                drain_timeout=self._infra.settings.drain_timeout,
                registry=self._infra.registry,
            )
            self._http.append(servers)
            stack.push_async_callback(servers.stop)
            self.urls += await servers.start()
            for task in servers.tasks:
                self._supervise(task)

    def _supervised(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        return self._supervise(asyncio.create_task(work, name=name))

    def _supervise(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """The process ends, with the reason, when a task ends that should run as long as the process does."""

        def ended(done: asyncio.Task[None]) -> None:
            if self._stop.is_set() or done.cancelled():
                return
            self._failure = done.exception() or RuntimeError(f"'{done.get_name()}' ended by itself.")
            self._log.error("part_died", part=done.get_name(), error=describe_error(self._failure))
            self._stop.set()

        task.add_done_callback(ended)
        return task

    async def _report_readiness(self, health: Sequence[Health]) -> None:
        while True:
            await self._infra.report_ready(all([await item.ready() for item in health]))
            await asyncio.sleep(_READINESS_INTERVAL)

    def _health(self, service: Service) -> Health:
        uses_bus = service.database is not None or service.subscriptions
        start_checks = {"bus": self._infra.bus.ping} if uses_bus else {}
        return Health(service.name, service.checks, self._infra.clock, start_checks=start_checks)

    async def _wait_for_database(self, service: Service) -> None:
        assert service.database is not None  # noqa: S101 - checked by the caller
        deadline = self._infra.clock.monotonic() + _DATABASE_WAIT
        while True:
            try:
                await service.database.refuse_dangerous_role()
                await require_current(service.database)
            except WireroomError as error:
                if error.kind is not ErrorKind.UNAVAILABLE or self._infra.clock.monotonic() > deadline:
                    raise
                self._log.warning("waiting_for_database", service=service.name, detail=error.detail)
                await asyncio.sleep(1)
            else:
                return

    def _housekeeping(self, service: Service) -> list[Periodic]:
        database = service.database
        if database is None:
            return []

        async def purge() -> None:
            while await purge_inbox(database, _INBOX_KEPT):
                pass

        async def purge_dead() -> None:
            kept = timedelta(days=self._infra.settings.dead_letters_kept_days)
            while dropped := await purge_dead_letters(database, kept):
                self._log.warning("dead_letters_dropped", service=service.name, count=dropped, kept_days=kept.days)

        async def purge_keys() -> None:
            while await purge_effects(database, _EFFECTS_KEPT):
                pass

        return [
            Periodic("purge_inbox", 600.0, purge),
            Periodic("purge_idempotency", 600.0, purge_keys),
            Periodic("purge_dead_letters", 3600.0, purge_dead),
        ]

    async def _repeat(self, service: str, work: Periodic) -> None:
        while True:
            try:
                await work.run()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - it is tried again at the next interval, and counted
                self._periodic_failures.labels(service, work.name).inc()
                self._log.warning("periodic_work_failed", service=service, work=work.name, error=describe_error(error))
            await asyncio.sleep(work.interval)

    async def _limited(self, what: str, stop: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._infra.settings.drain_timeout + _STOP_MARGIN):
                await stop()
        except Exception as error:  # noqa: BLE001 - the rest must still be stopped
            self._log.warning("stop_failed", part=what, error=describe_error(error))

    async def _all_limited(self, stops: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        await asyncio.gather(*(self._limited(what, stop) for what, stop in stops.items()))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Again and again: a client of a server has been seen to swallow a cancellation while it connects."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
