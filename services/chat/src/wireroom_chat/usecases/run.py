"""One completion from its row to its settlement, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from wireroom_chat.domain.answer import AnswerMode, Retrieved
from wireroom_chat.domain.budgets import NO_LIMIT
from wireroom_chat.domain.passages import Span
from wireroom_chat.domain.pricing import LIMITS, Pricing, longest_answer
from wireroom_chat.domain.providers import Candidate, Price, ProviderModel
from wireroom_chat.domain.source_terms import ANY, SourceTerms
from wireroom_chat.domain.token_estimate import request_tokens, text_tokens
from wireroom_chat.domain.wire import usage_object
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports.generations import (
    AnswerSink,
    Checkpoint,
    Generation,
    GenerationLedger,
    Origin,
    Outcome,
    Ownership,
    Settlement,
    UsagePart,
)
from wireroom_chat.usecases.generation_caps import UNBOUNDED, GenerationCaps
from wireroom_chat.usecases.generation_row import GenerationRow
from wireroom_chat.usecases.usage import reported_tokens
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind

_SETTLE_ATTEMPTS = 3
_SETTLE_PAUSE = 0.5
# What an answer that outgrows its reservation asks for at a time.
_EXTENSION_TOKENS = 256

log = structlog.get_logger()


class BudgetSpent(Exception):  # noqa: N818 - not a failure: the answer ends here
    """An answer under way may cost no more."""


@dataclass
class Attempt:
    """One call of a provider."""

    number: int
    candidate: Candidate
    price: Price
    began: float
    prompt_tokens: int
    # The provider's own figures, as it sent them.
    usage: dict[str, Any] | None = None
    counted_out: int = 0
    # Whether the provider has begun to answer: what it then bills is the prompt and what it wrote.
    begun: bool = False
    first_token_after: float = -1.0
    status: str = "failed"
    error_code: str = ""

    def tokens(self) -> tuple[int, int, bool]:
        """Tokens in and out, and whether they are the provider's figures."""
        reported = reported_tokens(self.usage)
        if reported is not None:
            return reported[0], reported[1], True
        return (self.prompt_tokens if self.begun else 0), self.counted_out, False


