"""The first tier: this process's memory, bounded by entries and bytes, least recently used first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cachetools import LRUCache

# What an entry costs beside its payload: name, record, links.
_OVERHEAD = 400
_REMEMBERED_DROPS = 10_000


@dataclass(slots=True)
class Remembered:
    """An entry in memory. Times are monotonic seconds; `versions` belong to `tags`, None where Redis could not be asked."""

    payload: bytes
    until: float
    stored_at: float
    tags: tuple[str, ...]
    versions: tuple[str, ...] | None


class _Lru(LRUCache[str, Remembered]):
    def __init__(self, max_bytes: int, evicted: Callable[[str, Remembered], None]) -> None:
        super().__init__(max(1, max_bytes), getsizeof=lambda kept: len(kept.payload) + _OVERHEAD)
        self._evicted = evicted

    def popitem(self) -> tuple[str, Remembered]:
        name, kept = super().popitem()
        self._evicted(name, kept)
        return name, kept


class _Drops(LRUCache[str, int]):
    """When each name was dropped last; what is forgotten counts as dropped at `floor`."""

    def __init__(self) -> None:
        super().__init__(_REMEMBERED_DROPS)
        self.floor = 0

    def popitem(self) -> tuple[str, int]:
        name, epoch = super().popitem()
        self.floor = max(self.floor, epoch)
        return name, epoch


class Memory:
    """Not thread-safe: one event loop. `epoch` grows with each drop: what was read before one must not be put after it."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept = _Lru(max_bytes, self._forget_tags_of_evicted)
        self._by_tag: dict[str, set[str]] = {}
        self._drops = _Drops()
        self.epoch = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes taken, with an allowance for the bookkeeping."""
        return int(self._kept.currsize)

    def get(self, name: str, now: float) -> Remembered | None:
        """The entry, unless its time is over."""
        kept = self._kept.get(name)
        if kept is not None and kept.until <= now:
            self.discard(name)
            return None
        return kept

    def put(self, name: str, kept: Remembered, epoch: int, *, evict: bool = True) -> bool:
        """Keep an entry that was read at `epoch`; not if it or one of its tags was dropped since, nor if it is too large.

        `evict=False`: nor if another would have to go.
        """
        size = self._kept.getsizeof(kept)
        self.discard(name)
        full = len(self._kept) >= self._max_entries or self._kept.currsize + size > self._max_bytes
        if size > self._max_bytes or not self._max_entries or (full and not evict):
            return False
        if any(self._drops.get(item, self._drops.floor) > epoch for item in (name, *kept.tags)):
            return False
        if len(self._kept) >= self._max_entries:
            self._kept.popitem()
        self._kept[name] = kept
        for tag in kept.tags:
            self._by_tag.setdefault(tag, set()).add(name)
        return True

    def discard(self, name: str) -> None:
        """Forget one entry; this is not an invalidation."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._forget_tags(name, kept)

    def drop(self, names: Iterable[str]) -> None:
        """Entries and tags that are no longer valid."""
        self.epoch += 1
        for item in names:
            self._drops[item] = self.epoch
            for name in [item, *self._by_tag.get(item, ())]:
                self.discard(name)

    def clear(self) -> None:
        """Invalidations may have been missed: nothing kept, and nothing that is being read, is valid."""
        self.epoch += 1
        self._drops.floor = self.epoch
        self._drops.clear()
        self._kept.clear()
        self._by_tag.clear()

    def _forget_tags_of_evicted(self, name: str, kept: Remembered) -> None:
        self.evictions += 1
        self._forget_tags(name, kept)

    def _forget_tags(self, name: str, kept: Remembered) -> None:
        for tag in kept.tags:
            names = self._by_tag.get(tag)
            if names is not None:
                names.discard(name)
                if not names:
                    del self._by_tag[tag]
