"""U+0000 in any text of any request of this service: refused, or of no effect, and never a failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rag_rig import ALL_PERMISSIONS, Rag

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_protos.rag.v1 import (
    access_pb2,
    collections_pb2,
    embedding_pb2,
    generations_pb2,
    processing_pb2,
    rag_pb2,
)

_FILES = (rag_pb2, access_pb2, collections_pb2, embedding_pb2, generations_pb2, processing_pb2)
_BAD = "a\x00b"
_EVERYTHING = ALL_PERMISSIONS | {
    "collections:manage",
    "collections:manage:own",
    "acl:manage",
    "acl:manage:own",
    "privacy:erase:tenant",
    "docs:delete:all",
}


def _texts(kind: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths to the texts of a message, three levels deep."""
    for field in kind.fields:
        here = (*path, field.name)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield here
        elif field.message_type is not None and len(path) < 3 and not field.message_type.full_name.startswith("google."):
            yield from _texts(field.message_type, here)


def _put(message: Message, path: tuple[str, ...], value: str) -> None:
    field = message.DESCRIPTOR.fields_by_name[path[0]]
    inner: Any = getattr(message, path[0])
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if path[1] == "key" and field.message_type.fields_by_name["value"].message_type is not None:
            inner[value].SetInParent()
        elif path[1] == "key":
            inner[value] = "v"
        elif field.message_type.fields_by_name["value"].message_type is not None:
            _put(inner["k"], path[2:], value)
        else:
            inner["k"] = value
    elif field.is_repeated and field.message_type is not None:
        _put(inner[0] if inner else inner.add(), path[1:], value)
    elif field.is_repeated:
        inner[:] = [value]
    elif field.message_type is not None:
        _put(inner, path[1:], value)
    else:
        setattr(message, path[0], value)


async def _answered(rag: Rag, channel: Any, method: Any, request: Message) -> None:
    call = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
    }[method.client_streaming, method.server_streaming]
    stub = call(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )

    async def one() -> AsyncIterator[Message]:
        yield request

    if method.server_streaming:
        async for _ in stub(request):
            break
    else:
        await stub(one() if method.client_streaming else request)


async def test_no_text_with_nul_makes_a_request_fail(rag: Rag) -> None:
    user = rag.user(permissions=_EVERYTHING)
    document = await rag.index(user, "a.txt", b"The pelican dives.")
    set_current_principal(user.principal())
    made = await rag.collections.CreateCollection(collections_pb2.CreateCollectionRequest(name="birds"))
    ids = {
        "collection_id": made.collection.id,
        "document_id": document.id,
        "collection_ids": made.collection.id,
        "query": "pelican",
    }
    tried, wrong = 0, list[str]()
    for service in (service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()):
        for method in service.methods:
            for path in _texts(method.input_type):
                request = GetMessageClass(method.input_type)()
                own = made.collection.id if service.name == "CollectionService" else document.id
                for other in _texts(method.input_type):
                    if (value := {**ids, "id": own}.get(other[-1])) and len(other) == 1:
                        _put(request, other, value)
                _put(request, path, _BAD)
                tried += 1
                set_current_principal(user.principal())
                try:
                    await _answered(rag, rag.channel, method, request)
                except WireroomError as error:
                    if error.kind not in (ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.CONFLICT, ErrorKind.FORBIDDEN):
                        wrong.append(f"{method.full_name} {'.'.join(path)}: {error.kind} {error.code}")
    assert tried > 40
    assert wrong == []
