"""Which callers are blocked, known to this replica without asking; and how a new block is reported to `auth`, which keeps them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal
from wireroom_common.rpc.context import acting_as_service
from wireroom_gateway.limits.limiter import caller_of
from wireroom_gateway.limits.networks import UNKNOWN, AllowList, network_of
from wireroom_gateway.limits.policy import BlockRule
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.events.v1 import events_pb2

BLOCK_EVENTS = frozenset({"gateway.ip.blocked", "gateway.ip.unblocked"})
MAX_BLOCKS = 100_000
_MAX_UNREPORTED = 1_000
_PAGE = 500
_TIMEOUT = 5.0
_RESYNC_EVERY = 30.0
_IDLE = 1.0
_RETRY_FIRST, _RETRY_LONGEST = 0.5, 15.0
# What repeating cannot put right.
_FINAL = frozenset({ErrorKind.INVALID, ErrorKind.FORBIDDEN, ErrorKind.UNAUTHENTICATED, ErrorKind.NOT_FOUND, ErrorKind.CONFLICT})
_log = get_logger(__name__)

# A network, and the user or key that the block is confined to (empty: anonymous callers).
Key = tuple[str, str]


@dataclass(frozen=True)
class _Unreported:
    violations: int
    ttl: int
    ends: float
    due: float
    delay: float = _RETRY_FIRST


class AddressBlocks:
    """A bounded map of blocks in force. `is_blocked` costs a look into a dictionary, and nothing while it is empty.

    A replica that sees the last straw blocks at once and reports; the others learn it by event, and from the list every 30 s.
    A report that fails is repeated until the block would have ended.
    """

    def __init__(
        self,
        stub: auth_pb2_grpc.AddressServiceAsyncStub,
        clock: Clock,
        metrics: GatewayMetrics,
        *,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        self._stub = stub
        self._clock = clock
        self._metrics = metrics
        self._max = max_blocks
        self._ends: OrderedDict[Key, float] = OrderedDict()
        self._unreported: dict[Key, _Unreported] = {}
        self._work = asyncio.Event()
        self._listing_due = float("-inf")
        # What events told while a list was under way: the list may be older.
        self._told: set[Key] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def remaining(self, client_ip: str, principal: Principal, allow: AllowList) -> float:
        """Seconds that the caller stays blocked; 0 if it is not."""
        if not self._ends:
            return 0.0
        key = (network_of(client_ip), caller_of(principal))
        ends = self._ends.get(key)
        if ends is None or client_ip in allow:
            return 0.0
        left = ends - self._clock.monotonic()
        if left <= 0:
            self._forget(key)
            return 0.0
        return left

    def block(self, client_ip: str, principal: Principal, violations: int, rule: BlockRule) -> None:
        """Block the caller here and now, and report it."""
        key = (network_of(client_ip), caller_of(principal))
        if key[0] == UNKNOWN or key in self._unreported:
            return
        now = self._clock.monotonic()
        self._remember(key, now + rule.ttl)
        _log.warning("address_blocked", network=key[0], principal=key[1], violations=violations, seconds=rule.ttl)
        if len(self._unreported) < _MAX_UNREPORTED:
            self._unreported[key] = _Unreported(violations, rule.ttl, now + rule.ttl, now)
            self._work.set()
        else:
            self._metrics.block_reports.labels("dropped").inc()

    async def on_event(self, envelope: Envelope) -> None:
        """Handles `gateway.ip.blocked` and `gateway.ip.unblocked`."""
        if envelope.type == "gateway.ip.blocked":
            blocked = envelope.payload(events_pb2.GatewayIpBlocked)
            self._take_over((blocked.network, blocked.principal), blocked.until)
        elif envelope.type == "gateway.ip.unblocked":
            lifted = envelope.payload(events_pb2.GatewayIpUnblocked)
            key = (lifted.network, lifted.principal)
            self._unreported.pop(key, None)
            self._forget(key)
            if self._told is not None:
                self._told.add(key)

    async def run(self) -> None:
        """One round: wait for work, for a second at most; report new blocks; read the list when it is due."""
        try:
            async with asyncio.timeout(_IDLE):
                await self._work.wait()
        except TimeoutError:
            pass
        self._work.clear()
        for key, entry in list(self._unreported.items()):
            if entry.due <= self._clock.monotonic():
                await self._report(key, entry)
        if self._clock.monotonic() >= self._listing_due:
            try:
                await self.resynchronise()
            except WireroomError as error:
                _log.warning("blocks_not_synchronised", code=error.code)
            else:
                self._listing_due = self._clock.monotonic() + _RESYNC_EVERY

    async def resynchronise(self) -> None:
        """Take over the list of `auth`; what was not reported yet stays."""
        self._told = set()
        try:
            listed: dict[Key, Timestamp] = {}
            token = ""
            while len(listed) < self._max:
                with acting_as_service():
                    answer = await self._stub.ListBlocks(
                        auth_pb2.ListBlocksRequest(page_size=_PAGE, page_token=token), timeout=_TIMEOUT
                    )
                listed |= {(block.network, block.principal): block.until for block in answer.blocks}
                token = answer.next_page_token
                if not token:
                    break
            told = self._told
        finally:
            self._told = None
        for key in [key for key in self._ends if key not in listed and key not in told and key not in self._unreported]:
            self._forget(key)
        for key, until in listed.items():
            if key not in told:
                self._take_over(key, until)

    async def _report(self, key: Key, entry: _Unreported) -> None:
        request = auth_pb2.BlockAddressRequest(
            network=key[0],
            principal=key[1],
            violations=entry.violations,
            reason="rate_limit",
            ttl_seconds=entry.ttl,
        )
        try:
            with acting_as_service():
                answer = await self._stub.BlockAddress(request, timeout=_TIMEOUT)
        except WireroomError as error:
            if error.kind in _FINAL:
                _log.error("block_refused", network=key[0], code=error.code)
                self._metrics.block_reports.labels("refused").inc()
                if self._unreported.pop(key, None) is not None:
                    self._forget(key)
                return
            self._metrics.block_reports.labels("failed").inc()
            now = self._clock.monotonic()
            if key in self._unreported:
                if entry.ends <= now:
                    del self._unreported[key]
                else:
                    delay = min(2 * entry.delay, _RETRY_LONGEST)
                    self._unreported[key] = _Unreported(entry.violations, entry.ttl, entry.ends, now + entry.delay, delay)
            return
        self._metrics.block_reports.labels("sent").inc()
        # Lifted while the call was under way: then the event has taken it out, and it must not come back.
        if self._unreported.pop(key, None) is not None and answer.block.HasField("until"):
            self._take_over(key, answer.block.until)

    def _take_over(self, key: Key, until: Timestamp) -> None:
        if self._told is not None:
            self._told.add(key)
        left = until.ToMicroseconds() / 1e6 - self._clock.now().timestamp()
        if left <= 0:
            self._forget(key)
        else:
            self._remember(key, self._clock.monotonic() + left)

    def _remember(self, key: Key, ends: float) -> None:
        self._ends[key] = ends
        self._ends.move_to_end(key)
        while len(self._ends) > self._max:
            self._ends.popitem(last=False)
            _log.error("block_map_full", entries=self._max)
        self._metrics.blocked_addresses.set(len(self._ends))

    def _forget(self, key: Key) -> None:
        self._ends.pop(key, None)
        self._metrics.blocked_addresses.set(len(self._ends))
