"""Turns of chat sessions: keep the question, answer it from what was said before, keep the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
import structlog

from wireroom_chat.domain.assistants import is_assistant, parse_model
from wireroom_chat.domain.followup import search_query
from wireroom_chat.domain.frames import Frame, Info
from wireroom_chat.domain.history import HistoryLimits, conversation, exchanges, newest_within, summary_prompt, to_summarise
from wireroom_chat.domain.request import ChatRequest, parse_request
from wireroom_chat.domain.sessions import DEFAULT_MODEL, Message, Session, SessionDraft, checked_message, checked_name, title_of
from wireroom_chat.domain.terms import Terms, count_tokens
from wireroom_chat.ports.generations import Generation, Origin, Outcome
from wireroom_chat.ports.providers import ProviderDirectory
from wireroom_chat.ports.sessions import (
    FinishedAnswer,
    Persona,
    Personas,
    Reader,
    SessionStore,
    Turn,
    TurnStart,
    TurnStore,
)
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal

PERMISSION = "chat:use"
ORIGIN = "session"
SUMMARY_ORIGIN = "session_summary"

log = structlog.get_logger()


class HistoryPolicy(StrEnum):
    """What becomes of what was said too long ago to be told again."""

    TRUNCATE = "truncate"
    SUMMARISE = "summarise"


@dataclass(frozen=True)
class ConversationLimits:
    """`lease`: seconds after which a turn whose process is gone blocks its session no more."""

    message_characters: int
    history: HistoryLimits
    policy: HistoryPolicy
    summary_model: str
    lease: float
    grace: float


@dataclass(frozen=True)
class Asked:
    """What a caller says. Empty members: the session's own."""

    message: str
    session_id: UUID | None
    grounding: Mapping[str, Any] | None
    model: str


@dataclass(frozen=True)
class TurnIds:
    """What a turn is known by."""

    session_id: UUID
    user_message_id: UUID
    message_id: UUID


class RunningTurns:
    """The turns that this process answers; `renew` keeps their leases while it lives."""

    def __init__(self, turns: TurnStore, clock: Clock, lease: float, longest: float) -> None:
        self._turns = turns
        self._clock = clock
        self._lease = lease
        self._longest = longest
        self._running: dict[UUID, tuple[UUID, float]] = {}

    def until(self) -> datetime:
        """The end of a lease that begins now."""
        return self._clock.now() + timedelta(seconds=self._lease)

    def add(self, message_id: UUID, tenant_id: UUID) -> None:
        """A turn began."""
        self._running[message_id] = (tenant_id, self._clock.monotonic())

    def remove(self, message_id: UUID) -> None:
        """A turn ended."""
        self._running.pop(message_id, None)

    async def renew(self) -> None:
        """Prolong the leases, then give up the turns of processes that are gone."""
        oldest = self._clock.monotonic() - self._longest
        self._running = {key: entry for key, entry in self._running.items() if entry[1] > oldest}
        if self._running:
            await self._turns.renew({key: tenant_id for key, (tenant_id, _) in self._running.items()}, self.until())
        await self._turns.expire(self._clock.now())


class SessionAnswers:
    """The sink of answers in sessions."""

    def __init__(self, turns: TurnStore, running: RunningTurns, clock: Clock) -> None:
        self._turns = turns
        self._running = running
        self._clock = clock

    async def finished(self, generation: Generation, outcome: Outcome) -> None:
        """Complete the answer; repeated calls change nothing."""
        message_id = UUID(generation.origin.id)
        answer = FinishedAnswer(
            completion_id=generation.completion_id,
            status=outcome.status,
            content=outcome.text,
            annotations=outcome.annotations,
            finish_reason=outcome.finish_reason,
            error_code=outcome.error_code,
            answer_mode=outcome.answer_mode if outcome.status == "completed" else "",
            tokens_in=outcome.tokens_in,
            tokens_out=outcome.tokens_out,
            terms=outcome.terms,
        )
        await self._turns.finish(generation.tenant_id, message_id, answer, self._clock.now())
        self._running.remove(message_id)


