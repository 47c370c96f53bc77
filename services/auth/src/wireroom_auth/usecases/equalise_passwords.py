"""Keep failed logins alike in time while hashes of several kinds are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wireroom_auth.domain.password_hashes import work_of


class StoredHashes(Protocol):
    """Which kinds of hashes there are."""

    async def examples(self) -> list[str]:
        """One stored hash of each kind, the most frequent kind first."""


class EqualisableHashing(Protocol):
    """Hashing that goes through several kinds of work."""

    async def equalise(self, works: Sequence[str]) -> None:
        """Say which kinds of work stored hashes need."""


class EqualisePasswords:
    """Run now and then: imported hashes come and, with the logins of their owners, go."""

    def __init__(self, stored: StoredHashes, hashing: EqualisableHashing) -> None:
        self._stored = stored
        self._hashing = hashing

    async def run(self) -> None:
        """Look which kinds of hashes are stored."""
        await self._hashing.equalise([work_of(example) for example in await self._stored.examples()])
