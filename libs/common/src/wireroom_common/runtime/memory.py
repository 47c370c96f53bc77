"""The garbage collector's settings for a process that has started."""

from __future__ import annotations

import gc

# Allocations minus deallocations between two collections of the youngest generation. Python's default (700 in 3.11) collects several
# times per request, and each full collection walks everything that was loaded at the start.
YOUNG_THRESHOLD = 20_000


def settle_memory() -> None:
    """Collect once, set aside all that lives since the start, and collect less often from here on.

    Measured on the gateway's hot path: a fifth of its CPU time. Cyclic garbage lives longer; what is not cyclic is freed as before.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_THRESHOLD, 20, 50)
