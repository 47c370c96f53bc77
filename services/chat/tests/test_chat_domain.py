from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from chat_harness import passage
from hypothesis import given
from hypothesis import strategies as st

from wireroom_chat.domain.answer import AnswerText
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.intent import needs_generation
from wireroom_chat.domain.passages import Citation, Quote, SourceKind
from wireroom_chat.domain.providers import Alias, Candidate, ProviderModel
from wireroom_chat.domain.request import Grounding, GroundingMode, parse_request
from wireroom_chat.domain.sentences import split, trimmed
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.verification import SentenceBuffer, evidence_quotes
from wireroom_chat.settings import ChatSettings
from wireroom_chat.usecases.checking import FLAG, Checking, SentenceChecker
from wireroom_common.errors import ErrorKind, WireroomError

PROSE = st.text(alphabet=st.sampled_from("abAB. !?\n-1[]\u2019\u201d e\u00e9\U0001f600\u3002,"), max_size=200)


@given(PROSE)
def test_sentence_spans_joined_give_the_text_back(content: str) -> None:
    spans = split(content)
    assert "".join(content[start:end] for start, end in spans) == content
    assert all(start < end for start, end in spans)
    assert all(content[start:end].strip() == content[start:end] != "" for start, end in trimmed(content))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Dr. Holm led it. It ended.", ["Dr. Holm led it.", "It ended."]),
        ("It cost 3.5 million. Yes!", ["It cost 3.5 million.", "Yes!"]),
        ("He lives in the U.S. and works.", ["He lives in the U.S. and works."]),
        ("\u201cStop!\u201d he said. She left.", ["\u201cStop!\u201d he said.", "She left."]),
        ("Intro:\n- one\n- two", ["Intro:", "- one", "- two"]),
        ("Title\n\nBody text.", ["Title", "Body text."]),
        ("J. Smith wrote it. See e.g. the annex.", ["J. Smith wrote it.", "See e.g. the annex."]),
    ],
)
def test_sentences_end_where_people_end_them(content: str, expected: list[str]) -> None:
    assert [content[start:end] for start, end in trimmed(content)] == expected


@given(st.lists(PROSE, max_size=12))
def test_growing_text_is_cut_without_loss_however_it_arrives(parts: list[str]) -> None:
    buffer = SentenceBuffer()
    released = [sentence for part in parts for sentence in buffer.feed(part)] + buffer.rest()
    assert "".join(released) == "".join(parts)


def test_markers_behind_the_full_stop_stay_with_their_sentence() -> None:
    buffer = SentenceBuffer()
    released = [sentence for part in ("One thing. ", "[1] ", "[2] Another", " thing [3]. Last") for sentence in buffer.feed(part)]
    assert released == ["One thing. [1] [2] ", "Another thing [3]. "]
    assert buffer.rest() == ["Last"]


def _checker(mode: GroundingMode = GroundingMode.STRICT, *texts: str) -> SentenceChecker:
    passages = [passage(number, content) for number, content in enumerate(texts, start=1)]
    quotes = evidence_quotes(passages, 100)
    evidence = {number: [Citation(quote, f"c{quote.span}") for quote in group] for number, group in quotes.items()}
    return SentenceChecker(Checking(Terms()), evidence, Grounding(mode=mode))


SOURCE = "The trial enrolled 312 patients in Bergen. It did not include children. Dr. Holm led the study."


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The trial enrolled 312 patients [1].", "The trial enrolled 312 patients [1]."),
        ("In Bergen, 312 patients were enrolled in the trial. [1]", "In Bergen, 312 patients were enrolled in the trial. [1]"),
        ("The trial enrolled 312 patients [9].", None),
        ("The trial enrolled 313 patients [1].", None),
        ("The trial enrolled 312 patients in Oslo [1].", None),
        ("The trial did not enroll 312 patients in Bergen [1].", None),
        ("It included children [1].", None),
        ("It did not include children [1].", "It did not include children [1]."),
        ("The weather was sunny and warm all week [1].", None),
        ("The trial enrolled 312 patients.", None),
        ("The trial enrolled 312 patients [9][1].", "The trial enrolled 312 patients [1]."),
        ("The trial enrolled 312 patients [1, 9].", "The trial enrolled 312 patients [1]."),
        ("[1]", None),
    ],
)
async def test_marker_holds_only_with_words_numbers_names_and_polarity(sentence: str, expected: str | None) -> None:
    piece = await _checker(GroundingMode.STRICT, SOURCE).check(sentence)
    assert (piece.text if piece else None) == expected