@dataclass
class Run:
    """What is known of a completion while it runs."""

    generation: Generation
    clock: Clock
    pricing: Pricing
    ledger: GenerationLedger
    began: float
    row_of: GenerationRow
    mode: AnswerMode = AnswerMode.GENERATED
    attempts: list[Attempt] = field(default_factory=list)
    citations: int = 0
    cache: str = ""
    retrieval: Retrieved = Retrieved.COMPLETE
    # The passages in the prompt, in the order of their numbers.
    sources: tuple[str, ...] = ()
    remaining_micros: int | None = None
    # Of an answer that nobody was paid for: our own count.
    own_tokens: tuple[int, int] = (0, 0)
    # Kept for whoever wants the whole answer at the end.
    text: list[str] = field(default_factory=list)
    message: Mapping[str, Any] | None = None
    annotations: Sequence[Mapping[str, Any]] = ()
    citation_list: Sequence[Mapping[str, Any]] = ()
    spans: Sequence[Span] = ()
    # What the answer lacks.
    remarks: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    # Of all sources that the answer may come from.
    terms: SourceTerms = ANY
    # Whether somebody waits for the whole answer: then its text is kept.
    kept: bool = False
    _first_token_after: float = -1.0
    _reserved: int = 0
    _covered_tokens: int = 0

    @property
    def completion_id(self) -> str:
        """Its public name."""
        return self.generation.completion_id

    @property
    def model(self) -> str:
        """The model's name as it was asked for."""
        return self.generation.model

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return int(self.generation.started_at.timestamp())

    @property
    def path(self) -> tuple[str, ...]:
        """The candidates tried so far."""
        return tuple(attempt.candidate.label for attempt in self.attempts)

    @property
    def provider(self) -> str:
        """Who answers now."""
        return self.attempts[-1].candidate.model.provider if self.attempts else "wireroom"

    async def row(self) -> None:
        """Until its row stands; before that nothing may be sent."""
        await self.row_of.written()

    def first_token(self) -> None:
        """Note when the answer began; later calls change nothing."""
        if self._first_token_after < 0:
            self._first_token_after = self.clock.monotonic() - self.began

    async def begin(self, candidate: Candidate, body: Mapping[str, Any], *, going_on: bool = False) -> Attempt:
        """The record of a call that is about to be made, once it is known to be paid for.

        INVALID `price_unknown` for a model whose price nobody has set, RATE_LIMITED `insufficient_quota` when the budget does not cover it;
        BudgetSpent instead for an answer that is `going_on`.
        """
        model = candidate.model
        price = self.pricing.price(model)
        asked = _prompt_tokens(body, model)
        if not self.row_of.begun:
            micros = self.pricing.cost(price, asked, 0)
            self.row_of.begin(Checkpoint(model.provider, model.name, candidate.key, asked, micros, price.version))
        if self.ledger.binds(self.generation):
            await self.row()
            spent = self.micros()
            needed = spent + self.pricing.maximum(price, body, model) - self._reserved
            if needed > 0:
                await self._reserve(needed, going_on=going_on)
        self._covered_tokens = (
            self._affordable(price, self.micros() + self.pricing.cost(price, asked, 0)) if self._reserved else -1
        )
        attempt = Attempt(len(self.attempts) + 1, candidate, price, self.clock.monotonic(), asked)
        self.attempts.append(attempt)
        return attempt

    def limited(self, body: Mapping[str, Any], candidate: Candidate) -> Mapping[str, Any]:
        """The body with a length, where a budget has set aside what an answer of that length costs and the request names none."""
        if not self._reserved or any(body.get(name) is not None for name in LIMITS):
            return body
        return {**body, "max_tokens": longest_answer(body, candidate.model)}

    def count(self, attempt: Attempt, text: str) -> bool:
        """Count text that arrived; False when the answer needs `extend` before it is sent."""
        attempt.counted_out += text_tokens(text)
        return not attempt.counted_out > self._covered_tokens >= 0

    async def extend(self, attempt: Attempt) -> None:
        """Set aside more for an answer that outgrows its reservation; BudgetSpent when it may grow no further."""
        # A call of a tool may come as one large piece.
        tokens = max(_EXTENSION_TOKENS, attempt.counted_out - self._covered_tokens)
        extra = max(1, self.pricing.cost(attempt.price, 0, tokens))
        try:
            await self._reserve(extra, going_on=True)
        except BudgetSpent:
            attempt.status, attempt.error_code = "completed", "budget_spent"
            raise
        self._covered_tokens += tokens

    def micros(self) -> int:
        """What all calls so far cost."""
        return sum(self._cost(attempt) for attempt in self.attempts)

    def tokens(self) -> tuple[int, int]:
        """Over all calls; of an answer made here, our own count."""
        if not self.attempts:
            return self.own_tokens
        counts = [attempt.tokens() for attempt in self.attempts]
        return sum(count[0] for count in counts), sum(count[1] for count in counts)

    def usage(self) -> dict[str, Any]:
        """`usage` of the whole answer: the provider's own object where one call made it."""
        billed = [attempt for attempt in self.attempts if attempt.begun or attempt.usage is not None]
        if len(billed) == 1 and billed[0].usage is not None:
            return billed[0].usage
        return usage_object(*self.tokens())

    def inherit(
        self, candidate: Candidate, body: Mapping[str, Any], counted_out: int, *, prompt_tokens: int | None = None
    ) -> None:
        """Book what a process that is gone had of a provider, as far as it is known: the prompt, and the tokens that it sent on."""
        attempt = Attempt(
            len(self.attempts) + 1,
            candidate,
            self.pricing.price(candidate.model),
            self.clock.monotonic(),
            _prompt_tokens(body, candidate.model) if prompt_tokens is None else prompt_tokens,
            counted_out=counted_out,
            begun=True,
            error_code="process_lost",
        )
        self.attempts.append(attempt)

    def settlement(self, status: str, error_code: str) -> Settlement:
        """How it ended, now."""
        tokens_in, tokens_out = self.tokens()
        return Settlement(
            status=status,
            answer_mode=self.mode.value if status == "completed" else "",
            error_code=error_code,
            parts=tuple(self._part(attempt) for attempt in self.attempts),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            micros=self.micros(),
            citations=self.citations,
            cache=self.cache,
            first_token_milliseconds=max(0, round(self._first_token_after * 1000)),
            milliseconds=round((self.clock.monotonic() - self.began) * 1000),
            finished_at=self.clock.now(),
            retrieval=self.retrieval.value,
        )

    def outcome(self, settlement: Settlement) -> Outcome:
        """The whole answer, for its sink."""
        return Outcome(
            status=settlement.status,
            text="".join(self.text),
            message=self.message,
            annotations=self.annotations,
            finish_reason=self.finish_reason,
            answer_mode=self.mode.value,
            path=self.path,
            tokens_in=settlement.tokens_in,
            tokens_out=settlement.tokens_out,
            micros=settlement.micros,
            error_code=settlement.error_code,
            terms=self.terms,
        )

    async def _reserve(self, micros: int, *, going_on: bool) -> None:
        try:
            remaining = await self.ledger.reserve(self.generation, micros)
        except WireroomError as error:
            if going_on and error.code == "insufficient_quota":
                raise BudgetSpent from None
            raise
        # Without a budget nothing was set aside, and the answer may grow.
        if remaining < NO_LIMIT:
            self.remaining_micros = remaining
            self._reserved += micros

    def _affordable(self, price: Price, spent: int) -> int:
        """Completion tokens that the reservation covers."""
        if price.output_micros <= 0:
            return -1
        return max(0, self._reserved - spent) * 1_000_000 // price.output_micros

    def _cost(self, attempt: Attempt) -> int:
        tokens_in, tokens_out, _ = attempt.tokens()
        return self.pricing.cost(attempt.price, tokens_in, tokens_out)

    def _part(self, attempt: Attempt) -> UsagePart:
        tokens_in, tokens_out, reported = attempt.tokens()
        model = attempt.candidate.model
        return UsagePart(
            number=attempt.number,
            provider=model.provider,
            model=model.name,
            key=attempt.candidate.key,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            reported=reported,
            counted_out=attempt.counted_out,
            micros=self.pricing.cost(attempt.price, tokens_in, tokens_out),
            price_version=attempt.price.version,
            status=attempt.status,
            error_code=attempt.error_code,
            first_token_milliseconds=max(0, round(attempt.first_token_after * 1000)),
        )


