"""One completion from its row to its settlement, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports import Generation, GenerationLedger, Settlement
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id

_SETTLE_ATTEMPTS = 3
_SETTLE_PAUSE = 0.5

log = structlog.get_logger()


class Run:
    """What is known of a completion while it runs."""

    def __init__(self, *, tenant_id: UUID, user_id: UUID, model: str, provider: str, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._first_token_after = -1.0
        self.model = model
        self.provider = provider
        self.mode = AnswerMode.GENERATED
        self.tokens_in = 0
        self.tokens_out = 0
        self.citations = 0
        started = clock.now()
        self.created = int(started.timestamp())
        generation_id = new_id()
        self.completion_id = f"chatcmpl-{generation_id.hex}"
        self.generation = Generation(generation_id, tenant_id, user_id, self.completion_id, model, provider, started)

    def first_token(self) -> None:
        """Note when the answer began; later calls change nothing."""
        if self._first_token_after < 0:
            self._first_token_after = self._clock.monotonic() - self._began

    def settlement(self, status: str, error_code: str) -> Settlement:
        """How it ended, now."""
        return Settlement(
            status=status,
            answer_mode=self.mode.value if status == "completed" else "",
            error_code=error_code,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            citations=self.citations,
            first_token_milliseconds=max(0, round(self._first_token_after * 1000)),
            milliseconds=round((self._clock.monotonic() - self._began) * 1000),
            finished_at=self._clock.now(),
        )


class Runs:
    """Starts and settles completions. Settlements survive the cancellation of the call that caused them; `drain` waits for them."""

    def __init__(self, ledger: GenerationLedger, clock: Clock, metrics: ChatMetrics) -> None:
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def track(
        self, *, tenant_id: UUID, user_id: UUID, model: str, provider: str
    ) -> AsyncIterator[tuple[Run, asyncio.Future[None]]]:
        """A run and the writing of its first row, which goes on beside the answer: await it before anything is sent."""
        run = Run(tenant_id=tenant_id, user_id=user_id, model=model, provider=provider, clock=self._clock)
        row = asyncio.create_task(self._ledger.start(run.generation))
        # Shielded: who waits for the row may be cancelled, the row is written all the same, because it will be settled.
        written = asyncio.shield(row)
        # An answer that fails first never looks at it; the settlement does.
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        status, code = "completed", ""
        try:
            yield run, written
        except (asyncio.CancelledError, GeneratorExit):
            status = "cancelled"
            raise
        except WireroomError as error:
            status, code = "failed", error.code
            raise
        except BaseException:
            status, code = "failed", ErrorKind.INTERNAL.value
            raise
        finally:
            task = asyncio.create_task(self._settle(run, row, run.settlement(status, code)))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for the settlements under way."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def _settle(self, run: Run, row: asyncio.Task[None], settlement: Settlement) -> None:
        self._metrics.settled(run.provider, settlement)
        try:
            await row
        except Exception:
            # Without a row there is nothing to settle. The caller has been told, or learns of the error that came first: this one
            # must not take its place.
            log.exception("chat.start.failed", completion_id=run.completion_id)
            return
        for attempt in range(1, _SETTLE_ATTEMPTS + 1):
            try:
                await self._ledger.settle(run.generation, settlement)
            except Exception:
                if attempt == _SETTLE_ATTEMPTS:
                    # The row stays open, and the look for abandoned completions closes it.
                    log.exception("chat.settlement.failed", completion_id=run.completion_id)
                    return
                await asyncio.sleep(_SETTLE_PAUSE * attempt)
            else:
                return
