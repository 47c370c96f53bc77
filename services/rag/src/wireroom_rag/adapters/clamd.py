"""A client of ClamAV's daemon: `INSTREAM` over TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_rag.domain.document import TOO_LARGE_TO_SCAN, RejectedError

_LENGTH = struct.Struct(">I")
_PIECE = 128 * 1024
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 5.0
_LONGEST_ANSWER = 4096
_LONGEST_NAME = 200
_PORTS = 65_536


class ClamdScanner:
    """Implements `Scanner`. `address`: `host:port`, or the path of a Unix socket. One connection per file, `at_once` at most."""

    def __init__(self, address: str, *, timeout: float, at_once: int = 2) -> None:
        self._address = address
        self._timeout = timeout
        self._slots = asyncio.Semaphore(at_once)
        host, _, port = address.rpartition(":")
        if not address.startswith("/") and not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < _PORTS):
            raise OperatorError(f"WIREROOM_RAG_CLAMD is '{address}', but must be host:port or the path of a Unix socket.")

    async def scan(self, data: AsyncIterator[bytes]) -> str:
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._ask(data)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                # A file that is not there is no matter of the scanner.
                if isinstance(error, FileNotFoundError) and error.errno is None:
                    raise
                raise _away() from error
        return _verdict(answer)

    async def _ask(self, data: AsyncIterator[bytes]) -> str:
        reader, writer = await self._connect()
        try:
            writer.write(b"zINSTREAM\0")
            try:
                async for block in data:
                    for start in range(0, len(block), _PIECE):
                        piece = block[start : start + _PIECE]
                        writer.write(_LENGTH.pack(len(piece)) + piece)
                        await writer.drain()
                writer.write(_LENGTH.pack(0))
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError):
                # It may have answered before it hung up: that the file is too large.
                pass
            return (await reader.readuntil(b"\0"))[:-1].decode("utf-8", "replace")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            if self._address.startswith("/"):
                return await self._connect_socket()
            host, _, port = self._address.rpartition(":")
            return await asyncio.open_connection(host.strip("[]"), int(port), limit=_LONGEST_ANSWER)

    async def _connect_socket(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._address, limit=_LONGEST_ANSWER)
        except FileNotFoundError as error:
            raise _away() from error


def _verdict(answer: str) -> str:
    verdict = answer.removeprefix("stream: ")
    if verdict == "OK":
        return ""
    if verdict.endswith(" FOUND"):
        return verdict.removesuffix(" FOUND")[:_LONGEST_NAME]
    if "size limit exceeded" in verdict:
        raise RejectedError(TOO_LARGE_TO_SCAN, "The file is larger than the virus scanner takes.")
    raise _away()


def _away() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "scanner_unavailable", "The virus scanner does not answer.", retry_after=_RETRY_SECONDS
    )
