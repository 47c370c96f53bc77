"""How fast documents are taken in, and whether the process still answers meanwhile.

`bench_ingest.py read`: pages and MB per CPU second of reading each format.
`bench_ingest.py whole`: the same from upload to index, CPU of all processes of a running Wireroom.
`bench_ingest.py uploads [--files 20] [--seconds 150]`: `/health/live` while that many files of 25 MB come in at once and are processed,
a zip bomb and a PDF of 10,000 pages among them.
Without a name: all three. Exit status 1 when p99 of `/health/live` is above `--most` milliseconds.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import platform
import sys
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))
sys.path.append(str(ROOT / "services" / "rag" / "tests"))

from api import Api
from conftest import sign_up
from harness import Deployment, deploy
from rag_files import book, word, workbook

from wireroom_rag.extraction import media_types as types
from wireroom_rag.extraction.readers import read_pages
from wireroom_rag.extraction.text import stored_text

_LIVE_EVERY = 0.02
_MB = 1_000_000
_WORDS = [
    "harbour",
    "barley",
    "lantern",
    "quarry",
    "meadow",
    "copper",
    "willow",
    "anchor",
    "saddle",
    "thunder",
    "pepper",
    "marble",
    "ferry",
    "orchard",
    "timber",
    "falcon",
]


def sentence(number: int) -> str:
    """Some words, other ones for each number."""
    return (
        " ".join(_WORDS[(number * 7 + place * (number % 5 + 1)) % len(_WORDS)] for place in range(11)).capitalize()
        + f" {number}."
    )


def pdf(pages: int, *, lines: int = 40, padding: int = 0) -> bytes:
    """Pages of text; `padding` bytes that do not compress are attached."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, pageCompression=1)
    for page in range(pages):
        text = canvas.beginText(50, 800)
        for line in range(lines):
            text.textLine(sentence(page * lines + line))
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    # Behind the end there may be anything.
    return buffer.getvalue() + (b"\n%" + os.urandom(padding).hex().encode()[:padding] if padding else b"")