async def test_citation_points_to_the_sentence_that_supports() -> None:
    piece = await _checker(GroundingMode.STRICT, SOURCE).check("Dr. Holm led the study [1]. ")
    assert piece is not None
    ((number, citation),) = piece.citations
    assert number == 1
    assert citation.quote.text == "Dr. Holm led the study."
    assert citation.quote.span == (100 + SOURCE.index("Dr. Holm"), 100 + len(SOURCE))


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 100])
def test_evidence_stays_within_what_one_call_verifies(limit: int) -> None:
    passages = [passage(1, "One is here. Two is here. Three is here."), passage(2, "Four is here. Five is here.")]
    evidence = evidence_quotes(passages, limit)
    assert 0 < sum(len(quotes) for quotes in evidence.values()) <= limit
    if limit == 100:
        assert [quote.text for quote in evidence[2]] == ["Four is here.", "Five is here.", "Four is here. Five is here."]


SENTENCES = st.sampled_from(
    [
        "The trial enrolled 312 patients [1]. ",
        "Ça va 😀 [1].\n",
        "Dr. Holm led the study. [1][2] ",
        "No marker here. ",
        "It did not include children [7]. ",
        "- Holm led the study in Bergen [1]\n",
    ]
)


@given(st.lists(SENTENCES, max_size=8), st.sampled_from(list(GroundingMode)), st.integers(1, 9))
async def test_annotation_offsets_cover_the_cited_sentence_in_the_final_text(
    parts: list[str], mode: GroundingMode, size: int
) -> None:
    written = "".join(parts)
    checker, buffer, answer = _checker(mode, SOURCE), SentenceBuffer(), AnswerText()
    released = [item for at in range(0, len(written), size) for item in buffer.feed(written[at : at + size])] + buffer.rest()
    for sentence in released:
        piece = await checker.check(sentence)
        if piece is not None:
            answer.add(piece)
    final = answer.text
    assert [final[start:end].endswith(FLAG) for start, end in answer.flags] == [True] * final.count(FLAG)
    for note in answer.annotations:
        cited = final[note.start : note.end]
        assert f"[{note.number}]" in cited
        assert cited == cited.strip()
        assert cited in released or re.sub(r"\s*\[\d+\]", "", cited) in re.sub(r"\s*\[\d+\]", "", written)
    # Every marker that is left has its annotation.
    assert len(re.findall(r"\[\d+\]", final)) == len(answer.annotations)


def test_passage_whose_text_is_not_its_span_is_cited_as_a_whole() -> None:
    odd = passage(1, "Cleaned text.", start=10, end=99)
    assert Quote(odd, 0, 7).span == (10, 99)


def _fields(members: Any) -> list[str]:
    with pytest.raises(WireroomError) as caught:
        parse_request(orjson.dumps(members), stream=False)
    assert caught.value.kind is ErrorKind.INVALID
    return [problem.field for problem in caught.value.fields]


