"""Counters shared by all replicas, in Redis or Valkey: one script, one round trip, the server's clock."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from wireroom_gateway.limits.sliding import MICROSECONDS, slot_length
from wireroom_gateway.limits.store import Counter, CounterState, Verdict

# Per counter: KEYS[i]; ARGV[3i-2 .. 3i] = quota, window and slot in microseconds. A counter is one list, oldest first: of times when
# the slot is 1, else of "time:requests", one for each slot. It holds at most as many entries as the quota, or 62, and expires.
# Answers per counter: passed (0 or 1), requests counted after the call, microseconds until the oldest one leaves.
_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local allowed = true
local counts, oldest, passed = {}, {}, {}
for i, log in ipairs(KEYS) do
  local quota, window, slot = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local head = redis.call('LINDEX', log, 0)
  while head do
    local at = tonumber(string.match(head, '^%d+'))
    if at > now - window then
      oldest[i] = at
      break
    end
    redis.call('LPOP', log)
    head = redis.call('LINDEX', log, 0)
  end
  local count = 0
  if slot == 1 then
    count = redis.call('LLEN', log)
  else
    for _, entry in ipairs(redis.call('LRANGE', log, 0, -1)) do
      count = count + tonumber(string.match(entry, '%d+$'))
    end
  end
  counts[i] = count
  passed[i] = count < quota and 1 or 0
  allowed = allowed and count < quota
end
local answer = {}
for i, log in ipairs(KEYS) do
  local window, slot = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  if allowed then
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
  answer[3 * i - 2] = passed[i]
  answer[3 * i - 1] = counts[i]
  answer[3 * i] = oldest[i] and (oldest[i] + window - now) or 0
end
return answer
"""


class RedisCounterStore:
    """Raises what the client raises when the server does not answer: what then happens is decided by the caller."""

    def __init__(self, client: Redis) -> None:
        self._script = client.register_script(_SCRIPT)

    async def take(self, counters: Sequence[Counter]) -> Verdict:
        keys: list[str] = []
        arguments: list[int] = []
        for counter in counters:
            window = counter.limit.window * MICROSECONDS
            slot = slot_length(counter.limit.quota, window)
            # One hash tag for all: a script runs on one primary. The kind is part of the name, so that a changed quota finds no other kind.
            keys.append(f"{{rl}}:{'log' if slot == 1 else 'slots'}:{counter.key}")
            arguments += (counter.limit.quota, window, slot)
        answer: list[int] = await self._script(keys=keys, args=arguments)
        states = [
            CounterState(
                counter,
                passed=bool(answer[3 * index]),
                remaining=max(0, counter.limit.quota - answer[3 * index + 1]),
                reset=answer[3 * index + 2] / MICROSECONDS,
            )
            for index, counter in enumerate(counters)
        ]
        return Verdict(all(state.passed for state in states), states)
