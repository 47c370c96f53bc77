"""The life of signing keys: published, then signing, then published only, then gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

# A key signs only when every gateway has had the time to read it, should it have missed the event.
PUBLISHED_BEFORE = timedelta(minutes=6)
# What a replaced key is published for beyond the life of its last token: skew of clocks, and replicas that read the change late.
MARGIN = timedelta(minutes=5)


@dataclass(frozen=True)
class SigningKey:
    """`signs_from` None: published for the next rotation. `retired_at`: when it stops being published; None while not replaced."""

    kid: str
    created_at: datetime
    signs_from: datetime | None = None
    retired_at: datetime | None = None


def current(keys: Iterable[SigningKey]) -> SigningKey | None:
    """The one that signs: the last to have begun."""
    signing = [key for key in keys if key.signs_from is not None and key.retired_at is None]
    return max(signing, key=lambda key: (key.signs_from, key.kid), default=None)


def upcoming(keys: Iterable[SigningKey]) -> SigningKey | None:
    """The one that signs after the next rotation."""
    waiting = [key for key in keys if key.signs_from is None and key.retired_at is None]
    return min(waiting, key=lambda key: (key.created_at, key.kid), default=None)
