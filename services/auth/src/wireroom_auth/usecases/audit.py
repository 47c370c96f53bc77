"""Read and verify the audit trail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from wireroom_auth.domain.audit import INSTALLATION, AuditFilter, AuditRecord, ChainCheck, Verdict
from wireroom_auth.ports.audit import AuditTrail
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal

READ = "audit:read"
READ_ALL = "audit:read:all"
DEFAULT_PAGE = 100
LARGEST_PAGE = 500
BATCH = 1000
_CHAINS_PER_RUN = 50
_log = get_logger(__name__)


class QueryAudit:
    """A tenant's records for its auditors, the installation's for operators."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def run(
        self, caller: Principal, after: int, page_size: int, chosen: AuditFilter, *, installation: bool
    ) -> Sequence[AuditRecord]:
        """At most `page_size` records after the sequence `after`, oldest first. 0 means 100; at most 500."""
        chain = _chain(caller, installation=installation)
        if after < 0:
            raise invalid("after_negative", "after must be 0 or the next_after of an earlier page.", field="after")
        if page_size < 0:
            raise invalid("page_size_out_of_range", "The page size cannot be negative.", field="page_size")
        return await self._trail.page(chain, after, chosen, limit=min(page_size or DEFAULT_PAGE, LARGEST_PAGE))


class VerifyAudit:
    """Checks every record of a chain, in bounded parts and off the event loop."""

    def __init__(self, trail: AuditTrail, key: Callable[[], bytes]) -> None:
        self._trail = trail
        self._key = key

    async def run(self, caller: Principal, *, installation: bool) -> Verdict:
        """The verdict up to the head at the start; it is itself written down in the chain."""
        chain = _chain(caller, installation=installation)
        verdict = await self.check(chain)
        await self._trail.record_verification(chain, verdict, actor=caller.subject)
        return verdict

    async def check(self, chain: UUID) -> Verdict:
        """The verdict alone."""
        head, beyond = await self._trail.head(chain)
        check = ChainCheck(self._key(), chain, head)
        while check.position < head.sequence:
            records = await self._trail.page(
                chain, check.position, AuditFilter(), limit=min(BATCH, head.sequence - check.position)
            )
            if not records:
                break
            verdict = await asyncio.to_thread(check.take, records)
            if verdict is not None:
                following = await self._trail.page(chain, verdict.first_bad_sequence, AuditFilter(), limit=1)
                return check.settle(verdict, following[0] if following else None)
        return check.finish(beyond)


class WatchAudit:
    """Verifies every chain regularly without being asked; what it finds broken becomes a fact of that chain and a line of the log."""

    def __init__(self, trail: AuditTrail, verify: VerifyAudit, clock: Clock, *, every: timedelta) -> None:
        self._trail = trail
        self._verify = verify
        self._clock = clock
        self._every = every

    async def run(self) -> None:
        """Verify some of the chains that are due; replicas share them."""
        for _ in range(_CHAINS_PER_RUN):
            now = self._clock.now()
            chain = await self._trail.claim_unverified(before=now - self._every, now=now)
            if chain is None:
                break
            verdict = await self._verify.check(chain)
            if verdict.problem is not None:
                _log.error(
                    "audit_chain_broken",
                    chain=str(chain),
                    first_bad_sequence=verdict.first_bad_sequence,
                    problem=verdict.problem.value,
                )
                await self._trail.record_verification(chain, verdict, actor="auth")


def _chain(caller: Principal, *, installation: bool) -> UUID:
    if installation:
        caller.require(READ_ALL)
        return INSTALLATION
    caller.require(READ)
    return caller.tenant()
