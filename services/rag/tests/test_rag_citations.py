from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.rag.v1 import rag_pb2
from wireroom_rag.domain.citation import Citation, quote_stands_in
from wireroom_rag.domain.scope import Scope, SourceKind

TEXT = "The mayor said: “We won’t sell\n the mill.” Nobody  objected. 🦉 An owl watched."  # noqa: RUF001 - typographic quotes are the point

positions = st.integers(0, 2**31 - 2)


@given(st.uuids(), st.integers(1, 2**31 - 1), positions, st.integers(1, 1000), st.text())
def test_citation_id_names_exactly_one_citation(document_id: UUID, version: int, start: int, length: int, text: str) -> None:
    citation = Citation.of(document_id, version, start, min(start + length, 2**31 - 1), text)
    assert Citation.decode(citation.encode()) == citation
    assert citation.matches(text)
    assert not citation.matches(text + "x")


@given(st.text(max_size=80))
def test_rubbish_is_no_citation_id(text: str) -> None:
    assert Citation.decode(text) is None or len(text) == 59


def test_padded_or_altered_citation_id_is_none() -> None:
    encoded = Citation.of(uuid4(), 1, 0, 5, "hello").encode()
    for altered in (encoded + "=", encoded[:-1], encoded + "A", encoded.replace(encoded[0], "*")):
        assert Citation.decode(altered) is None


@pytest.mark.parametrize(
    ("quote", "stands"),
    [
        ('"We won\'t sell the mill."', True),
        ("Nobody objected.", True),
        ("nobody objected.", False),
        ("We will sell the mill", False),
        ("", False),
        ("  ", False),
    ],
)
def test_quote_stands_word_for_word_whatever_its_quotation_marks(quote: str, stands: bool) -> None:  # noqa: FBT001  test parameter
    assert quote_stands_in(quote, TEXT) is stands


async def test_citation_is_given_for_what_stands_there_and_refused_for_all_else(rag: Any) -> None:
    user = rag.user()
    document = await rag.index(user, "council.txt", TEXT.encode())
    other = await rag.index(user, "other.txt", b"Nobody objected. Somewhere else.")
    end = len(TEXT)

    def span(quote: str, **fields: Any) -> rag_pb2.Span:
        return rag_pb2.Span(**{"document_id": document.id, "version": 1, "start": 0, "end": end, "quote": quote, **fields})

    answers = await rag.verify(
        user,
        span("An owl watched."),
        span("An owl slept."),
        span("Nobody objected.", start=0, end=20),
        span("Nobody objected.", version=2),
        span("An owl watched.", document_id=other.id),
        span("An owl watched.", document_id="nonsense"),
        span("An owl watched.", end=end + 1),
        span("An owl watched.", start=end, end=0),
        span("An owl watched.", start=-1),
        span("An owl watched.", start=TEXT.index("An owl")),
    )
    assert [answer.verified for answer in answers] == [True] + [False] * 8 + [True]
    assert [bool(answer.citation_id) for answer in answers] == [answer.verified for answer in answers]
    resolved = await rag.resolve(user, answers[-1].citation_id)
    # Offsets are code points: the owl before the span is one.
    assert (resolved.text, resolved.title, resolved.kind) == ("An owl watched.", "council.txt", rag_pb2.SOURCE_KIND_DOCUMENT)
    assert resolved.context_before + resolved.text + resolved.context_after == TEXT


async def test_citation_does_not_resolve_when_malformed_changed_deleted_or_not_permitted(rag: Any) -> None:
    user = rag.user()
    document = await rag.index(user, "council.txt", TEXT.encode())
    span = rag_pb2.Span(document_id=document.id, version=1, start=0, end=9, quote="The mayor")
    (citation,) = await rag.verify(user, span)
    forged = Citation.of(UUID(document.id), 1, 0, 9, "The baker").encode()
    unread = rag.user(tenant_id=user.tenant_id, permissions=frozenset({"news:read"}))
    for caller, citation_id in ((user, "garbage"), (user, ""), (user, forged), (unread, citation.citation_id)):
        with pytest.raises(WireroomError) as hidden:
            await rag.resolve(caller, citation_id)
        assert hidden.value.kind is ErrorKind.NOT_FOUND
    assert (await rag.resolve(user, citation.citation_id)).text == "The mayor"
    await rag.delete(user, document.id)
    with pytest.raises(WireroomError) as gone:
        await rag.resolve(user, citation.citation_id)
    assert gone.value.kind is ErrorKind.NOT_FOUND


def test_scope_without_kinds_is_a_scope_of_nothing() -> None:
    assert SourceKind.DOCUMENT not in Scope(uuid4(), uuid4(), frozenset()).kinds


async def test_hundred_spans_of_several_texts_are_answered_in_their_order(rag: Any) -> None:
    user = rag.user()
    texts = {
        (await rag.index(user, f"{name}.txt", f"{name} 🦉 ".encode() * 400)).id: f"{name} 🦉 " for name in ("heron", "plover")
    }
    stranger = await rag.index(rag.user(), "heron.txt", b"heron " * 400)
    spans, expected = [], []
    for number in range(25):
        for document_id, piece in texts.items():
            start = len(piece) * number
            spans.append(rag_pb2.Span(document_id=document_id, version=1, start=start, end=start + len(piece), quote=piece))
            expected.append(True)
            # The same span with another quote, then a text of another tenant.
            spans.append(rag_pb2.Span(document_id=document_id, version=1, start=start, end=start + len(piece), quote="gull"))
            expected.append(False)
    spans[7] = rag_pb2.Span(document_id=stranger.id, version=1, start=0, end=5, quote="heron")
    expected[7] = False
    spans[3], expected[3] = spans[0], True
    answers = await rag.verify(user, *spans)
    assert len(answers) == 100
    assert [answer.verified for answer in answers] == expected
    assert answers[3].citation_id == answers[0].citation_id
    for span, answer in zip(spans, answers, strict=True):
        if answer.verified:
            citation = Citation.decode(answer.citation_id)
            assert citation is not None
            assert (str(citation.document_id), citation.start, citation.end) == (span.document_id, span.start, span.end)
    assert await rag.verify(user) == []
