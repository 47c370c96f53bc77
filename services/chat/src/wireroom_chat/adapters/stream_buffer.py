"""Frames of streams in Redis or Valkey.

For each stream a Redis stream of sealed batches of frames (the id of an entry is the number of its last frame), and a hash with its owner:
user, replica, fencing token, sealed record. A replica that lives renews its lease; a stream whose replica's lease is gone may be claimed,
which raises the token, so that its former owner can write no more. Everything expires.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from wireroom_chat.adapters.sealing import Seal
from wireroom_chat.adapters.stream_doorbell import Doorbell, Entry
from wireroom_chat.domain.frame_codec import pack, unpack
from wireroom_chat.domain.frames import End, Frame
from wireroom_chat.ports.generations import Generation, Origin
from wireroom_chat.ports.streams import BufferedStream, ClaimedStream, StreamBufferError, StreamRecord, StreamState, Written
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind

_PREFIX = "wireroom:chat:stream"
_REPLICAS = f"{_PREFIX}s:replicas"
_READ_ENTRIES = 100
_BATCH = 64
_MAX_ENTRIES = 10_000
_MAX_CANCELS = 1000
_PURPOSE = "wireroom/chat/streams/v1"

# KEYS: per stream its entries and its hash, then the set of this replica's streams and its lease.
# ARGV: lifetime in milliseconds, replica, lease in milliseconds;
# per stream: name, token, id, oldest id to keep, entry, "1" at its end, user, record ("": it is known).
# Answers per stream: 1 written, 0 it has another owner, -1 it is not known.
_APPEND = """
local ttl, replica, answer = ARGV[1], ARGV[2], {}
local mine = KEYS[#KEYS - 1]
-- Who writes lives.
redis.call('SET', KEYS[#KEYS], '1', 'NX', 'PX', ARGV[3])
for i = 1, (#KEYS - 2) / 2 do
  local entries, hash, b = KEYS[2 * i - 1], KEYS[2 * i], 8 * (i - 1) + 3
  local token = redis.call('HGET', hash, 'token')
  if not token and ARGV[b + 8] ~= '' then
    token = ARGV[b + 2]
    redis.call('HSET', hash, 'token', token, 'replica', replica, 'user', ARGV[b + 7], 'record', ARGV[b + 8])
    redis.call('SADD', mine, ARGV[b + 1])
    redis.call('PEXPIRE', mine, math.max(ttl, 3600000))
  end
  if not token then
    answer[i] = -1
  elseif token ~= ARGV[b + 2] then
    answer[i] = 0
  else
    -- An id that is not above the last one is a repetition of what was written.
    redis.pcall('XADD', entries, 'MINID', '=', ARGV[b + 4], ARGV[b + 3], 'f', ARGV[b + 5])
    if ARGV[b + 6] == '1' then
      redis.call('HSET', hash, 'ended', '1')
      redis.call('HDEL', hash, 'record')
      redis.call('SREM', mine, ARGV[b + 1])
    end
    redis.call('PEXPIRE', entries, ttl)
    redis.call('PEXPIRE', hash, ttl)
    answer[i] = 1
  end
end
return answer
"""
# KEYS: hash, this replica's lease. ARGV: token, lease in milliseconds.
_OWNED = """
local token = redis.call('HGET', KEYS[1], 'token')
if token and token ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2])
return 1
"""
# KEYS: entries, hash, set of this replica's streams. ARGV: token, name.
_FORGET = """
if redis.call('HGET', KEYS[2], 'token') == ARGV[1] then
  redis.call('DEL', KEYS[1], KEYS[2])
end
redis.call('SREM', KEYS[3], ARGV[2])
return 1
"""
# KEYS: hash, set of this replica's streams. ARGV: prefix of leases, prefix of sets, replica, name, lifetime in milliseconds.
# Answers token and record, or nothing.
_CLAIM = """
local found = redis.call('HMGET', KEYS[1], 'replica', 'ended', 'record')
local former = found[1]
if not former then
  return false
end
if found[2] then
  redis.call('SREM', ARGV[2] .. former, ARGV[4])
  return false
end
if redis.call('EXISTS', ARGV[1] .. former) == 1 then
  return false
end
redis.call('HSET', KEYS[1], 'replica', ARGV[3])
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('SREM', ARGV[2] .. former, ARGV[4])
redis.call('SADD', KEYS[2], ARGV[4])
redis.call('PEXPIRE', KEYS[2], math.max(ARGV[5], 3600000))
return {token, found[3]}
"""
# KEYS: hash. ARGV: prefix of leases. Answers user, "1" if ended, 1 if orphaned.
_STATE = """
local found = redis.call('HMGET', KEYS[1], 'user', 'ended', 'replica')
if not found[1] then
  return false
end
local alive = redis.call('EXISTS', ARGV[1] .. (found[3] or ''))
return {found[1], found[2] or '', 1 - alive}
"""
# KEYS: lease, sorted set of replicas, wishes. ARGV: replica, lease in milliseconds, number of wishes.
_BEAT = """
local now = redis.call('TIME')
redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
return redis.call('LPOP', KEYS[3], ARGV[3]) or {}
"""
# KEYS: sorted set of replicas. ARGV: prefixes of leases and sets, milliseconds of silence, limit, prefix of hashes.
# Answers names of streams.
_ORPHANS = """
local now = redis.call('TIME')
local before = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[3]
local answer = {}
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before)) do
  if redis.call('EXISTS', ARGV[1] .. replica) == 0 then
    local names = redis.call('SRANDMEMBER', ARGV[2] .. replica, ARGV[4] - #answer)
    if #names == 0 then
      redis.call('ZREM', KEYS[1], replica)
    end
    for _, name in ipairs(names) do
      if redis.call('EXISTS', ARGV[5] .. string.gsub(name, '/', ':') .. ':owner') == 1 then
        answer[#answer + 1] = name
      else
        redis.call('SREM', ARGV[2] .. replica, name)
      end
    end
    if #answer >= tonumber(ARGV[4]) then
      break
    end
  end
end
return answer
"""
# KEYS: hash. ARGV: prefix of wishes, name, number of wishes kept.
_ASK = """
local replica = redis.call('HGET', KEYS[1], 'replica')
if replica then
  local wishes = ARGV[1] .. replica
  redis.call('RPUSH', wishes, ARGV[2])
  redis.call('LTRIM', wishes, -tonumber(ARGV[3]), -1)
  redis.call('EXPIRE', wishes, 60)
end
return 1
"""


class _Stream:
    """What is written for one stream: how much stands there, from where it may be trimmed."""

    def __init__(self, record: StreamRecord, token: int) -> None:
        self.key = (record.generation.tenant_id, record.generation.completion_id)
        self.user = str(record.generation.user_id)
        self.token = token
        self.unknown: StreamRecord | None = None
        self._entries: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def oldest_after(self, last_seq: int, size: int, max_bytes: int) -> int:
        """Note an entry; the id of the oldest one that stays."""
        self._entries.append((last_seq, size))
        self._bytes += size
        while len(self._entries) > 1 and (self._bytes > max_bytes or len(self._entries) > _MAX_ENTRIES):
            self._bytes -= self._entries.popleft()[1]
        return self._entries[0][0]


class RedisStreamBuffer:
    """Streams of all replicas. `ttl`: seconds that a stream stays after its last frame; `max_bytes` of it are kept, the newest."""

    def __init__(
        self,
        client: Redis,
        master: bytes,
        *,
        ttl: float = 600.0,
        lease: float = 3.0,
        max_bytes: int = 2**21,
        timeout: float = 2.0,
    ) -> None:
        self._client = client
        self._seal = Seal(master, _PURPOSE)
        self._ttl = str(int(ttl * 1000))
        self._lease = int(lease * 1000)
        self._max_bytes = max_bytes
        self._timeout = timeout
        self.replica = new_id().hex
        self._doorbell = Doorbell(client)

    def handle(self, record: StreamRecord) -> BufferedStream:
        stream = _Stream(record, 1)
        stream.unknown = record
        return stream

    async def append(self, batches: Sequence[tuple[BufferedStream, Sequence[Frame]]]) -> list[Written]:
        verdicts: list[Written] = []
        for start in range(0, len(batches), _BATCH):
            verdicts += await self._append(cast("Sequence[tuple[_Stream, Sequence[Frame]]]", batches[start : start + _BATCH]))
        return verdicts

    async def _append(self, batches: Sequence[tuple[_Stream, Sequence[Frame]]]) -> list[Written]:
        keys: list[str | bytes] = []
        arguments: list[str | bytes | int] = [self._ttl, self.replica, self._lease]
        for stream, frames in batches:
            entries, hash_key = _keys(*stream.key)
            keys += (entries, hash_key)
            last = frames[-1].seq
            entry = self._seal.close(pack(frames), entries)
            arguments += (
                _name(*stream.key),
                stream.token,
                last,
                stream.oldest_after(last, len(entry), self._max_bytes),
                entry,
                "1" if isinstance(frames[-1].part, End) else "",
                stream.user,
                self._sealed_record(stream.unknown, hash_key) if stream.unknown is not None else b"",
            )
        keys += (f"{_PREFIX}s:of:{self.replica}", f"{_PREFIX}s:lease:{self.replica}")
        answers: list[int] = await self._run(_APPEND, keys, arguments)
        for stream, _ in batches:
            stream.unknown = None
        return [Written.YES if answer == 1 else Written.MOVED if answer == 0 else Written.GONE for answer in answers]

    async def owned(self, stream: BufferedStream) -> bool:
        token = cast("_Stream", stream).token
        lease = f"{_PREFIX}s:lease:{self.replica}"
        return bool(await self._run(_OWNED, [_keys(*stream.key)[1], lease], [token, self._lease]))

    async def forget(self, streams: Sequence[BufferedStream]) -> None:
        for stream in cast("Sequence[_Stream]", streams):
            keys: list[str | bytes] = [*_keys(*stream.key), f"{_PREFIX}s:of:{self.replica}"]
            await self._run(_FORGET, keys, [stream.token, _name(*stream.key)])

    async def state(self, tenant_id: UUID, stream_id: str) -> StreamState | None:
        found = await self._run(_STATE, [_keys(tenant_id, stream_id)[1]], [f"{_PREFIX}s:lease:"])
        if not found:
            return None
        user, ended, orphaned = found
        return StreamState(UUID(user.decode()), bool(ended), bool(orphaned) and not ended)

    async def read(self, tenant_id: UUID, stream_id: str, after_seq: int) -> list[Frame]:
        key = _keys(tenant_id, stream_id)[0]
        async with self._reaching():
            entries: Any = await self._client.xrange(key, min=str(after_seq + 1), count=_READ_ENTRIES)
        return self._frames(key, entries, after_seq)

    async def wait(self, tenant_id: UUID, stream_id: str, after_seq: int, seconds: float) -> list[Frame]:
        key = _keys(tenant_id, stream_id)[0]
        entries = await self._doorbell.wait(key, after_seq, seconds)
        return self._frames(key, entries, after_seq)

    async def claim(self, tenant_id: UUID, stream_id: str) -> ClaimedStream | None:
        entries, hash_key = _keys(tenant_id, stream_id)
        found = await self._run(
            _CLAIM,
            [hash_key, f"{_PREFIX}s:of:{self.replica}"],
            [f"{_PREFIX}s:lease:", f"{_PREFIX}s:of:", self.replica, _name(tenant_id, stream_id), self._ttl],
        )
        if not found:
            return None
        token, sealed = found
        try:
            record = _record(self._seal.open(sealed or b"", hash_key))
        except (InvalidTag, ValueError, KeyError) as error:
            raise StreamBufferError("the record of a stream cannot be read") from error
        stream = _Stream(record, int(token))
        frames: list[Frame] = []
        after = 0
        while True:
            async with self._reaching():
                page: Any = await self._client.xrange(entries, min=str(after + 1), count=_READ_ENTRIES)
            if not page:
                return ClaimedStream(stream, record, frames)
            for identifier, fields in page:
                last = _seq(identifier)
                stream.oldest_after(last, len(fields[b"f"]), self._max_bytes)
            frames += self._frames(entries, page, after)
            after = _seq(page[-1][0])

    async def orphans(self, older_than: float, limit: int) -> list[tuple[UUID, str]]:
        names = await self._run(
            _ORPHANS, [_REPLICAS], [f"{_PREFIX}s:lease:", f"{_PREFIX}s:of:", int(older_than * 1000), limit, f"{_PREFIX}:"]
        )
        return [_named(name) for name in names]

    async def beat(self) -> list[tuple[UUID, str]]:
        names = await self._run(
            _BEAT,
            [f"{_PREFIX}s:lease:{self.replica}", _REPLICAS, f"{_PREFIX}s:wishes:{self.replica}"],
            [self.replica, self._lease, _MAX_CANCELS],
        )
        return [_named(name) for name in names]

    async def ask_to_cancel(self, tenant_id: UUID, stream_id: str) -> None:
        await self._run(
            _ASK,
            [_keys(tenant_id, stream_id)[1]],
            [f"{_PREFIX}s:wishes:", _name(tenant_id, stream_id), _MAX_CANCELS],
        )

    async def leave(self) -> None:
        await self._doorbell.stop()
        async with self._reaching():
            await self._client.delete(f"{_PREFIX}s:lease:{self.replica}")

    def _frames(self, key: bytes, entries: Sequence[Entry], after_seq: int) -> list[Frame]:
        """In order, each once: an entry that was written again begins with what stands before it."""
        found: list[Frame] = []
        last = after_seq
        for _, fields in entries:
            try:
                frames = unpack(self._seal.open(fields[b"f"], key))
            except InvalidTag:
                raise StreamBufferError("an entry was sealed with another key") from None
            except ValueError as error:
                raise StreamBufferError(str(error)) from error
            for frame in frames:
                if frame.seq > last:
                    found.append(frame)
                    last = frame.seq
        return found

    def _sealed_record(self, record: StreamRecord, hash_key: bytes) -> bytes:
        principal = record.principal
        plain = orjson.dumps(
            {
                "kind": principal.kind.value,
                "subject": principal.subject,
                "roles": sorted(principal.roles),
                "permissions": sorted(principal.permissions),
                "credential_id": principal.credential_id,
                "epoch": principal.epoch,
                "generation": asdict(record.generation),
                "grace": record.grace,
                "checkpoint": record.checkpoint,
            }
        )
        return self._seal.close(plain, hash_key)

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StreamBufferError(type(error).__name__) from error

    async def _run(self, script: str, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]) -> Any:
        # How Redis names a script.
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        async with self._reaching():
            try:
                return await self._client.evalsha(digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self._client.eval(script, len(keys), *keys, *arguments)


def _name(tenant_id: UUID, stream_id: str) -> str:
    return f"{tenant_id}/{stream_id}"


def _named(name: bytes) -> tuple[UUID, str]:
    tenant, _, stream_id = name.decode().partition("/")
    return UUID(tenant), stream_id


def _keys(tenant_id: UUID, stream_id: str) -> tuple[bytes, bytes]:
    name = f"{_PREFIX}:{tenant_id}:{stream_id}"
    return name.encode(), f"{name}:owner".encode()


def _seq(identifier: bytes) -> int:
    return int(identifier.partition(b"-")[0])


def _record(plain: bytes) -> StreamRecord:
    members = orjson.loads(plain)
    given = members["generation"]
    generation = Generation(
        id=UUID(given["id"]),
        tenant_id=UUID(given["tenant_id"]),
        user_id=UUID(given["user_id"]),
        key_id=UUID(given["key_id"]) if given["key_id"] else None,
        completion_id=given["completion_id"],
        model=given["model"],
        started_at=datetime.fromisoformat(given["started_at"]),
        origin=Origin(**given["origin"]),
    )
    principal = Principal(
        PrincipalKind(members["kind"]),
        members["subject"],
        generation.tenant_id,
        frozenset(members["roles"]),
        frozenset(members["permissions"]),
        members["credential_id"],
        members["epoch"],
    )
    return StreamRecord(principal, generation, members["grace"], members["checkpoint"])
