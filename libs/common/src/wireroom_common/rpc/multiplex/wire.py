"""What both ends of a stream agree on: sizes, credit, and how metadata and status are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from wireroom_common.rpc.exchange import METADATA_BYTES, CallStatus, Metadata, checked_metadata

# What a reader that is behind may have waiting for it, beside one message.
WINDOW_BYTES = 128 * 1024
# Credit counts an envelope with data as this much more than its bytes: empty ones take memory too.
ENVELOPE_COST = 64
# Large responses are cut, so that those of other calls pass between the parts.
PART_BYTES = 32 * 1024
# Larger requests go by ordinary gRPC: a stream has no credit for them.
MAX_REQUEST_BYTES = 64 * 1024

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# What an entry of metadata costs beside its characters, as HTTP/2 counts it.
_ENTRY_COST = 32


class BadMetadataError(Exception):
    """Metadata that gRPC would not have delivered."""


def add_metadata(entries: Any, metadata: Metadata) -> None:
    """Write metadata into a field of `MetadataEntry`."""
    for key, value in metadata:
        entries.add(key=key, value=value if isinstance(value, bytes) else value.encode("ascii"))


def read_metadata(entries: Iterable[Any]) -> Metadata:
    """The metadata that was sent; BadMetadataError if it is larger than the limit or could not have come by gRPC."""
    size = 0
    found: list[tuple[str, str | bytes]] = []
    for entry in entries:
        key, value = entry.key, entry.value
        size += len(key) + len(value) + _ENTRY_COST
        try:
            found.append((key, value if key.endswith("-bin") else value.decode("ascii")))
        except UnicodeDecodeError:
            raise BadMetadataError(f"The metadata {key!r} is not ASCII.") from None
    if size > METADATA_BYTES:
        raise BadMetadataError(f"The metadata is larger than max ({size} vs. {METADATA_BYTES})")
    try:
        return checked_metadata(found)
    except ValueError as error:
        raise BadMetadataError(str(error)) from None


def write_end(end: Any, status: CallStatus) -> None:
    """Write how a call ended into an `EndOfCall`."""
    end.code = status.code.value[0]
    end.details = status.details
    add_metadata(end.trailing_metadata, status.trailing_metadata)


def read_end(end: Any) -> CallStatus:
    """How a call ended, as the server says."""
    try:
        trailing = read_metadata(end.trailing_metadata)
    except BadMetadataError as error:
        return CallStatus(grpc.StatusCode.INTERNAL, str(error))
    return CallStatus(_CODES.get(end.code, grpc.StatusCode.UNKNOWN), end.details, trailing)