def bomb(size: int) -> bytes:
    """A Word document that unpacks to a gigabyte and is filled up to `size`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("[Content_Types].xml", "")
        with archive.open("word/document.xml", "w", force_zip64=True) as entry:
            for _ in range(1_000):
                entry.write(b"\0" * _MB)
        archive.writestr("word/media/noise", os.urandom(max(0, size - 5 * _MB)), zipfile.ZIP_STORED)
    return buffer.getvalue()


def read() -> None:
    """One file of each format, in this process."""
    text = "\n\n".join(sentence(number) for number in range(40_000))
    files: dict[str, tuple[str, bytes]] = {
        "PDF, 400 pages": (types.PDF, pdf(400)),
        "TXT": (types.TEXT, text.encode()),
        "Markdown": (types.MARKDOWN, text.replace("Harbour", "# Harbour").encode()),
        "HTML": (types.HTML, f"<html><body>{''.join(f'<p>{line}</p>' for line in text.splitlines())}</body></html>".encode()),
        "CSV": (types.CSV, "\n".join(sentence(number).replace(" ", ",") for number in range(40_000)).encode()),
        "EPUB, 200 chapters": (
            types.EPUB,
            book(*(f"<h1>{n}</h1>" + "".join(f"<p>{sentence(n * 40 + line)}</p>" for line in range(40)) for n in range(200))),
        ),
        "DOCX, small": (types.DOCX, word()),
        "XLSX, small": (types.XLSX, workbook()),
    }
    for name, (media_type, data) in files.items():
        read_pages(media_type, data, 100_000)
        began, rounds = time.process_time(), 0
        while time.process_time() - began < 1.0 or rounds == 0:
            pages, paged = read_pages(media_type, data, 100_000)
            found = stored_text(pages, paged=paged, max_characters=50_000_000)
            rounds += 1
        seconds = (time.process_time() - began) / rounds
        per_page = f"{len(pages) / seconds:8.0f} pages/s" if paged else " " * 16
        rates = f"{len(data) / _MB / seconds:6.1f} MB/s of file {len(found.content) / _MB / seconds:6.1f} MB/s of text"
        print(f"read {name:20s} {per_page} {rates} per CPU second")


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def whole() -> None:
    """One PDF through all states."""
    data, pages = pdf(150), 150
    with deploy(Deployment.EMBEDDED, {"WIREROOM_GATEWAY_LIMITS_ENABLED": "false"}) as running:
        api = sign_up(running)
        api.indexed("warm.pdf", pdf(2))
        process = psutil.Process(running.processes["all"].pid)
        before, began = _cpu(process), time.perf_counter()
        reply = api.upload("report.pdf", data)
        document = api.settled(reply.json["id"], expect="indexed", within=300)
        seconds, used = time.perf_counter() - began, _cpu(process) - before
    print(
        f"whole PDF of {pages} pages, {document['chunks']} chunks, {len(data) / _MB:.2f} MB: {pages / used:.1f} pages, "
        f"{document['chunks'] / used:.1f} chunks, {len(data) / _MB / used:.3f} MB per CPU second (all processes), {seconds:.1f} s"
    )


def _probe(url: str, stop: Event, results: Connection) -> None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    took: list[float] = []
    while not stop.is_set():
        began = time.perf_counter()
        connection.request("GET", "/health/live")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise RuntimeError(f"/health/live answered {answer.status}.")
        took.append(time.perf_counter() - began)
        time.sleep(max(0.0, _LIVE_EVERY - took[-1]))
    results.send(took)


def _measured(url: str, work: Any) -> tuple[list[float], Any]:
    # Nothing to import anew, and no thread of this process runs yet.
    context = get_context("fork")
    stop, (mine, theirs) = context.Event(), context.Pipe()
    prober = context.Process(target=_probe, args=(url, stop, theirs), daemon=True)
    prober.start()
    try:
        outcome = work()
    finally:
        stop.set()
        took = mine.recv() if mine.poll(60) else []
        prober.join(10)
    return sorted(took), outcome


def _summary(what: str, took: list[float]) -> float:
    def at(share: float) -> float:
        return took[min(len(took) - 1, round(share * (len(took) - 1)))] * 1000

    print(
        f"live  {what}: p50 {at(0.5):.1f} ms, p95 {at(0.95):.1f} ms, p99 {at(0.99):.1f} ms, max {at(1):.1f} ms, {len(took)} calls"
    )
    return at(0.99)


def uploads(count: int, limit: float) -> float:
    """Everything at once; p99 in milliseconds."""
    size = 25_000_000
    files = {"bomb.docx": bomb(size - 200_000), "pages.pdf": pdf(10_000, lines=2, padding=12 * _MB)}
    files |= {f"padded {number}.pdf": pdf(20, padding=size - 100_000) for number in range(count - len(files))}
    settings = {"WIREROOM_GATEWAY_LIMITS_ENABLED": "false", "WIREROOM_RAG_MAX_PAGES": "20000"}
    with deploy(Deployment.EMBEDDED, settings) as running:
        api = sign_up(running)
        api.indexed("warm.pdf", pdf(2))
        idle, _ = _measured(running.base_url, lambda: time.sleep(5))
        _summary("idle", idle)
        took, (seconds, states, megabytes) = _measured(running.base_url, lambda: _upload_all(api, files, limit))
    print(
        f"uploads {len(files)} files, {megabytes:.0f} MB, at once: {seconds:.1f} s until all were answered; then {dict(states)}"
    )
    return _summary("during uploads and processing", took)


def _upload_all(api: Api, files: dict[str, bytes], limit: float) -> tuple[float, Counter[str], float]:
    states: Counter[str] = Counter()
    waiting: list[str] = []
    lock = threading.Lock()
    began = time.perf_counter()

    def send(entry: tuple[str, bytes]) -> None:
        reply = api.upload(*entry)
        with lock:
            if reply.status == 202:  # noqa: PLR2004 - accepted
                waiting.append(reply.json["id"])
            else:
                states[f"refused: {reply.json['code']}"] += 1

    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(send, files.items()))
    seconds = time.perf_counter() - began
    while waiting and time.perf_counter() - began < limit:
        time.sleep(1)
        for document_id in list(waiting):
            document = api.get(f"/api/v1/documents/{document_id}")
            if document["state"] in {"indexed", "rejected", "failed"}:
                waiting.remove(document_id)
                states[document["state"] + (f": {document['reason_code']}" if document["reason_code"] else "")] += 1
    if waiting:
        states["still in work"] = len(waiting)
    return seconds, states, sum(map(len, files.values())) / _MB


def main() -> int:
    """Run what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=["read", "whole", "uploads", []])
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--most", type=float, default=50.0)
    chosen = parser.parse_args()
    names = chosen.names or ["read", "whole", "uploads"]
    load = os.getloadavg()[0]
    print(
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load:.1f}"
    )
    worst = 0.0
    if "read" in names:
        read()
    if "whole" in names:
        whole()
    if "uploads" in names:
        worst = uploads(chosen.files, chosen.seconds)
    return int(worst > chosen.most)


if __name__ == "__main__":
    sys.exit(main())
