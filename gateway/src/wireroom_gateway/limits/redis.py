"""Counters shared by all replicas, in Redis or Valkey: one script, one round trip, the server's clock."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from wireroom_gateway.limits.sliding import MICROSECONDS, slot_length
from wireroom_gateway.limits.store import Counter, CounterState, Verdict, Violations

# KEYS: one per counter, then the log of violations if there is one.
# ARGV: number of counters; threshold (0: none) and window in microseconds of violations; then per counter quota, window and slot in
# microseconds, and flags: 1 shadow, 2 a refusal is a violation. A counter is one list, oldest first: of times when the slot is 1, else
# of "time:requests", one for each slot. It holds at most as many entries as the quota, or 62, and expires.
# Answers: violations; then per counter: passed (0 or 1), requests counted after the call, microseconds until the oldest one leaves.
_SCRIPT = """
local n, threshold, grace = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function oldest_within(log, since)
  local head = redis.call('LINDEX', log, 0)
  while head do
    local at = tonumber(string.match(head, '^%d+'))
    if at > since then
      return at
    end
    redis.call('LPOP', log)
    head = redis.call('LINDEX', log, 0)
  end
end
local allowed, violation = true, false
local counts, oldest, passed = {}, {}, {}
for i = 1, n do
  local log = KEYS[i]
  local quota, window = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local slot, flags = tonumber(ARGV[4 * i + 2]), tonumber(ARGV[4 * i + 3])
  oldest[i] = oldest_within(log, now - window)
  local count = 0
  if slot == 1 then
    count = redis.call('LLEN', log)
  else
    for _, entry in ipairs(redis.call('LRANGE', log, 0, -1)) do
      count = count + tonumber(string.match(entry, '%d+$'))
    end
  end
  counts[i] = count
  passed[i] = count < quota
  if not passed[i] and flags % 2 == 0 then
    allowed = false
    violation = violation or flags >= 2
  end
end
local answer = {0}
for i = 1, n do
  local log, window, slot = KEYS[i], tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2])
  if allowed and passed[i] then
    local at = math.ceil(now / slot) * slot
    if slot == 1 then
      redis.call('RPUSH', log, string.format('%.0f', at))
    else
      local last, c = string.match(redis.call('LINDEX', log, -1) or '', '^(%d+):(%d+)$')
      if last and tonumber(last) >= at then
        redis.call('LSET', log, -1, last .. ':' .. string.format('%d', tonumber(c) + 1))
      else
        redis.call('RPUSH', log, string.format('%.0f:1', at))
      end
    end
    counts[i] = counts[i] + 1
    oldest[i] = oldest[i] or at
    redis.call('PEXPIRE', log, math.ceil((window + slot) / 1000) + 1)
  end
  answer[3 * i - 1] = passed[i] and 1 or 0
  answer[3 * i] = counts[i]
  answer[3 * i + 1] = oldest[i] and (oldest[i] + window - now) or 0
end
if violation and threshold > 0 then
  local log = KEYS[n + 1]
  oldest_within(log, now - grace)
  redis.call('RPUSH', log, string.format('%.0f', now))
  answer[1] = redis.call('LLEN', log)
  if answer[1] >= threshold then
    redis.call('DEL', log)
  else
    redis.call('PEXPIRE', log, math.ceil(grace / 1000) + 1)
  end
end
return answer
"""

_SHADOW, _OWN = 1, 2
# Requests that wait are sent together, so that a burst costs few round trips and no more connections.
_BATCH = 128
_BATCHES = 2


@dataclass(frozen=True)
class _Waiting:
    counters: Sequence[Counter]
    keys: list[str]
    arguments: list[int]
    answer: asyncio.Future[Verdict]


class RedisCounterStore:
    """Raises what the client raises, or TimeoutError, when the server does not answer: what then happens is decided by the caller."""

    # The server's clock, for all replicas the same; microseconds.
    CLOCK: ClassVar[str] = "local t = redis.call('TIME')\nlocal now = t[1] * 1000000 + t[2]\n"

    def __init__(self, client: Redis, *, timeout: float = 1.0) -> None:
        self._client = client
        self._timeout = timeout
        self._source = self.CLOCK + _SCRIPT
        # How Redis names a script.
        self._digest = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()
        self._waiting: deque[_Waiting] = deque()
        self._sending = 0
        # The event loop itself holds tasks weakly.
        self._senders: set[asyncio.Task[None]] = set()

    async def take(self, counters: Sequence[Counter], violations: Violations | None = None) -> Verdict:
        """As the port says."""
        keys: list[str] = []
        arguments = [
            len(counters),
            violations.threshold if violations else 0,
            violations.window * MICROSECONDS if violations else 0,
        ]
        for counter in counters:
            limit = counter.limit
            window = limit.window * MICROSECONDS
            slot = slot_length(limit.quota, window)
            # One hash tag for all: a script runs on one primary. The kind is part of the name, so that a changed quota finds no other kind.
            keys.append(f"{{rl}}:{'log' if slot == 1 else 'slots'}:{counter.key}")
            arguments += (limit.quota, window, slot, _SHADOW * limit.shadow + _OWN * counter.own)
        if violations:
            keys.append(f"{{rl}}:violations:{violations.key}")
        waiting = _Waiting(counters, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sending < _BATCHES:
            self._sending += 1
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await waiting.answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                # Who has gone away is not charged.
                batch = [waiting for waiting in taken if not waiting.answer.done()]
                if batch:
                    await self._settle(batch)
        finally:
            # Here and not when the task is done: by then others could have counted on it.
            self._sending -= 1

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        answers: Sequence[Any] = []
        error: BaseException = ConnectionError("The counter store gave no answer.")
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._ask(batch)
        except Exception as failure:  # noqa: BLE001 - each caller gets it; of a task that failed there would only be a log line
            error = failure
        finally:
            for index, waiting in enumerate(batch):
                answer = answers[index] if index < len(answers) else error
                if waiting.answer.done():
                    continue
                if isinstance(answer, BaseException):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(_verdict(waiting.counters, answer))

    async def _ask(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        answers = await self._execute(batch)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # A new server, or one whose scripts were flushed. What was refused so has charged nothing.
            await self._client.script_load(self._source)
            again = await self._execute([batch[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        return answers

    async def _execute(self, batch: Sequence[_Waiting]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for waiting in batch:
                pipeline.execute_command("EVALSHA", self._digest, len(waiting.keys), *waiting.keys, *waiting.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers


def _verdict(counters: Sequence[Counter], answer: Sequence[int]) -> Verdict:
    states = [
        CounterState(
            counter,
            passed=bool(answer[3 * index + 1]),
            remaining=max(0, counter.limit.quota - answer[3 * index + 2]),
            reset=answer[3 * index + 3] / MICROSECONDS,
        )
        for index, counter in enumerate(counters)
    ]
    return Verdict(all(state.passed or state.counter.limit.shadow for state in states), states, answer[0])
