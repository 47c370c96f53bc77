"""What a namespace of the cache promises, and what it may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


@dataclass(frozen=True)
class Namespace:
    """One kind of entries. `name` is "<service>.<what>".

    `seconds`: how long an entry is given; each entry lives up to `jitter` (a share of it) shorter, so that entries made together do not
    end together.
    """

    name: str
    seconds: float
    jitter: float = 0.1
    # Memory of this process; 0 entries: not kept in memory.
    memory_entries: int = 10_000
    memory_bytes: int = 16 * 1024 * 1024
    # Whether entries are kept in Redis, for all replicas.
    redis: bool = True
    # Larger values are not kept.
    max_entry_bytes: int = 256 * 1024
    # Values above this many bytes are compressed outside of memory, where that makes them smaller.
    compress_above: int = 1024
    # An entry's tags are asked of Redis on every read: invalidations are seen at once, and without Redis nothing is found or kept.
    # Otherwise other replicas see them with the broadcast.
    verify: bool = False
    # The value follows from the key alone: it never becomes wrong, carries no tags, and memory may give it whatever was missed.
    immutable: bool = False
    # How long an entry is given from memory while invalidations by others cannot be heard.
    unheard_seconds: float = 10.0
    # How many of the most wanted entries are loaded into memory at start and after Redis was away; 0 for none.
    warm: int = 0
    # `turn` and `get_or_make`: how long a maker keeps the others waiting, and how long they wait at most. At 0 claim_seconds, makers in
    # other processes are not waited for: for what costs less than asking who makes it.
    claim_seconds: float = 60.0
    wait_seconds: float = 20.0

    def __post_init__(self) -> None:
        wrong = [
            problem
            for problem, found in (
                ("its name is not '<service>.<what>'", not _NAME.fullmatch(self.name)),
                ("seconds must be positive", self.seconds <= 0),
                ("jitter must be at least 0 and below 1", not 0 <= self.jitter < 1),
                ("sizes must not be negative", min(self.memory_entries, self.memory_bytes, self.warm) < 0),
                ("it must be kept somewhere that can verify", self.verify and not self.redis),
                ("what is verified on each read is not immutable", self.verify and self.immutable),
                (
                    "only what is kept in memory and Redis can be warmed",
                    self.warm > 0 and not (self.redis and self.memory_entries),
                ),
            )
            if found
        ]
        if wrong:
            msg = f"Cache namespace '{self.name}': {'; '.join(wrong)}."
            raise ValueError(msg)
