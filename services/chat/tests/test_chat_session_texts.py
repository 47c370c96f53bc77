"""What a follow-up searches for, how much is told again, and files of conversations."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from wireroom_chat.adapters.pdf_transcript import PdfTranscript
from wireroom_chat.domain.followup import search_query
from wireroom_chat.domain.history import HistoryLimits, conversation, exchanges, newest_within, to_summarise
from wireroom_chat.domain.sessions import Message, Session, clean_text
from wireroom_chat.domain.terms import Terms, count_tokens
from wireroom_chat.domain.transcript import JsonTranscript, MarkdownTranscript, escaped

TERMS = Terms()
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def message(number: int, role: str, content: str, **changes: object) -> Message:
    values: dict[str, object] = {
        "id": uuid4(),
        "session_id": uuid4(),
        "number": number,
        "role": role,
        "content": content,
        "annotations": [],
        "completion_id": "",
        "status": "completed",
        "finish_reason": "stop",
        "error_code": "",
        "model": "grounded",
        "answer_mode": "",
        "tokens_in": 0,
        "tokens_out": 0,
        "created_at": NOW,
        "finished_at": NOW,
    }
    return Message(**(values | changes))  # type: ignore[arg-type]  # values of their types


def session(title: str = "Pumps") -> Session:
    return Session(
        uuid4(),
        uuid4(),
        title,
        "grounded",
        "",
        None,
        archived=False,
        message_count=2,
        version=1,
        created_at=NOW,
        updated_at=NOW,
        turn_running=False,
    )


@pytest.mark.parametrize(
    ("earlier", "question", "wanted", "unwanted"),
    [
        (["How many litres per minute does the Aurora pump deliver?"], "And what does its motor draw?", ["Aurora", "pump"], []),
        (["What will construction of the tram line cost?"], "When will it begin?", ["construction", "tram", "line"], []),
        (["Who is the mayor of Lindau?"], "Why?", ["mayor", "Lindau"], []),
        (["Who is the mayor of Lindau?"], "What about the council?", ["Lindau"], []),
        # The topic is handed on through a chain of follow-ups.
        (["How loud is the Aurora pump?", "What about its weight?"], "And its price?", ["Aurora", "pump"], []),
        # A question that stands by itself stays as it is, whatever went before.
        (["How loud is the Aurora pump?"], "What will construction of the tram line cost?", [], ["Aurora"]),
        # A name says what is meant, in spite of the pronoun.
        (["How loud is the Aurora pump?"], "Does the Borealis pump keep its warranty?", [], ["Aurora"]),
        # A new topic replaces the old one.
        (["How loud is the Aurora pump?", "Who is the mayor of Lindau?"], "How old is she?", ["mayor", "Lindau"], ["Aurora"]),
        ([], "And what does its motor draw?", [], []),
    ],
)
def test_follow_up_takes_the_topic_along(earlier: list[str], question: str, wanted: list[str], unwanted: list[str]) -> None:
    query = search_query(question, earlier, TERMS)
    assert query.startswith(question)
    assert [word for word in wanted if word not in query] == []
    assert [word for word in unwanted if word in query] == []
    if not wanted:
        assert query == question


@given(st.text(max_size=200), st.lists(st.text(max_size=200), max_size=10))
def test_search_query_begins_with_the_question_and_stays_short(question: str, earlier: list[str]) -> None:
    query = search_query(question, earlier, Terms())
    assert query.startswith(question)
    assert len(query[len(question) :].split()) <= 4


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), st.integers(0, 60), st.integers(0, 400))
def test_history_is_whole_exchanges_from_the_end_within_the_limits(
    pairs: list[tuple[int, int]], messages: int, tokens: int
) -> None:
    said = [
        message(2 * index + offset + 1, role, "word " * words)
        for index, pair in enumerate(pairs)
        for offset, (role, words) in enumerate(zip(("user", "assistant"), pair, strict=True))
    ]
    kept = newest_within(said, HistoryLimits(messages, tokens))
    assert kept == said[len(said) - len(kept) :]
    assert len(kept) % 2 == 0
    assert len(kept) <= messages
    assert sum(count_tokens(entry.content) for entry in kept) <= tokens
    old = to_summarise(said, HistoryLimits(messages, tokens))
    assert old == said[: len(old)]
    assert bool(old) is (len(kept) < len(said))
    assert newest_within(said[len(old) :], HistoryLimits(messages, tokens)) == said[len(old) :]


def test_only_answered_questions_are_told_again() -> None:
    said = [
        message(1, "user", "A?"),
        message(2, "assistant", "", status="failed"),
        message(3, "user", "B?"),
        message(4, "assistant", "B, but", status="cancelled"),
        message(5, "user", "C?"),
        message(6, "assistant", "C.", status="completed"),
        message(7, "user", "D?"),
        message(8, "assistant", "", status="streaming"),
    ]
    assert [entry.content for entry in exchanges(said)] == ["B?", "B, but", "C?", "C."]


def test_summary_is_no_instruction() -> None:
    told = conversation("Be brief.", "They spoke of pumps.", [], "And now?")
    assert [entry["role"] for entry in told] == ["system", "user", "assistant", "user"]
    assert "pumps" not in told[0]["content"]


HOSTILE = (
    "# Answer\n<script>alert(1)</script>\n```\n## Question\n![x](http://evil.example/p.png)\n````text\n[a](javascript:alert(1))"
)


@given(st.text(max_size=300).map(clean_text))
def test_markdown_shows_every_text_between_fences_and_nothing_else(content: str) -> None:
    lines = MarkdownTranscript().message(message(2, "assistant", content)).decode().split("\n")
    fence = lines[2].removesuffix("text")
    assert set(fence) == {"`"}
    assert len(fence) >= 3
    end = lines.index(fence, 3)
    assert "\n".join(lines[3:end]) == content
    assert not any(line.strip() for line in lines[end + 1 :])
    assert not any(line.lstrip().startswith(fence) for line in lines[3:end])


def test_markdown_of_hostile_texts_has_only_our_headings() -> None:
    writer = MarkdownTranscript()
    note = {"type": "url_citation", "url_citation": {"title": "<b>[x](javascript:1)</b>\n# Title", "url": "javascript:alert(1)"}}
    good = {"type": "url_citation", "url_citation": {"title": "Tram", "url": "https://news.example/tram?id=1"}}
    text = (
        writer.head(session("<img src=x>\n# Forged")) + writer.message(message(2, "assistant", HOSTILE, annotations=[note, good]))
    ).decode()
    fence = "`" * 5
    outside = text.split(f"{fence}text\n")[0] + text.split(f"\n{fence}\n")[1]
    assert f"{fence}text\n{HOSTILE}\n{fence}" in text
    assert [line for line in outside.split("\n") if line.startswith("#")] == [
        "# \\<img src\\=x\\> \\# Forged",
        "## Answer, 2026-03-01 12:30",
    ]
    assert "<b>" not in outside
    assert "](javascript" not in outside
    assert "<https://news.example/tram?id=1>" in outside


@given(st.text(max_size=200))
def test_escaped_text_has_no_bare_markup(text: str) -> None:
    result = escaped(text)
    assert "\n" not in result
    for index, character in enumerate(result):
        if character in "<>[]`*_#!&|":
            assert result[index - 1] == "\\"


def test_json_parses_and_holds_everything() -> None:
    writer = JsonTranscript()
    entries = [message(1, "user", HOSTILE), message(2, "assistant", "\N{GRINNING FACE}", status="cancelled")]
    found = orjson.loads(writer.head(session()) + b"".join(writer.message(entry) for entry in entries) + writer.tail())
    assert found["session"]["title"] == "Pumps"
    assert [(entry["number"], entry["content"], entry["status"]) for entry in found["messages"]] == [
        (1, HOSTILE, "completed"),
        (2, "\N{GRINNING FACE}", "cancelled"),
    ]


def pdf_text(data: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)


def test_pdf_shows_texts_of_many_scripts_and_markup_as_text() -> None:
    contents = [
        "Größe, naïve, Kraków, ₹ 100, Ελλάδα, Москва",
        "<b>not bold</b> &amp; <a href='javascript:1'>x</a>",
        "日本語のテキスト",
        "中文文本",
        "한국어 텍스트",
    ]
    entries = [message(number, "user", content) for number, content in enumerate(contents, start=1)]
    data = PdfTranscript().render(session("Über <i>Pumpen</i>"), entries)
    text = pdf_text(data)
    assert "Über <i>Pumpen</i>" in text
    for content in contents[:2]:
        assert content in text
    assert b"/Annots" not in data
    fonts = {
        str(font.get_object()["/BaseFont"])
        for page in PdfReader(io.BytesIO(data)).pages
        for font in page["/Resources"]["/Font"].values()
    }
    assert [
        name for name in ("STSong-Light", "HeiseiMin-W3", "HYSMyeongJo-Medium") if not any(name in font for font in fonts)
    ] == []


def test_pdf_of_awkward_texts_is_a_pdf() -> None:
    entries = [
        message(1, "user", "x" * 20_000),
        message(2, "assistant", "\n" * 500 + "end"),
        message(
            3, "user", "\N{GRINNING FACE} \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea \ud7ff\uffff"
        ),
        message(4, "assistant", "", status="failed"),
    ]
    text = pdf_text(PdfTranscript().render(session(""), entries))
    assert text.count("x") >= 20_000
    assert "end" in text
    assert "\N{REPLACEMENT CHARACTER}" in text
    assert "(failed)" in text


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=400).map(clean_text))
def test_pdf_takes_any_text(content: str) -> None:
    data = PdfTranscript().render(session(content[:50]), [message(1, "user", content)])
    assert data.startswith(b"%PDF-")
