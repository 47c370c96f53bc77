"""Rotation of the signing keys by an operator's command, beside running replicas."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from wireroom_auth.adapters.encryption import Sealing
from wireroom_auth.adapters.signing_keys import Rotated, SigningKeys
from wireroom_auth.settings import AuthSettings
from wireroom_common.clock import Clock
from wireroom_common.db import Database


async def rotate(database: Database, clock: Clock, master_secret: Callable[[], bytes], settings: AuthSettings) -> Rotated:
    """The next key signs from now on; running replicas hear of it by the event. CONFLICT while the next key is too new."""
    keys = SigningKeys(
        database,
        clock,
        Sealing(master_secret),
        token_life=timedelta(seconds=settings.access_token_seconds),
        rotate_after=timedelta(days=settings.signing_key_days),
    )
    return await keys.rotate(actor="operator")
