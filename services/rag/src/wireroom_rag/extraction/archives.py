"""ZIP archives of strangers: bounded before anything of them is unpacked."""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

from wireroom_rag.domain.document import RejectedError

MAX_ENTRIES = 10_000
MAX_UNPACKED = 300_000_000
# Text in XML shrinks to a tenth, rarely to a fiftieth; deflate cannot go beyond 1:1032.
MAX_RATIO = 200
# What is small is harmless at any ratio.
_RATIO_FROM = 10_000_000
# What reading a broken archive raises, and readers of office files that find what they did not expect.
READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
)


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The archive, if its directory keeps the bounds: `document_archive_bomb`, `document_encrypted` or `document_unreadable` otherwise.

    `zipfile` unpacks no more of an entry than its directory says, so a directory that lies changes nothing.
    """
    try:
        archive = zipfile.ZipFile(file)
    except READ_ERRORS as error:
        raise damaged() from error
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise _bomb(f"it has more than {MAX_ENTRIES} entries")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise _bomb(f"it unpacks to more than {MAX_UNPACKED // 1_000_000} MB")
    for entry in entries:
        if entry.flag_bits & 1:
            raise RejectedError("document_encrypted", "The file is encrypted with a password. Upload it without one.")
        if entry.file_size > _RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise _bomb(f"one of its entries unpacks to more than {MAX_RATIO} times its size")
    return archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """One entry; `document_unreadable` when it is missing or broken."""
    try:
        return archive.read(name)
    except READ_ERRORS as error:
        raise damaged() from error


def damaged() -> RejectedError:
    """For whatever cannot be read."""
    return RejectedError("document_unreadable", "The file is damaged or incomplete: its parts cannot be read.")


def _bomb(what: str) -> RejectedError:
    return RejectedError("document_archive_bomb", f"The file is not unpacked: {what}.")
