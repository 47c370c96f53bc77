"""Text of e-mails (RFC 5322, MIME): who, when, about what, the text, and that of attachments which can be read."""

from __future__ import annotations

import email
import email.policy
import io
import itertools
from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from typing import cast

from wireroom_common.errors import WireroomError
from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.encoding import decode_text, known_encoding
from wireroom_rag.extraction.markup import html_string_text
from wireroom_rag.extraction.media_types import HEAD_BYTES, MAIL, media_type_of
from wireroom_rag.extraction.readers import read_pages

_SHOWN = ("From", "To", "Cc", "Date")
_MAX_PARTS = 1_000
_DEPTH = 10
# Of all attachments together, and pages of one.
_MAX_READ = 50
_MAX_PAGES = 2_000


def mail_text(data: bytes) -> str:
    """A mail and the mails inside it. Of alternatives the plain text is taken, of HTML what a reader sees."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if sum(1 for _ in message.walk()) > _MAX_PARTS:
        raise RejectedError("document_too_complex", f"The e-mail has more than {_MAX_PARTS} parts.")
    return "\n\n".join(part for part in _message(message, 0, itertools.count()) if part.strip())


def _message(message: EmailMessage, depth: int, read: Iterator[int]) -> Iterator[str]:
    yield f"# {_header(message, 'Subject') or 'E-mail'}"
    yield "\n".join(f"{name}: {value}" for name in _SHOWN if (value := _header(message, name)))
    body = message.get_body(("plain", "html"))
    if body is not None:
        yield _text(body)
    for part in _attachments(message, body):
        if part.get_content_type() == "message/rfc822" and depth < _DEPTH:
            for inner in part.iter_parts():
                yield from _message(cast("EmailMessage", inner), depth + 1, read)
        else:
            yield f"Attachment: {_name(part)} ({part.get_content_type()})"
            yield from _attached(part, depth, read)


def _attached(part: EmailMessage, depth: int, read: Iterator[int]) -> Iterator[str]:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        kind = media_type_of(_name(part), data[:HEAD_BYTES], lambda: io.BytesIO(data))
        if not data or next(read) >= _MAX_READ:
            return
        if kind != MAIL:
            yield from read_pages(kind, data, _MAX_PAGES)[0]
        elif depth < _DEPTH:
            yield from _message(email.message_from_bytes(data, policy=email.policy.default), depth + 1, read)
    except (RejectedError, WireroomError):
        # Its name stands there already; a picture or a damaged file does not spoil the mail.
        return


def _attachments(message: EmailMessage, body: MIMEPart | None) -> Iterator[EmailMessage]:
    """The leaves, and mails inside, that are neither the body nor another form of it."""
    waiting: list[EmailMessage] = [message]
    while waiting:
        part = waiting.pop()
        inner = [cast("EmailMessage", each) for each in part.iter_parts()] if part.is_multipart() else []
        if part.get_content_type() == "message/rfc822" and part is not message:
            yield part
        elif part.get_content_type() == "multipart/alternative":
            # The other forms of the body say the same; what is no text stays an attachment.
            waiting.extend(reversed([each for each in inner if each.get_content_maintype() != "text"]))
        elif inner:
            waiting.extend(reversed(inner))
        elif part is not body and part is not message:
            yield part


def _text(part: MIMEPart) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    text = decode_text(data, known_encoding(charset) if charset else None)
    if part.get_content_type() != "text/html" or not text.strip():
        return text
    return html_string_text(text)


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, IndexError, AttributeError, TypeError):
        # The standard library's parser trips over some malformed headers.
        return ""


def _name(part: EmailMessage) -> str:
    try:
        return " ".join((part.get_filename() or "").split()) or "without a name"
    except (ValueError, IndexError, AttributeError, TypeError):
        return "without a name"