USER = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("members", "fields"),
    [
        ({}, ["model", "messages"]),
        ({"model": "m", "messages": []}, ["messages"]),
        ({"model": "m", "messages": "hi"}, ["messages"]),
        ({"model": 3, "messages": USER}, ["model"]),
        ({"model": "m", "messages": [{"role": "boss", "content": "x"}]}, ["messages[0].role"]),
        ({"model": "m", "messages": [{"role": "user"}]}, ["messages[0].content"]),
        ({"model": "m", "messages": [{"role": "user", "content": []}]}, ["messages[0].content"]),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["messages[0].content[0].text"]),
        ({"model": "m", "messages": [3]}, ["messages[0]"]),
        ({"model": "m", "messages": USER, "n": 0}, ["n"]),
        ({"model": "m", "messages": USER, "n": True}, ["n"]),
        ({"model": "m", "messages": USER, "stream": "yes"}, ["stream"]),
        ({"model": "m", "messages": USER, "stream_options": 1}, ["stream_options"]),
        ({"model": "m", "messages": USER, "stream_options": {"include_usage": 1}}, ["stream_options.include_usage"]),
        ({"model": "m", "messages": USER, "grounding": []}, ["grounding"]),
        ({"model": "m", "messages": USER, "grounding": {"sources": ["web"]}}, ["grounding.sources"]),
        ({"model": "m", "messages": USER, "grounding": {"sources": ["docs: "]}}, ["grounding.sources"]),
        ({"model": "m", "messages": USER, "grounding": {"sources": ["docs:a\x00b"]}}, ["grounding.sources"]),
        ({"model": "m", "messages": USER, "grounding": {"sources": ["docs", "docs:handbook"]}}, ["grounding.sources"]),
        ({"model": "m", "messages": USER, "grounding": {"sources": [f"docs:{n}" for n in range(21)]}}, ["grounding.sources"]),
        ({"model": "m", "messages": USER, "grounding": {"top_k": 51}}, ["grounding.top_k"]),
        ({"model": "m", "messages": USER, "grounding": {"mode": "lax"}}, ["grounding.mode"]),
        ({"model": "m", "messages": USER, "grounding": {"since": "soon"}}, ["grounding.since"]),
        ({"model": "m", "messages": USER, "grounding": {"since": 5}}, ["grounding.since"]),
        ({"model": "m", "messages": USER, "grounding": {"topk": 5}}, ["grounding.topk"]),
    ],
)
def test_bad_request_names_the_member(members: dict[str, Any], fields: list[str]) -> None:
    assert _fields(members) == fields


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "sources", "mode", "since", "include_usage"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("sources", "kinds", "collections"),
    [
        (["docs:handbook"], (SourceKind.DOCUMENT,), ("handbook",)),
        (["news", "docs: b ", "docs:a", "docs:b"], (SourceKind.ARTICLE, SourceKind.DOCUMENT), ("b", "a")),
        (["docs", "news"], (SourceKind.DOCUMENT, SourceKind.ARTICLE), ()),
    ],
)
def test_sources_may_name_collections(sources: list[str], kinds: Any, collections: Any) -> None:
    request = parse_request(orjson.dumps({"model": "m", "messages": USER, "grounding": {"sources": sources}}), stream=False)
    assert request.grounding == Grounding(kinds, collections=collections)


@given(st.dictionaries(st.sampled_from(["model", "messages", "stream", "n", "grounding", "stream_options", "tools"]), JSON))
def test_any_json_is_a_request_or_a_clear_refusal(members: dict[str, Any]) -> None:
    try:
        request = parse_request(orjson.dumps(members), stream=True)
    except WireroomError as error:
        refusal = error
    else:
        refusal = None
        assert request.model
        assert isinstance(request.question(), str)
    assert refusal is None or (refusal.kind is ErrorKind.INVALID and refusal.fields)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"3"])
def test_body_that_is_no_json_object_is_invalid(body: bytes) -> None:
    with pytest.raises(WireroomError) as caught:
        parse_request(body, stream=False)
    assert caught.value.code == "json_malformed"


def test_bare_model_name_works_only_when_unique() -> None:
    names = [("a", "x"), ("b", "x"), ("b", "y"), ("b", "news")]
    catalogue = Catalogue([Candidate(ProviderModel(*name)) for name in names])
    assert catalogue.route("y", None).candidates == (Candidate(ProviderModel("b", "y")),)
    assert catalogue.route("news", None).grounding == Grounding((SourceKind.ARTICLE,))
    limited = Grounding((SourceKind.DOCUMENT,), collections=("handbook",))
    assert catalogue.route("docs", limited).grounding == limited
    assert catalogue.route("grounded", None).candidates == (Candidate(ProviderModel("a", "x")),)
    with pytest.raises(WireroomError) as caught:
        catalogue.route("x", None)
    assert caught.value.code == "model_not_found"