class Runs:
    """Starts and settles completions. Settlements survive the cancellation of the call that caused them; `drain` waits for them."""

    def __init__(
        self,
        ledger: GenerationLedger,
        pricing: Pricing,
        clock: Clock,
        metrics: ChatMetrics,
        sinks: Mapping[str, AnswerSink] | None = None,
        *,
        ownership: Ownership | None = None,
        caps: GenerationCaps | None = None,
    ) -> None:
        self._ledger = ledger
        self._pricing = pricing
        self._clock = clock
        self._metrics = metrics
        self._sinks = sinks or {}
        self._ownership = ownership
        self._caps = caps or GenerationCaps(per_user=UNBOUNDED, per_tenant=UNBOUNDED)
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def track(self, generation: Generation, *, adopted: bool = False) -> AsyncIterator[Run]:
        """A run, settled when the block ends. The writing of its first row goes on beside the answer.

        RATE_LIMITED `too_many_generations`, with nothing written, where as many run as may.
        `adopted`: another process began it and could not end it; its row stands.
        """
        self._caps.enter(generation, adopted=adopted)
        row = GenerationRow(self._ledger, generation, stands=adopted)
        run = Run(generation, self._clock, self._pricing, self._ledger, self._clock.monotonic(), row)
        run.kept = generation.origin.kind in self._sinks
        status, code = "completed", ""
        try:
            yield run
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
            self._caps.leave(generation)
            task = asyncio.create_task(self._settle(run, run.settlement(status, code)))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for the settlements under way."""
        while self._settling:
            await asyncio.wait(self._settling)

    def generation(self, principal: Principal, model: str, origin: Origin) -> Generation:
        """A completion that is about to begin."""
        generation_id = new_id()
        return Generation(
            id=generation_id,
            tenant_id=principal.tenant(),
            user_id=principal.user_id(),
            key_id=UUID(principal.credential_id) if principal.kind is PrincipalKind.API_KEY and principal.credential_id else None,
            completion_id=f"chatcmpl-{generation_id.hex}",
            model=model,
            started_at=self._clock.now(),
            origin=origin,
        )

    async def _settle(self, run: Run, settlement: Settlement) -> None:
        if self._ownership is not None and not await self._ownership.owns(run.generation):
            # A row that is closed takes no more: what the other replica still makes of it would not be booked. If that one dies as
            # well, the look for abandoned completions closes the row.
            log.info("chat.settlement.left", completion_id=run.completion_id)
            return
        self._metrics.settled(settlement)
        try:
            # One that was never begun is written as it ended.
            if run.row_of.begun:
                await run.row()
        except Exception:
            # Without a row there is nothing to settle. The caller has been told, or learns of the error that came first: this one
            # must not take its place.
            log.exception("chat.start.failed", completion_id=run.completion_id)
            return
        sink = self._sinks.get(run.generation.origin.kind)
        for attempt in range(1, _SETTLE_ATTEMPTS + 1):
            try:
                if sink is not None:
                    await sink.finished(run.generation, run.outcome(settlement))
                await self._ledger.settle(run.generation, settlement)
            except Exception:
                if attempt == _SETTLE_ATTEMPTS:
                    # The row stays open, and the look for abandoned completions closes it.
                    log.exception("chat.settlement.failed", completion_id=run.completion_id)
                    return
                await asyncio.sleep(_SETTLE_PAUSE * attempt)
            else:
                return


def _prompt_tokens(body: Mapping[str, Any], model: ProviderModel) -> int:
    tokens = request_tokens(body)
    return min(tokens, model.context_tokens) if model.context_tokens > 0 else tokens
