"""Whose counts are read."""

from __future__ import annotations

from uuid import UUID

# What belongs to no tenant is counted under the nil UUID, which no tenant has.
INSTALLATION = UUID(int=0)
