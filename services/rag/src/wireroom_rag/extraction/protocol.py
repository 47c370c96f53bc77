"""What the service and its extraction process say to each other: length-prefixed JSON headers, each followed by a body."""

from __future__ import annotations

import json
import struct
from typing import TypedDict

PREFIX = struct.Struct(">I")
MAX_HEADER = 1 << 20


class Request(TypedDict):
    """Followed by `size` bytes: the file."""

    media_type: str
    size: int
    max_pages: int
    max_characters: int
    cpu_seconds: int
    memory_bytes: int


class Reply(TypedDict):
    """Followed by `size` bytes: the text in UTF-8. `code` is empty on success."""

    code: str
    reason: str
    page_starts: list[int]
    size: int


def encode_header(header: Request | Reply) -> bytes:
    """The header with its length in front."""
    data = json.dumps(header).encode("utf-8")
    return PREFIX.pack(len(data)) + data
