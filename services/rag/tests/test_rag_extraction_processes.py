"""Extraction processes: several at a time, bounded, and dead when they must be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rag_files import zipped

from wireroom_common.testing import eventually
from wireroom_rag.adapters.extraction_pool import ExtractionPool
from wireroom_rag.adapters.extraction_process import ExtractionLimits, ExtractionProcess
from wireroom_rag.domain.document import SMALL_BYTES, RejectedError
from wireroom_rag.extraction.media_types import DOCX, HTML, TEXT

LIMITS = ExtractionLimits(
    wall_seconds=30, cpu_seconds=30, memory_bytes=1_500_000_000, max_pages=10, max_characters=5_000_000, idle_seconds=30
)


async def whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def endless(data: bytes = b"") -> AsyncIterator[bytes]:
    yield data
    await asyncio.Event().wait()


async def test_large_files_never_get_the_last_process() -> None:
    pool = ExtractionPool(LIMITS, processes=2)
    large = [asyncio.create_task(pool.extract(TEXT, SMALL_BYTES + 1, endless())) for _ in range(4)]
    try:
        await eventually(lambda: len(pool.pids) == 1, what="a process for the large files")
        for number in range(3):
            found = await asyncio.wait_for(pool.extract(TEXT, 1, whole(f"{number}".encode())), 20)
            assert found.content == f"{number}"
        assert len(pool.pids) == 2
    finally:
        for task in large:
            task.cancel()
        await asyncio.gather(*large, return_exceptions=True)
        await pool.stop()
    assert pool.pids == ()


async def test_process_that_ignores_sigterm_and_its_children_die(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal, subprocess, sys, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
            open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
            time.sleep(600)
            """
        )
    )
    extractor = ExtractionProcess(replace(LIMITS, wall_seconds=1.5), command=(sys.executable, str(script)))
    working = asyncio.create_task(extractor.extract(TEXT, 1, whole(b"x")))
    child_file = tmp_path / "child"
    await eventually(lambda: child_file.exists() and child_file.read_text() != "", what="the child")
    pids = [int(child_file.read_text()), extractor.pid or 0]
    os.kill(pids[1], signal.SIGTERM)
    with pytest.raises(RejectedError, match="document_too_complex"):
        await working
    for pid in pids:
        await eventually(lambda pid=pid: not _alive(pid), what="no such process")


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT])
async def test_process_that_a_file_breaks_is_the_files_fault(tmp_path: Path, how: signal.Signals) -> None:
    script = f"import os, sys; sys.stdin.buffer.read(10); os.kill(os.getpid(), {how.value})"
    extractor = ExtractionProcess(LIMITS, command=(sys.executable, "-c", script))
    with pytest.raises(RejectedError, match="document_unreadable"):
        await extractor.extract(TEXT, 100, whole(b"x" * 100))
    await extractor.stop()


async def test_memory_and_cpu_are_bounded() -> None:
    extractor = ExtractionProcess(replace(LIMITS, memory_bytes=340_000_000, cpu_seconds=2))
    deep = b"<html><body>" + b"<p><b>word</b> <i>word</i></p>" * 250_000
    try:
        with pytest.raises(RejectedError, match="document_too_complex"):
            await extractor.extract(HTML, len(deep), whole(deep))
        bomb = zipped({"[Content_Types].xml": "", "word/document.xml": b"\0" * 20_000_000})
        with pytest.raises(RejectedError, match="document_archive_bomb"):
            await extractor.extract(DOCX, len(bomb), whole(bomb))
        assert (await extractor.extract(TEXT, 2, whole(b"ok"))).content == "ok"
    finally:
        await extractor.stop()


async def test_reader_dies_with_the_service_that_asked_it(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, subprocess, sys, time
        reader = subprocess.Popen([sys.executable, "-m", "wireroom_rag.extraction.worker"], stdin=subprocess.PIPE, start_new_session=True,
                                  stdout=subprocess.PIPE)
        # Its pipe stays open elsewhere: it does not end because of that.
        holder = subprocess.Popen(["sleep", "30"], stdin=subprocess.DEVNULL, pass_fds=(reader.stdin.fileno(),))
        from wireroom_rag.extraction.protocol import encode_header
        request = dict(media_type="text/plain", size=1, max_pages=1, max_characters=10, cpu_seconds=5, memory_bytes=1_000_000_000)
        reader.stdin.write(encode_header(request) + b"x"); reader.stdin.flush(); reader.stdout.read(4)
        print(reader.pid, holder.pid, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as service:  # noqa: ASYNC220 - nothing else runs here
        assert service.stdout is not None
        reader, holder = (int(pid) for pid in service.stdout.readline().split())
        try:
            assert _alive(reader)
            service.kill()
            await eventually(lambda: not _alive(reader), what="no reader")
        finally:
            os.kill(holder, signal.SIGKILL)