class Conversations:
    """`ChatService`: one turn of a session."""

    def __init__(
        self,
        *,
        completing: CompleteChat,
        directory: ProviderDirectory,
        sessions: SessionStore,
        turns: TurnStore,
        running: RunningTurns,
        personas: Personas,
        terms: Terms,
        clock: Clock,
        limits: ConversationLimits,
    ) -> None:
        self._completing = completing
        self._directory = directory
        self._sessions = sessions
        self._turns = turns
        self._running = running
        self._personas = personas
        self._terms = terms
        self._clock = clock
        self._limits = limits

    async def send(self, principal: Principal, asked: Asked) -> tuple[TurnIds, bytes, Info]:
        """Answer as a whole."""
        turn, persona, grounding = await self._begin(principal, asked)
        try:
            request = await self._request(principal, turn, persona, grounding, asked, stream=False)
            body, info = await self._completing.answer(principal, request, Origin(ORIGIN, str(turn.message_id)))
        except BaseException as error:
            await self._given_up(principal, turn, error)
            raise
        return _ids(turn), body, info

    async def stream(self, principal: Principal, asked: Asked) -> AsyncGenerator[TurnIds | Frame, None]:
        """The ids, then the frames. The answer lives on for the grace when the caller is gone."""
        turn, persona, grounding = await self._begin(principal, asked)
        begun = started = False
        try:
            request = await self._request(principal, turn, persona, grounding, asked, stream=True)
            started = True
            frames = self._completing.answer_stream(
                principal, request, Origin(ORIGIN, str(turn.message_id)), grace=self._limits.grace
            )
            async with aclosing(frames):
                async for frame in frames:
                    if not begun:
                        begun = True
                        yield _ids(turn)
                    yield frame
        except BaseException as error:
            # After the first frame, and for a caller who only left, the generation tells its sink how it ended.
            if not started or (not begun and isinstance(error, Exception)):
                await self._given_up(principal, turn, error)
            raise

    async def _begin(self, principal: Principal, asked: Asked) -> tuple[Turn, Persona | None, Mapping[str, Any] | None]:
        """Check everything that can be checked before anything is kept, then keep the question."""
        principal.require(PERMISSION)
        tenant_id, user_id = principal.tenant(), principal.user_id()
        message = checked_message(asked.message, self._limits.message_characters)
        model = checked_name(asked.model, "model")
        session: Session | None = None
        if asked.session_id is not None:
            session = await self._sessions.get(Reader(tenant_id, user_id, tenant_wide=False), asked.session_id)
        persona = None
        if session is not None and session.assistant:
            persona = await self._personas.persona(tenant_id, session.assistant, session.id)
        if persona is not None and is_assistant(persona.model):
            # Its policy holds for the whole session, whatever model a question names.
            model = persona.model
        chosen = model or (persona.model if persona else "") or (session.model if session else "") or DEFAULT_MODEL
        grounding = asked.grounding
        if grounding is None and session is not None:
            grounding = session.grounding
        if grounding is None and persona is not None:
            grounding = persona.grounding
        await self._check_model(tenant_id, chosen, grounding)
        turn = await self._turns.begin(
            TurnStart(
                tenant_id=tenant_id,
                owner_id=user_id,
                session_id=asked.session_id,
                draft=SessionDraft(title_of(message), chosen, "", asked.grounding),
                title=title_of(message),
                message=message,
                tokens=count_tokens(message),
                model=chosen,
                until=self._running.until(),
                now=self._clock.now(),
            )
        )
        self._running.add(turn.message_id, tenant_id)
        return turn, persona, grounding

    async def _check_model(self, tenant_id: UUID, model: str, grounding: Mapping[str, Any] | None) -> None:
        request = _parsed(model, [{"role": "user", "content": "?"}], grounding, stream=False)
        if is_assistant(model):
            await self._personas.persona(tenant_id, parse_model(model)[0], None)
        else:
            self._directory.catalogue().route(request.model, request.grounding, tenant_id)

    async def _request(
        self,
        principal: Principal,
        turn: Turn,
        persona: Persona | None,
        grounding: Mapping[str, Any] | None,
        asked: Asked,
        *,
        stream: bool,
    ) -> ChatRequest:
        message = checked_message(asked.message, self._limits.message_characters)
        said = exchanges(turn.history)
        earlier = [entry.content for entry in said if entry.role == "user"]
        summary, told = await self._remembered(principal, turn, said)
        request = _parsed(
            turn.model, conversation(persona.instructions if persona else "", summary, told, message), grounding, stream=stream
        )
        search = search_query(message, earlier, self._terms)
        return replace(request, search="" if search == message else search, terms=turn.terms)

    async def _remembered(self, principal: Principal, turn: Turn, said: list[Message]) -> tuple[str, list[Message]]:
        """The summary and the messages that go with the question."""
        limits = self._limits.history
        if self._limits.policy is HistoryPolicy.SUMMARISE:
            old = to_summarise(said, limits)
            summary = await self._summarised(principal, turn, old) if old else turn.summary
            if summary is not None:
                return summary, newest_within(said[len(old) :], limits)
        return turn.summary, newest_within(said, limits)

    async def _summarised(self, principal: Principal, turn: Turn, old: list[Message]) -> str | None:
        """None when nobody can write one: then what is old is left out, and the next turn tries again."""
        model = self._limits.summary_model or self._default_generator(principal.tenant())
        if not model:
            return None
        request = replace(_parsed(model, summary_prompt(turn.summary, old), None, stream=False), fallback=True, terms=turn.terms)
        try:
            body, _ = await self._completing.answer(principal, request, Origin(SUMMARY_ORIGIN, str(turn.session.id)))
            summary = str(orjson.loads(body)["choices"][0]["message"].get("content") or "").strip()
            if not summary:
                return None
            await self._turns.keep_summary(principal.tenant(), turn.session.id, summary, old[-1].number)
        except WireroomError as error:
            log.warning("chat.summary.failed", session_id=str(turn.session.id), error_code=error.code)
            return None
        return summary

    def _default_generator(self, tenant_id: UUID) -> str:
        candidates = self._directory.catalogue().route(DEFAULT_MODEL, None, tenant_id).candidates
        return candidates[0].model.id if candidates else ""

    async def _given_up(self, principal: Principal, turn: Turn, error: BaseException) -> None:
        """Free the session of a turn that no generation has ended; one that has is left as it is."""
        status = "failed" if isinstance(error, Exception) else "cancelled"
        code = error.code if isinstance(error, WireroomError) else ("internal" if status == "failed" else "")
        answer = FinishedAnswer("", status, "", (), "", code, "", 0, 0)
        closing = asyncio.ensure_future(self._turns.finish(principal.tenant(), turn.message_id, answer, self._clock.now()))
        try:
            await asyncio.shield(closing)
        except Exception:
            # The lease runs out instead.
            log.exception("chat.turn.not_closed", session_id=str(turn.session.id))
        finally:
            self._running.remove(turn.message_id)


def _ids(turn: Turn) -> TurnIds:
    return TurnIds(turn.session.id, turn.user_message_id, turn.message_id)


def _parsed(model: str, messages: list[dict[str, str]], grounding: Mapping[str, Any] | None, *, stream: bool) -> ChatRequest:
    body: dict[str, Any] = {"model": model, "messages": messages}
    if grounding is not None:
        body["grounding"] = grounding
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return parse_request(orjson.dumps(body), stream=stream)
