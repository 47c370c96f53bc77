"""Sentences of other languages than English, for which there are no rules of meaning: the same words in the same order, or nothing.

What may differ: case, punctuation, the way figures are written, words that carry no meaning of their own (German, French and Spanish), and
a phrase with its preposition at the beginning instead of further on. Whoever denies, counts, limits or doubts otherwise uses other words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

ENGLISH = "en"
# Words by which a language is told; some are words of two.
_FREQUENT: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        ENGLISH: (
            "the a an of to and in is are was were be been for on with by at from as that this it its they their has "
            "have had not no will would can could may must should which who whose than or but if after before when "
            "where how what between under over about all each every only more most some any per he she his her you "
            "your we our there these those does did do so into until"
        ),
        "de": (
            "der die das den dem des ein eine einen einem einer eines und oder aber ist sind war waren wird werden "
            "wurde wurden hat haben hatte nicht kein keine keinen im am zum zur vom beim von mit auf für bei nach aus "
            "über unter seit bis durch um zu in an als auch sich es sie er wir ihr dass wenn nur noch mehr sowie darf "
            "dürfen muss müssen kann können soll sollen"
        ),
        "fr": (
            "le la les l un une des du de d au aux et ou mais est sont était étaient sera seront a ont avait ne n pas "
            "plus jamais aucun aucune dans en sur sous pour par avec sans chez que qu qui dont il elle ils elles ce "
            "cette ces son sa ses leur leurs se s peut peuvent doit doivent si entre depuis jusqu avant après très"
        ),
        "es": (
            "el la los las un una unos unas de del al y o pero es son era eran fue fueron será ha han había no ni "
            "nunca ningún ninguna en con sin por para sobre bajo entre desde hasta que se su sus lo le les este esta "
            "estos estas más muy puede pueden debe deben si cada todos todas cuando donde"
        ),
        "it": (
            "il lo la gli le un uno una di del della dei delle da dal nel nella e o ma è sono era non più che si su "
            "per con al alla ha hanno può deve ogni tutti questo questa"
        ),
        "pt": (
            "o os a as um uma de do da dos das em no na nos nas e ou mas é são era foi não nunca que se por para com "
            "ao à sua seu mais pode deve cada todos este esta"
        ),
        "nl": (
            "de het een en of maar is zijn was waren wordt worden niet geen van in op met voor door bij naar uit over "
            "onder dat die dit deze er ook als om te aan heeft hebben kan moet mag"
        ),
        "sv": ("och eller men är var den det en ett som på i av till för med inte ingen från har hade kan ska måste får om vid"),
        "da": "og eller men er var den det en et som på i af til for med ikke ingen fra har havde kan skal må om ved",
        "fi": "ja tai mutta on ei oli ovat että se joka myös sekä kun jos voi saa",
        "pl": "i lub ale jest są był była nie w na z do od dla przez po o że się to oraz jak może musi tylko",
        "cs": "a nebo ale je jsou byl byla není v na z do od pro po o že se to jako může musí pouze",
        "tr": "ve veya ama bir bu da de ile için değil olarak gibi daha çok en her",
    }.items()
}
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[%€$£¥°<>≤≥±+-](?=\s?\d)|(?<=\d)\s?[%€$£¥°]")
# Of German, French and Spanish thousands, of which English ones are the decimals.
_THOUSANDS = re.compile(r"(?<=\d)[.\u00a0\u202f'\u2019](?=\d{3}(?!\d))|(?<=\d) (?=\d{3}(?!\d))")
_LIGHT: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "de": (
            "der die das den dem des ein eine einen einem einer eines und auch jedoch aber zudem außerdem dabei "
            "hierbei also nun ist sind es"
        ),
        "fr": "le la les l un une et aussi cependant toutefois ainsi également est sont c ce d de du des",
        "es": "el la los las un una y también además así es son",
    }.items()
}
_PREPOSITIONS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "de": (
            "am im in an auf bei nach vor seit ab bis mit für zu zum zur während wegen laut gemäß unter über zwischen "
            "um gegen durch"
        ),
        "fr": "à au aux en dans depuis selon pendant après avant pour avec chez sur sous entre vers durant",
        "es": "a al en desde según durante tras antes para con sobre bajo entre hacia hasta",
    }.items()
}


@dataclass(frozen=True)
class Wording:
    """`language`: a code of two letters; empty where it is not known. `words`: all, folded, in their order."""

    language: str
    words: tuple[str, ...]

    @property
    def is_english(self) -> bool:
        """Whether the rules of meaning are for it."""
        return self.language == ENGLISH


@lru_cache(maxsize=256)
def wording(text: str) -> Wording:
    """Of a sentence. Short ones without any frequent word are of no known language."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    language = _language([word for word in _WORD.findall(folded) if word[0].isalpha()])
    if language != ENGLISH:
        # White space that keeps figures together is lost in NFKC, and what is left of it stands between them.
        folded = _THOUSANDS.sub("", folded)
    return Wording(language, tuple(_figure(word.strip(), language) for word in _WORD.findall(folded)))


def says_the_same(claim: Wording, source: Wording) -> bool:
    """Whether the claim has the source's words in the source's order, as far as they matter."""
    if claim.language and source.language and claim.language != source.language:
        return False
    language = source.language or claim.language
    light = _LIGHT.get(language, frozenset())
    here = tuple(word for word in claim.words if word not in light)
    there = tuple(word for word in source.words if word not in light)
    if not here or len(here) != len(there):
        return False
    return here == there or _is_fronted(here, there, language) or _is_fronted(there, here, language)


def _is_fronted(one: tuple[str, ...], other: tuple[str, ...], language: str) -> bool:
    """Whether `one` begins with a phrase, its preposition first, that stands elsewhere in `other`."""
    if one[0] not in _PREPOSITIONS.get(language, frozenset()):
        return False
    for length in range(2, min(len(one), 9)):
        block, rest = one[:length], one[length:]
        if any(other == (*rest[:at], *block, *rest[at:]) for at in range(1, len(rest) + 1)):
            return True
    return False


def _language(words: list[str]) -> str:
    if not words:
        return ""
    hits = {language: sum(word in frequent for word in words) for language, frequent in _FREQUENT.items()}
    best = max(hits.values())
    if not best:
        return ""
    if hits[ENGLISH] == best:
        others = max(count for language, count in hits.items() if language != ENGLISH)
        # Words of two languages decide nothing, and English letters are plain.
        plain = all(word.isascii() for word in words)
        return ENGLISH if hits[ENGLISH] > others or (plain and hits[ENGLISH] > 1) else ""
    found = [language for language, count in hits.items() if count == best]
    return found[0]


def _figure(word: str, language: str) -> str:
    return word.replace(",", ".") if language not in ("", ENGLISH) and word[:1].isdigit() and word.count(",") == 1 else word
