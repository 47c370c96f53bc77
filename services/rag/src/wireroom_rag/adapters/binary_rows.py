"""Statements whose values and answers go over the wire as they are stored: as text, bytes take twice the room and long to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

# What `array_send` puts in front of the values: dimensions, flags, type, size, lower bound.
_HEADER = 20


async def fetch(connection: AsyncConnection, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """The rows of a statement with `%(name)s` (text) or `%(name)b` (binary) for values, in the connection's transaction."""
    async with await _cursor(connection) as cursor:
        await cursor.execute(statement, values)
        rows: list[Any] = await cursor.fetchall()
        return rows


async def execute(connection: AsyncConnection, statement: str, values: Mapping[str, Any]) -> None:
    """A statement without rows, otherwise as `fetch`."""
    async with await _cursor(connection) as cursor:
        await cursor.execute(statement, values)


def sent(values: bytes | None, number: str) -> NDArray[Any]:
    """What `array_send(array_agg(...))` gave of numbers, none of them NULL, as a numpy type in network order; empty for NULL."""
    if values is None:
        return np.empty(0, dtype=number)
    return np.frombuffer(values, dtype=[("size", ">i4"), ("value", number)], offset=_HEADER)["value"]


async def _cursor(connection: AsyncConnection) -> Any:
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        msg = "The connection was closed."
        raise RuntimeError(msg)
    return driver.cursor(binary=True)