def test_unknown_default_model_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="default model 'zzz'"):
        Catalogue([Candidate(ProviderModel("a", "x"))], default="zzz")


def test_models_are_listed_with_what_they_are_for() -> None:
    both = ProviderModel("a", "both", purposes=frozenset({"chat", "embeddings"}))
    vectors = ProviderModel("a", "vectors", purposes=frozenset({"embeddings"}))
    catalogue = Catalogue([Candidate(both), Candidate(vectors)], [Alias("mixed", (Candidate(vectors), Candidate(both)))])
    listed = {model.id: model.type for model in catalogue.listed()}
    assert listed == {
        **dict.fromkeys(("extractive", "grounded", "news", "docs", "a/both", "mixed"), "chat"),
        "a/vectors": "embedding",
    }


@pytest.mark.parametrize(
    "question", ["What does the manual say about code reviews?", "How do I write a report to the authority?", "Who wrote it?"]
)
def test_questions_about_sources_are_not_taken_for_generation(question: str) -> None:
    assert not needs_generation(question)


def test_providers_come_from_one_json_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-1")
    entry = {"name": "groq", "base_url": "https://api.example/v1/", "api_key_env": "SOME_KEY", "models": ["m1"], "timeout": 9}
    monkeypatch.setenv("WIREROOM_CHAT_PROVIDERS", orjson.dumps([entry]).decode())
    settings = ChatSettings()
    assert settings.providers[0].api_key is not None
    assert settings.providers[0].api_key.get_secret_value() == "sk-1"
    assert settings.providers[0].base_url == "https://api.example/v1"
    assert "sk-1" not in repr(settings)
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ValueError, match="SOME_KEY"):
        ChatSettings()


def test_refused_settings_do_not_show_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"name": "Bad Name", "base_url": "https://api.example/v1", "api_key": "sk-hidden", "models": ["m1"]}
    monkeypatch.setenv("WIREROOM_CHAT_PROVIDERS", orjson.dumps([entry]).decode())
    with pytest.raises(ValueError, match="name") as caught:
        ChatSettings()
    assert "sk-hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What does early repayment cost, and what did the central bank decide?", ["0.5 percent", "4.25 percent"]),
        ("What does early repayment cost? What did the central bank decide?", ["0.5 percent", "4.25 percent"]),
        ("What did the central bank decide and who won the chess championship?", ["4.25 percent"]),
    ],
)
def test_each_part_of_a_compound_question_gets_its_own_sentence(question: str, expected: list[str]) -> None:
    passages = [
        passage(
            1,
            "A borrower may repay early at any time. The fee for early repayment is 0.5 percent of the balance.",
            dense_score=0.53,
        ),
        passage(2, "The Northland central bank decided on Thursday to keep its policy rate at 4.25 percent.", dense_score=0.39),
    ]
    quotes = QuoteSelector(Terms()).select(question, passages)
    answer = " ".join(quote.text for quote in quotes)
    assert [figure for figure in ("0.5 percent", "4.25 percent") if figure in answer] == expected


def test_headline_is_quoted_only_when_there_is_nothing_else() -> None:
    title = "Northland central bank holds its policy rate at 4.25 percent"
    article = passage(
        1, f"{title}\n\nThe central bank of Northland kept its policy rate at 4.25 percent on Thursday.", title=title
    )
    question = "Where does the Northland central bank hold its policy rate?"
    assert [quote.text for quote in QuoteSelector(Terms()).select(question, [article])] == [
        "The central bank of Northland kept its policy rate at 4.25 percent on Thursday."
    ]
    alone = passage(1, title, title=title)
    assert [quote.text for quote in QuoteSelector(Terms()).select(question, [alone])] == [title]


def test_quoted_text_cannot_load_pictures_or_pass_for_a_citation() -> None:
    content = "See ![img](https://evil.example/p.png) the \u202elicence\u202c costs nothing [99]."
    quote = Quote(passage(1, content), 0, len(content))
    assert quote.line == "See ! [img](https://evil.example/p.png) the licence costs nothing (99)."
    assert quote.text == content
