# ruff: noqa: RUF001 - texts of other languages
"""Citations in other languages than English: what stands there is cited, whatever says something else is not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from chat_harness import passage
from hypothesis import given
from hypothesis import strategies as st

from wireroom_chat.domain.passages import Citation
from wireroom_chat.domain.request import Grounding
from wireroom_chat.domain.sentences import split, trimmed
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.verification import SentenceBuffer, evidence_quotes
from wireroom_chat.domain.wordings import wording
from wireroom_chat.usecases.checking import Checking, SentenceChecker

TERMS = Terms()
GERMAN = (
    "Das Rathaus ist am Montag von 8 bis 12 Uhr geöffnet. Die Gebühr für einen Pass beträgt 1.200 Kronen. Kinder unter sechs Jahren fahren"
    " nicht kostenlos. Der Mieter darf mit Zustimmung des Vermieters eine Katze halten. Müller verklagte Schmidt im Jahr 2019."
    " Die Brücke wird gesperrt, aber Fußgänger kommen hinüber."
)
FRENCH = (
    "La mairie est ouverte le lundi de 8 à 12 heures. Le passeport coûte 86,50 euros. Le locataire ne peut pas sous-louer l’appartement."
    " Le train de Lyon arrive après celui de Nantes. Les enfants de moins de six ans voyagent gratuitement."
)
SPANISH = (
    "El ayuntamiento abre los lunes de 8 a 12 horas. El pasaporte cuesta 30,50 euros. El inquilino no puede subarrendar el piso."
    " Los menores de seis años viajan gratis. García venció a Romero en la final de 2021."
)
CHINESE = "图书馆周一闭馆。借书证的费用是二十元。未满六岁的儿童不收费！"
JAPANESE = "市役所は月曜日に開いています。料金は500円です。"
ARABIC = "تفتح المكتبة يوم الاثنين. لا يدفع الأطفال رسوما. هل تغلق يوم الجمعة؟ نعم، تغلق."
RUSSIAN = "Библиотека не работает по понедельникам. Билет стоит 200 рублей."


class _Same:
    """Vectors by which every text is the same: the rules decide alone."""

    async def vectors(self, texts: Sequence[str]) -> list[tuple[Sequence[float], int]]:
        return [((1.0, 0.0), 1) for _ in texts]


async def _cited(source: str, sentence: str) -> str | None:
    evidence = {1: [Citation(quote, "c") for quote in evidence_quotes([passage(1, source)], 100)[1]]}
    piece = await SentenceChecker(Checking(TERMS, _Same()), evidence, Grounding()).check(sentence)
    return piece.citations[0][1].quote.text if piece is not None else None


@pytest.mark.parametrize("source", [GERMAN, FRENCH, SPANISH, CHINESE, JAPANESE, ARABIC, RUSSIAN])
async def test_every_sentence_is_cited_word_for_word(source: str) -> None:
    for start, end in trimmed(source):
        sentence = source[start:end]
        assert await _cited(source, f"{sentence} [1]") == sentence
        assert await _cited(source, f"{sentence[:-1]} [1]{sentence[-1]}") == sentence


@pytest.mark.parametrize(
    ("source", "sentence", "cited"),
    [
        (GERMAN, "Am Montag ist das Rathaus von 8 bis 12 Uhr geöffnet [1].", "Das Rathaus ist am Montag"),
        (GERMAN, "Die Gebühr für den Pass beträgt 1200 Kronen [1].", "Die Gebühr"),
        (GERMAN, "die Brücke wird gesperrt [1]", "Die Brücke wird gesperrt, aber"),
        (FRENCH, "Le passeport coûte aussi 86.50 euros [1].", "Le passeport"),
        (SPANISH, "Además, el pasaporte cuesta 30,50 euros [1].", "El pasaporte"),
        (CHINESE, "图书馆周一闭馆[1]。", "图书馆周一闭馆。"),
        (RUSSIAN, "библиотека не работает по понедельникам [1].", "Библиотека"),
    ],
)
async def test_nearly_word_for_word_is_cited(source: str, sentence: str, cited: str) -> None:
    found = await _cited(source, sentence)
    assert found is not None
    assert found.startswith(cited)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (GERMAN, "Das Rathaus ist am Montag nicht von 8 bis 12 Uhr geöffnet [1]."),
        (GERMAN, "Das Rathaus ist am Dienstag von 8 bis 12 Uhr geöffnet [1]."),
        (GERMAN, "Das Rathaus ist am Montag von 12 bis 8 Uhr geöffnet [1]."),
        (GERMAN, "Das Rathaus ist am Montag geöffnet [1]."),
        (GERMAN, "Die Gebühr für einen Pass beträgt 1.200 Euro [1]."),
        (GERMAN, "Die Gebühr für einen Pass beträgt 1,200 Kronen [1]."),
        (GERMAN, "Kinder unter sechs Jahren fahren kostenlos [1]."),
        (GERMAN, "Kinder über sechs Jahren fahren nicht kostenlos [1]."),
        (GERMAN, "Kinder fahren nicht kostenlos [1]."),
        (GERMAN, "Der Mieter darf eine Katze halten [1]."),
        (GERMAN, "Der Mieter muss mit Zustimmung des Vermieters eine Katze halten [1]."),
        (GERMAN, "Schmidt verklagte Müller im Jahr 2019 [1]."),
        (GERMAN, "The town hall is open on Mondays from 8 to 12 [1]."),
        (FRENCH, "Le locataire peut sous-louer l’appartement [1]."),
        (FRENCH, "Le passeport coûte 85,60 euros [1]."),
        (FRENCH, "Le train de Nantes arrive après celui de Lyon [1]."),
        (FRENCH, "Le train de Lyon arrive avant celui de Nantes [1]."),
        (FRENCH, "Les enfants voyagent gratuitement [1]."),
        (FRENCH, "La mairie n’est pas ouverte le lundi de 8 à 12 heures [1]."),
        (FRENCH, "« Le passeport coûte 86,50 dollars », dit la mairie [1]."),
        (SPANISH, "El inquilino puede subarrendar el piso [1]."),
        (SPANISH, "Romero venció a García en la final de 2021 [1]."),
        (SPANISH, "García venció a Romero en la final de 2020 [1]."),
        (SPANISH, "Los mayores de seis años viajan gratis [1]."),
        (SPANISH, "El pasaporte puede costar 30,50 euros [1]."),
        (CHINESE, "图书馆周一不闭馆[1]。"),
        (CHINESE, "未满六岁的儿童收费[1]！"),
        (CHINESE, "借书证的费用是三十元[1]。"),
        (JAPANESE, "料金は5000円です[1]。"),
        (ARABIC, "يدفع الأطفال رسوما [1]."),
        (RUSSIAN, "Библиотека работает по понедельникам [1]."),
        (RUSSIAN, "Билет стоит 300 рублей [1]."),
    ],
)
async def test_what_says_something_else_is_dropped(source: str, sentence: str) -> None:
    assert await _cited(source, sentence) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Am 3. März beginnt das 2. Quartal. Danach, z. B. im April, ist Dr. Holm da.", 2),
        ("Es kostet 3 Mio. Euro. Vgl. Abs. 4 der Satzung.", 2),
        ("Vraiment ? « Oui ! » dit-il. M. Dupont habite au bd. Voltaire.", 3),
        ("¿Cuándo abre? ¡Ahora! La Sra. Ruiz vive en EE. UU. desde 2020.", 3),
        (CHINESE, 3),
        ("他说：「今天闭馆。」然后走了。", 2),
        (JAPANESE, 2),
        (ARABIC, 4),
        ("यह बंद है। वह खुला है।", 2),
    ],
)
def test_sentences_end_where_their_language_ends_them(text: str, count: int) -> None:
    spans = split(text)
    assert len(spans) == count
    assert "".join(text[start:end] for start, end in spans) == text


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("图书馆周一闭馆[1]。费用是二十元。[2]谢谢！", ["图书馆周一闭馆[1]。", "费用是二十元。[2]", "谢谢！"]),
        ("هل تغلق؟ [1] نعم.", ["هل تغلق؟ [1] ", "نعم."]),
        (
            "Es beginnt am 3. März [1]. Dann „endet es.“ [2] Gut.",
            ["Es beginnt am 3. März [1]. ", "Dann „endet es.“ [2] ", "Gut."],
        ),
        ("« Oui ! » [1] Il part.", ["« Oui ! » [1] ", "Il part."]),
    ],
)
def test_growing_answers_are_cut_at_the_same_places(text: str, sentences: list[str]) -> None:
    buffer = SentenceBuffer()
    found = [sentence for character in text for sentence in buffer.feed(character)] + buffer.rest()
    assert found == sentences


@given(st.text(alphabet="ab12.。！？؟»“」 [1]\n", max_size=60))
def test_cutting_loses_nothing(text: str) -> None:
    buffer = SentenceBuffer()
    assert "".join([*buffer.feed(text), *buffer.rest()]) == text
    spans = split(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(before[1] == after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The chairlift opens at 8:30.", "en"),
        (GERMAN, "de"),
        (FRENCH, "fr"),
        (SPANISH, "es"),
        ("Het museum is op maandag niet geopend.", "nl"),
        ("Il museo non è aperto il lunedì.", "it"),
        ("Museet är inte öppet på måndag.", "sv"),
        (CHINESE, ""),
        ("Museum 1999", ""),
    ],
)
def test_languages_are_told_by_their_frequent_words(text: str, language: str) -> None:
    assert wording(text).language == language
