"""Streams as they are on the wire."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parent / "golden"
_ID = re.compile(rb"\b(chatcmpl-|cmpl-|resp_|msg_|fc_)[0-9a-f]{32}")
_TIME = re.compile(rb'"(created|created_at|completed_at)":\d+')


def events(body: bytes) -> list[tuple[str, str]]:
    """Name (empty for none) and data of each event; fails on anything that is not an event or a comment."""
    assert body.endswith(b"\n\n")
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        if block.startswith(": "):
            continue
        *names, data = block.split("\n")
        assert all(name.startswith("event: ") for name in names), block
        assert len(names) <= 1, block
        assert data.startswith("data: "), block
        found.append((names[0].removeprefix("event: ") if names else "", data.removeprefix("data: ")))
    return found


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that ends with `[DONE]`."""
    *data, last = events(body)
    assert last == ("", "[DONE]")
    assert {name for name, _ in data} == {""}
    return [json.loads(text) for _, text in data]


def same_each_time(body: bytes) -> bytes:
    """Without what differs from one answer to the next: ids (numbered in their order) and times."""
    names: dict[bytes, bytes] = {}

    def numbered(found: re.Match[bytes]) -> bytes:
        return names.setdefault(found[0], b"%s%032d" % (found[1], len(names)))

    return _TIME.sub(rb'"\1":0', _ID.sub(numbered, body))


def assert_golden(name: str, body: bytes) -> None:
    """Byte for byte as in the file of that name."""
    path = GOLDEN / f"{name}.sse"
    made = same_each_time(body)
    assert path.exists(), f"{path} is missing; it should hold:\n{made.decode()}"
    assert made == path.read_bytes()
