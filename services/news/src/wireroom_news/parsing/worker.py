"""The parser process: reads requests from stdin, writes answers to stdout, holds no secret and opens nothing.

Frames: four bytes length (big-endian), then JSON. A request's JSON is followed by `size` bytes of the document.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
from datetime import datetime
from typing import Any, BinaryIO

from wireroom_news.domain.articles import ParsedFeed
from wireroom_news.parsing.documents import NotAFeedError, parse_document

_LENGTH = struct.Struct(">I")
# Where text goes that libraries print: never into the answers.
_STDOUT, _STDERR = 1, 2


def answer(request: dict[str, Any], body: bytes) -> dict[str, Any]:
    """One document's entries, or why there are none."""
    try:
        feed = parse_document(
            body,
            url=request["url"],
            content_type=request["content_type"],
            fetched_at=datetime.fromisoformat(request["fetched_at"]),
        )
    except NotAFeedError:
        return {"error": "not_a_feed"}
    except (MemoryError, RecursionError):
        return {"error": "limit"}
    return {"feed": _plain(feed)}


def serve(requests: BinaryIO, answers: BinaryIO, *, cpu_seconds: int) -> None:
    """Answer until stdin ends."""
    while head := requests.read(_LENGTH.size):
        request = json.loads(requests.read(_LENGTH.unpack(head)[0]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_seconds + 1, resource.RLIM_INFINITY))
        data = json.dumps(answer(request, requests.read(request["size"]))).encode()
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()


def main() -> None:
    """`python -m wireroom_news.parsing.worker <memory bytes> <cpu seconds>`."""
    memory, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    answers = os.fdopen(os.dup(_STDOUT), "wb")
    os.dup2(_STDERR, _STDOUT)
    serve(sys.stdin.buffer, answers, cpu_seconds=cpu_seconds)


def _plain(feed: ParsedFeed) -> dict[str, Any]:
    return {
        "title": feed.title,
        "site_url": feed.site_url,
        "truncated": feed.truncated,
        "entries": [
            {**vars(entry), "published_at": entry.published_at.isoformat() if entry.published_at else None}
            for entry in feed.entries
        ],
    }


if __name__ == "__main__":
    main()
