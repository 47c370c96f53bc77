"""Counters shared by all replicas, in Redis or Valkey: one script, one round trip, the server's clock."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from wireroom_gateway.limits.connection import PipelinedConnection, packed
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
# Commands do not change from request to request of a caller.
_MAX_COMMANDS = 4_096


class RedisCounterStore:
    """Raises what the client raises when the server does not answer: what then happens is decided by the caller.

    It has a connection of its own, made like those of `client`, until `close`.
    """

    # The server's clock, for all replicas the same; microseconds.
    CLOCK: ClassVar[str] = "local t = redis.call('TIME')\nlocal now = t[1] * 1000000 + t[2]\n"

    def __init__(self, client: Redis, *, timeout: float = 1.0) -> None:
        self._connection = PipelinedConnection(client.connection_pool, timeout=timeout)
        source = self.CLOCK + _SCRIPT
        # How Redis names a script.
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._load = packed("SCRIPT", "LOAD", source)
        self._loading: asyncio.Future[Any] | None = None
        self._commands: dict[tuple[tuple[Counter, ...], Violations | None], bytes] = {}

    async def close(self) -> None:
        """Cut the connection."""
        self._connection.close()

    async def take(self, counters: Sequence[Counter], violations: Violations | None = None) -> Verdict:
        """As the port says."""
        counted = tuple(counters)
        command = self._commands.get((counted, violations))
        if command is None:
            command = self._command(counted, violations)
        answer = await self._connection.send(command)
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            # A new server, or one whose scripts were flushed. What was refused so has charged nothing.
            self._send_script()
            answer = await self._connection.send(command)
        if isinstance(answer, hiredis.ReplyError):
            raise ResponseError(str(answer))
        return _verdict(counted, answer)

    def _send_script(self) -> None:
        """Commands are carried out in order: what is sent after it will find it."""
        if self._loading is None or self._loading.done():
            self._loading = self._connection.send(self._load)
            # If it fails, the command behind it tells.
            self._loading.add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    def _command(self, counters: tuple[Counter, ...], violations: Violations | None) -> bytes:
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
        command = packed("EVALSHA", self._digest, len(keys), *keys, *arguments)
        if len(self._commands) >= _MAX_COMMANDS:
            del self._commands[next(iter(self._commands))]
        self._commands[counters, violations] = command
        return command


def _verdict(counters: Sequence[Counter], answer: Sequence[int]) -> Verdict:
    states = []
    allowed = True
    position = 1
    for counter in counters:
        limit = counter.limit
        passed = answer[position] == 1
        if not passed and not limit.shadow:
            allowed = False
        left = limit.quota - answer[position + 1]
        states.append(CounterState(counter, passed, max(0, left), answer[position + 2] / MICROSECONDS))
        position += 3
    return Verdict(allowed, states, answer[0])
