"""A multipart upload, handed on part by part while it arrives: nothing of it is kept here."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from wireroom_gateway.problems import HttpProblemError, http_problem
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc

_CHUNK = 256 * 1024
_MAX_NAME = 255
_MAX_MEDIA_TYPE = 200
_MAX_FIELD = 200


async def upload_document(
    stub: rag_pb2_grpc.DocumentServiceAsyncStub,
    content_type: str,
    receive: Receive,
    *,
    time_limit: float,
    max_file_bytes: int,
    fields: Mapping[str, Callable[[str], None]] = MappingProxyType({}),
    readers: rag_pb2.DocumentAccess.ValueType = rag_pb2.DOCUMENT_ACCESS_UNSPECIFIED,
    collection_id: str = "",
) -> rag_pb2.Document:
    """Stream the one part called `file` to `rag`. Each of `fields` must be there, too: a short text that its check does not refuse.

    What makes the body unusable, or a client that goes away, is raised here and gives the call up before its end: nothing is stored.
    """
    messages = _FileParts(content_type, receive, max_file_bytes, fields).messages()
    # What is wrong with the head shows before anything reaches the service.
    first = await anext(messages)
    first.head.access, first.head.collection_id = readers, collection_id

    async def requests() -> AsyncIterator[rag_pb2.UploadDocumentRequest]:
        yield first
        async for message in messages:
            yield message

    return (await stub.UploadDocument(requests(), timeout=time_limit)).document


class _FileParts:
    """Messages for `UploadDocument`: the head, then the file's bytes."""

    def __init__(
        self, content_type: str, receive: Receive, max_file_bytes: int, fields: Mapping[str, Callable[[str], None]]
    ) -> None:
        media_type, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if media_type != b"multipart/form-data" or not boundary:
            raise http_problem(415, "Send the file as 'multipart/form-data' in a part called 'file'.")
        self._receive = receive
        self._max = max_file_bytes
        self._fields = dict(fields)
        # The field whose text the parser is in.
        self._field = ""
        self._ready: deque[rag_pb2.UploadDocumentRequest] = deque()
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._buffer = bytearray()
        self._files = 0
        self._size = 0
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _malformed() from None

    async def messages(self) -> AsyncIterator[rag_pb2.UploadDocumentRequest]:
        """In order; ends after the closing boundary, else raises."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            try:
                self._parser.write(message.get("body", b""))
            except FormParserError:
                raise _malformed() from None
            while self._ready:
                yield self._ready.popleft()
        if not self._complete:
            raise _malformed()
        if not self._files:
            raise http_problem(422, "The form has no part called 'file' with a file name.", code="file_missing")
        if self._fields:
            raise http_problem(422, f"The form has no part called '{next(iter(self._fields))}'.", code="form_field_missing")

    def _begin_header(self) -> None:
        self._header_name = self._header_value = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in self._fields and b"filename" not in options:
            self._field = name
            return
        if name != "file" or b"filename" not in options or self._files:
            others = "".join(f", and '{field}'" for field in self._fields)
            raise http_problem(
                422, f"The form must have one part, called 'file', with a file name{others}.", code="form_unexpected_part"
            )
        self._files = 1
        head = rag_pb2.UploadHead(
            filename=options[b"filename"].decode("utf-8", "replace").replace("\0", "")[:_MAX_NAME],
            media_type=self._headers.get(b"content-type", b"").decode("latin-1")[:_MAX_MEDIA_TYPE],
        )
        self._ready.append(rag_pb2.UploadDocumentRequest(head=head))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._field:
            if len(self._buffer) + end - start > _MAX_FIELD:
                raise http_problem(422, f"The part '{self._field}' is too long.", code="form_field_invalid")
            self._buffer += data[start:end]
            return
        self._size += end - start
        if self._size > self._max:
            raise http_problem(
                413,
                f"The file is larger than the {self._max} bytes taken.",
                code="document_too_large",
            )
        self._buffer += data[start:end]
        if len(self._buffer) >= _CHUNK:
            self._flush()

    def _end_part(self) -> None:
        if not self._field:
            self._flush()
            return
        check = self._fields.pop(self._field)
        self._field = ""
        text = bytes(self._buffer).decode("utf-8", "replace")
        self._buffer.clear()
        check(text)

    def _flush(self) -> None:
        if self._buffer:
            self._ready.append(rag_pb2.UploadDocumentRequest(data=bytes(self._buffer)))
            self._buffer.clear()

    def _end(self) -> None:
        self._complete = True


def _malformed() -> HttpProblemError:
    return http_problem(400, "The multipart body is malformed or incomplete.", code="multipart_malformed")
