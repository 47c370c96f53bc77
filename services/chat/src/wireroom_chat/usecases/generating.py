"""One answer from several candidates: retry, fallback, and going on where another one broke off.

`Generator` is the only caller of providers for answers. Before the first token every failure that lies with a provider leads to the next
candidate, at the end to a second try after a pause. After it the answer is continued by the next candidate, where its pieces can be
joined at all (`domain.continuation`); the caller sees one stream with one end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from wireroom_chat.domain.continuation import Seam, can_continue, continuation_body
from wireroom_chat.domain.providers import Candidate, Strategy
from wireroom_chat.domain.routing import NotCalledError, ProviderError
from wireroom_chat.domain.source_terms import SourceTerms, not_allowed
from wireroom_chat.domain.token_estimate import answer_texts, answer_tokens, text_tokens
from wireroom_chat.ports.providers import LeftBeforeCallError, ProviderDirectory, ProviderHealth, Writer
from wireroom_chat.usecases.run import Attempt, BudgetSpent, Run
from wireroom_common.errors import ErrorKind, WireroomError

# Failures that lie with a provider: another one may do better.
_MOVE_ON = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED})
# What one provider's wire cannot say another one's may.
_UNSUPPORTED = "provider_unsupported"
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
# So long it takes until the replicas agree on who tries a provider that may work again, and until it has answered.
_SHORTLY = 1.0


@dataclass(frozen=True)
class Plan:
    """Who may answer, in which order, and whether others than the first may."""

    candidates: tuple[Candidate, ...]
    strategy: Strategy = Strategy.ORDERED
    fallback: bool = True

    def reading(self, terms: SourceTerms) -> Plan:
        """Of those who may receive texts under these terms; FORBIDDEN `collection_provider_not_allowed` when nobody may.

        Who may not is neither first choice nor fallback, and continues nothing.
        """
        allowed = tuple(candidate for candidate in self.candidates if terms.allow(candidate.model))
        if self.candidates and not allowed:
            raise not_allowed()
        return replace(self, candidates=allowed)


@dataclass(frozen=True)
class RetryPolicy:
    """`rounds`: how often the list of candidates is gone through; `attempts`: calls over all rounds."""

    rounds: int = 2
    attempts: int = 6


class Generator:
    """The candidates' answers as one."""

    def __init__(
        self,
        directory: ProviderDirectory,
        health: ProviderHealth,
        policy: RetryPolicy | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._directory = directory
        self._health = health
        self._policy = policy or RetryPolicy()
        self._jitter = jitter

    def bound(self, plan: Plan, run: Run, written: str = "") -> BoundGenerator:
        """A provider that is all candidates of the plan, booked on the run; its streams go on after `written`."""
        return BoundGenerator(self, plan, run, written)

    async def complete(self, plan: Plan, body: Mapping[str, Any], run: Run) -> dict[str, Any]:
        """The whole chat completion object of the candidate that answered."""
        turn = _Turn(self._policy, self._health, plan, self._jitter)
        while True:
            candidate = await turn.next()
            attempt = await run.begin(candidate, body)
            self._health.began(candidate)
            try:
                answer = await self._directory.provider(candidate).complete(
                    {**run.limited(body, candidate), "model": candidate.model.name}
                )
            except asyncio.CancelledError as left:
                # It was asked for an answer and will bill the prompt at least.
                attempt.begun, attempt.status = not isinstance(left, LeftBeforeCallError), "cancelled"
                self._health.released(candidate, alive=False)
                raise
            except WireroomError as error:
                self._note_failure(attempt, error)
                turn.failed(candidate, error)
                continue
            now = run.clock.monotonic()
            attempt.begun, attempt.status, attempt.first_token_after = True, "completed", now - attempt.began
            attempt.usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else None
            attempt.counted_out = sum(answer_tokens(choice["message"]) for choice in answer["choices"])
            run.first_token()
            self._note_success(run, attempt)
            return answer

    async def stream(
        self, plan: Plan, body: Mapping[str, Any], run: Run, written: str = ""
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks with `choices`; none of them carries usage, which `run.usage()` tells at the end.

        `written`: the answer so far, when another process has begun it.
        """
        async with aclosing(self.batches(plan, body, run, written)) as batches:
            async for batch in batches:
                for chunk in batch:
                    yield chunk

    async def batches(
        self, plan: Plan, body: Mapping[str, Any], run: Run, written: str = ""
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The chunks of `stream`, those together that are there at the same moment."""
        turn = _Turn(self._policy, self._health, plan, self._jitter)
        answer = _Answer(written, joinable=can_continue(body) and plan.fallback)
        while True:
            candidate = await turn.next()
            asked = answer.asked(body, candidate)
            try:
                attempt = await run.begin(candidate, asked, going_on=answer.started)
            except BudgetSpent:
                yield [_made({}, "length")]
                return
            self._health.began(candidate)
            try:
                async with aclosing(
                    self._attempt(candidate, run.limited(asked, candidate), run, attempt, answer.seam(candidate))
                ) as batches:
                    async for batch in batches:
                        if taken := [chunk for chunk, text in batch if answer.takes(chunk, text)]:
                            yield taken
            except BudgetSpent:
                self._health.released(candidate, alive=attempt.begun)
                yield [_made({}, "length")]
                return
            except (asyncio.CancelledError, GeneratorExit) as left:
                self._health.released(candidate, alive=attempt.begun)
                attempt.begun, attempt.status = not isinstance(left, LeftBeforeCallError), "cancelled"
                raise
            except WireroomError as error:
                self._note_failure(attempt, error)
                if answer.started and not answer.joinable:
                    raise
                turn.failed(candidate, error)
            else:
                attempt.status = "completed"
                self._note_success(run, attempt)
                return

    async def _attempt(
        self, candidate: Candidate, body: Mapping[str, Any], run: Run, attempt: Attempt, seam: Seam
    ) -> AsyncGenerator[list[tuple[dict[str, Any], str]], None]:
        """One candidate's chunks, cleaned of usage and of what repeats the text before, each with its text."""
        request = {
            **body,
            "model": candidate.model.name,
            "stream": True,
            "stream_options": {**(body.get("stream_options") or {}), "include_usage": True},
        }
        async with aclosing(self._directory.provider(candidate).batches(request)) as batches:
            async for batch in batches:
                if not attempt.begun:
                    attempt.begun = True
                    attempt.first_token_after = run.clock.monotonic() - attempt.began
                ready: list[tuple[dict[str, Any], str]] = []
                for chunk in batch:
                    usage = chunk.pop("usage", None)
                    if isinstance(usage, dict):
                        attempt.usage = usage
                    if not chunk["choices"]:
                        continue
                    run.first_token()
                    if not _counted(chunk, run, attempt):
                        if ready:
                            # What is paid for does not wait until more is.
                            yield ready
                            ready = []
                        await run.extend(attempt)
                    ready += _joined(chunk, seam)
                if ready:
                    yield ready
            # A provider may end without a word after the text that was held back.
            if held := seam.rest():
                yield [(_made({"content": held}, None), held)]

    def _note_failure(self, attempt: Attempt, error: WireroomError) -> None:
        attempt.status, attempt.error_code = "failed", error.code
        if isinstance(error, NotCalledError):
            self._health.released(attempt.candidate, alive=False)
            return
        if error.kind not in _MOVE_ON:
            # What it refuses it has read.
            self._health.released(attempt.candidate, alive=isinstance(error, ProviderError))
            if error.code == _UNSUPPORTED:
                return
            raise error
        if error.kind is ErrorKind.DEADLINE:
            # It was working on the answer: counted as billed, because nothing says that it is not.
            attempt.begun = True
        self._health.failed(attempt.candidate, error)

    def _note_success(self, run: Run, attempt: Attempt) -> None:
        self._health.succeeded(
            attempt.candidate,
            first_token_seconds=max(0.0, attempt.first_token_after),
            tokens_out=attempt.tokens()[1],
            seconds=run.clock.monotonic() - attempt.began,
        )


class _Answer:
    """What has been sent of a streamed answer. `started`: it holds something that cannot be taken back."""

    def __init__(self, written: str, *, joinable: bool) -> None:
        self.joinable = joinable
        self.started = self._opened = bool(written)
        self._parts = [written] if written else []

    def asked(self, body: Mapping[str, Any], candidate: Candidate) -> Mapping[str, Any]:
        """The request for all of the answer, or for the rest of it."""
        written = "".join(self._parts)
        if not written:
            return body
        self._parts = [written]
        return continuation_body(body, written, text_tokens(written), prefill=candidate.model.prefill)

    def seam(self, candidate: Candidate) -> Seam:
        """Where the candidate's text is joined on."""
        return Seam("" if candidate.model.prefill else "".join(self._parts))

    def takes(self, chunk: Mapping[str, Any], text: str) -> bool:
        """Note a chunk; False for one that says again what has been said."""
        opening = not text and _is_opening(chunk)
        if opening and self._opened:
            return False
        self._opened = True
        self.started = self.started or not opening
        if text:
            self._parts.append(text)
        return True


class BoundGenerator(Writer):
    """The generator as one provider: for use cases that need no more than an answer."""

    def __init__(self, generator: Generator, plan: Plan, run: Run, written: str) -> None:
        self._generator = generator
        self._plan = plan
        self._run = run
        self._written = written

    def reading(self, terms: SourceTerms) -> BoundGenerator:
        plan = self._plan.reading(terms)
        self._run.terms = SourceTerms.union((self._run.terms, terms))
        return BoundGenerator(self._generator, plan, self._run, self._written)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._generator.complete(self._plan, body, self._run)

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        return self._generator.stream(self._plan, body, self._run, self._written)

    def batches(self, body: Mapping[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        return self._generator.batches(self._plan, body, self._run, self._written)


class _Turn:
    """Whose turn it is."""

    def __init__(self, policy: RetryPolicy, health: ProviderHealth, plan: Plan, jitter: Callable[[], float]) -> None:
        self._policy = policy
        self._health = health
        self._plan = plan
        self._jitter = jitter
        # Candidates that cannot be asked for this at all.
        self._unfit: list[Candidate] = []
        self._waiting = self._ordered()
        self._round = 1
        self._attempts = 0
        self._error: WireroomError | None = None

    async def next(self) -> Candidate:
        """The next candidate that may be called; the last failure when there is none left."""
        while True:
            while self._waiting and self._attempts < self._policy.attempts:
                candidate = self._waiting.pop(0)
                if not self._health.blocked_for(candidate):
                    self._attempts += 1
                    return candidate
            if self._round >= self._policy.rounds or self._attempts >= self._policy.attempts or not await self._pause():
                raise self._error or self._all_blocked()
            self._round += 1
            self._waiting = self._ordered()

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        """The candidate did not bring the answer."""
        if error.code != _UNSUPPORTED:
            self._error = error
            return
        self._unfit.append(candidate)
        # Where others could have answered, their failure is what happened.
        self._error = self._error or error

    def _ordered(self) -> list[Candidate]:
        candidates = self._health.order(self._plan.candidates, self._plan.strategy)
        chosen = candidates if self._plan.fallback else candidates[:1]
        return [candidate for candidate in chosen if candidate not in self._unfit]

    async def _pause(self) -> bool:
        """Wait before the next round, unless that would take too long, or nobody was called and nobody gets free shortly."""
        candidates = self._ordered()
        if not candidates:
            return False
        blocked = min(self._health.blocked_for(candidate) for candidate in candidates)
        if self._error is None and not 0 < blocked <= _SHORTLY:
            return False
        seconds = max(_FIRST_PAUSE * 2 ** (self._round - 1), blocked, self._wanted_pause())
        if seconds > _LONGEST_PAUSE:
            return False
        # Half of it is fixed, half by chance: callers that failed together do not come back together.
        await asyncio.sleep(max(seconds / 2 * (1 + self._jitter()), blocked))
        return True

    def _wanted_pause(self) -> float:
        error = self._error
        return error.retry_after or 0.0 if error is not None and error.kind is ErrorKind.RATE_LIMITED else 0.0

    def _all_blocked(self) -> WireroomError:
        seconds = min((self._health.blocked_for(candidate) for candidate in self._plan.candidates), default=0.0)
        return WireroomError(
            ErrorKind.UNAVAILABLE,
            "providers_unavailable",
            "No provider of this model can be called at the moment: their last calls failed. Try again later.",
            retry_after=max(1.0, seconds),
        )


def _counted(chunk: Mapping[str, Any], run: Run, attempt: Attempt) -> bool:
    """Count the text of a chunk; False when the answer may not grow by it yet."""
    covered = True
    for choice in chunk["choices"]:
        for text in answer_texts(choice["delta"]):
            covered = run.count(attempt, text) and covered
    return covered


def _joined(chunk: dict[str, Any], seam: Seam) -> list[tuple[dict[str, Any], str]]:
    """The chunk with only what is new, and its text; before the last one what the seam has held back."""
    text, ended = "", False
    for choice in chunk["choices"]:
        ended = ended or bool(choice.get("finish_reason"))
        content = choice["delta"].get("content")
        if content and isinstance(content, str):
            if not seam.closed:
                content = choice["delta"]["content"] = seam.feed(content)
            text += content
    if ended and (held := seam.rest()):
        return [(_made({"content": held}, None), held), (chunk, text)]
    return [(chunk, text)]


def _is_opening(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk only says who speaks, or nothing: in a continuation that has been said."""
    return all(
        choice.get("finish_reason") is None and not any(value for key, value in choice["delta"].items() if key != "role")
        for choice in chunk["choices"]
    )


def _made(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """A chunk of our own; the names stand first, as in everybody's chunks."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {"id": "", "object": "", "created": 0, "model": "", "choices": [choice]}
