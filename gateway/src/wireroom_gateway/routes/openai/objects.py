"""How OpenAI's files and vector stores name things, times and lists; ours have UUIDs underneath."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from google.protobuf.message import Message

from wireroom_common.errors import not_found
from wireroom_gateway.routes.fields import IdFilter
from wireroom_protos.rag.v1 import collections_pb2

_FILE, _STORE, _BATCH = "file-", "vs_", "vsfb_"
Order = Annotated[Literal["asc", "desc"], Query(description="By the time of creation")]
Cursor = IdFilter
PageLimit = Annotated[int, Query(ge=1, le=100, description="Entries per page")]


def file_id(document_id: str) -> str:
    """`file-…` for a document."""
    return _FILE + UUID(document_id).hex


def store_id(collection_id: str) -> str:
    """`vs_…` for a collection."""
    return _STORE + UUID(collection_id).hex


def document_of(given: str) -> str:
    """The document's id in a file's; NOT_FOUND for what is none."""
    return _uuid(given, _FILE, "file")


def collection_of(given: str) -> str:
    """The collection's id in a vector store's; NOT_FOUND for what is none."""
    return _uuid(given, _STORE, "vector store")


def batch_id(given: str) -> str:
    """`vsfb_…` for a file batch."""
    return _BATCH + UUID(given).hex


def batch_of(given: str) -> str:
    """The id of a file batch as rag knows it; NOT_FOUND for what is none."""
    return _uuid(given, _BATCH, "file batch")


def page_of(limit: int, order: str, after: str, before: str, *, files: bool = False) -> collections_pb2.IdPage:
    """OpenAI's cursors as a page by id."""
    named = document_of if files else collection_of
    return collections_pb2.IdPage(
        size=limit, after=named(after) if after else "", before=named(before) if before else "", ascending=order == "asc"
    )


def seconds(message: Message, field: str) -> int:
    """A timestamp field in seconds since 1970."""
    return int(getattr(message, field).seconds)


def _uuid(given: str, prefix: str, what: str) -> str:
    try:
        return str(UUID(given.removeprefix(prefix)))
    except ValueError:
        raise not_found(what) from None
