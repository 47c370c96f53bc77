"""The row of a completion, from which somebody else settles it if its process dies."""

from __future__ import annotations

import asyncio

from wireroom_chat.ports.generations import Checkpoint, Generation, GenerationLedger


class GenerationRow:
    """Written once, beside the answer: when its first call is known, or somebody waits for the row. `stands`: another process wrote it."""

    def __init__(self, ledger: GenerationLedger, generation: Generation, *, stands: bool) -> None:
        self._ledger = ledger
        self._generation = generation
        self._stands = stands
        self._writing: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether it stands or is being written."""
        return self._stands or self._writing is not None

    def begin(self, checkpoint: Checkpoint | None = None) -> None:
        """Write it in the background; later calls change nothing."""
        if self.begun:
            return
        self._writing = asyncio.create_task(self._ledger.start(self._generation, checkpoint))
        # An answer that fails first never looks at it; the settlement does.
        self._writing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def written(self) -> None:
        """Until it stands."""
        self.begin()
        if self._writing is not None:
            # Shielded: who waits for the row may be cancelled, the row is written all the same, because it will be settled.
            await asyncio.shield(self._writing)
