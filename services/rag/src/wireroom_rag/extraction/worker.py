"""The extraction process: reads files on stdin, writes their text to stdout, one after another, until stdin ends.

It holds no secret, needs no network and no files, and binds itself to CPU and memory limits before it looks at a file.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import BinaryIO, cast

from wireroom_rag.domain.document import ExtractedText, RejectedError
from wireroom_rag.extraction.protocol import MAX_HEADER, PREFIX, Reply, Request, encode_header
from wireroom_rag.extraction.readers import read_pages
from wireroom_rag.extraction.text import stored_text

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1


class CpuLimitError(Exception):
    """The file used up its CPU time."""


def extract(data: bytes, request: Request) -> ExtractedText:
    """The text of a file; RejectedError when it cannot be had."""
    pages, paged = read_pages(request["media_type"], data, request["max_pages"])
    return stored_text(pages, paged=paged, max_characters=request["max_characters"])


def _limit(request: Request) -> None:
    # The process may serve several files: CPU time is counted from here. The hard limit kills code that never returns to Python.
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + request["cpu_seconds"], resource.getrlimit(resource.RLIMIT_CPU)[1]))
    resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], resource.getrlimit(resource.RLIMIT_AS)[1]))


def _too_complex(reason: str) -> Reply:
    return {"code": "document_too_complex", "reason": reason, "page_starts": [], "size": 0}


def _answer(data: bytes, request: Request) -> tuple[Reply, bytes]:
    try:
        _limit(request)
        found = extract(data, request)
        text = found.content.encode("utf-8")
    except RejectedError as rejection:
        return {"code": rejection.code, "reason": rejection.reason, "page_starts": [], "size": 0}, b""
    except MemoryError:
        return _too_complex("Reading the document needs more memory than is allowed."), b""
    except (CpuLimitError, RecursionError):
        return _too_complex("Reading the document takes longer than is allowed."), b""
    except Exception:  # noqa: BLE001 - parsers of hostile files raise anything; the file is at fault, not the service
        return {
            "code": "document_unreadable",
            "reason": "The document is damaged: it cannot be read.",
            "page_starts": [],
            "size": 0,
        }, b""
    return {"code": "", "reason": "", "page_starts": list(found.page_starts), "size": len(text)}, text


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    while prefix := source.read(PREFIX.size):
        (length,) = PREFIX.unpack(prefix)
        if length > MAX_HEADER:
            return
        request = cast("Request", json.loads(source.read(length)))
        data = source.read(request["size"])
        if len(data) < request["size"]:
            return
        header, body = _answer(data, request)
        del data
        target.write(encode_header(header))
        target.write(body)
        target.flush()


def _on_cpu_limit(_signal: int, _frame: object) -> None:
    raise CpuLimitError


def _end_with_parent() -> None:
    """Whoever asked may be killed in the middle of a file: nobody would end a parser that hangs."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)


def main() -> None:
    """Serve stdin until it ends."""
    # Parsers that print must not break the protocol.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(10)
    # Reading a file needs no other files.
    sys.dont_write_bytecode = True
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    _end_with_parent()
    signal.signal(signal.SIGXCPU, _on_cpu_limit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(sys.stdin.buffer, target)


if __name__ == "__main__":
    main()
