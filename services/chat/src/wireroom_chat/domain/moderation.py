"""Moderation scores from word and phrase rules, in OpenAI's shape.

The rules are English, fixed and local: the same text always has the same scores, and no model is asked. They find what is said in plain
words; they do not understand irony, quotation, spelling tricks or other languages. A score is evidence in steps, not a probability.
Every pattern has bounded repetitions, so that the time is linear in the text.
"""

# ruff: noqa: E501 - a pattern is read as a whole

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.members import Members, json_object

MODEL = "wireroom-moderation-rules-v1"
MAX_INPUTS = 256
MAX_CHARACTERS = 200_000
FLAGGED_FROM = 50
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_GAP = r"(?:\W{1,4}\w{1,20}){0,4}?\W{1,4}"
_YOU = r"(?:you|u|ya|your (?:family|kids|children|mother|wife|husband))"
_GROUP = (
    r"(?:jews|muslims|christians|blacks|black people|whites|white people|asians|arabs|gays|lesbians|trans people|immigrants|foreigners"
    r"|refugees|gypsies|roma|disabled people|women)"
)
_MINOR = r"(?:child|children|minor|minors|toddler|underage (?:girl|boy)s?|(?:little|young) (?:girl|boy)s?|(?:[4-9]|1[0-7])[- ]year[- ]old)"
_SEXUAL = r"(?:sex|sexual|porn|nude|nudes|naked|erotic|orgasm|blowjob|handjob|masturbat(?:e|es|ing|ion))"
_KILL = r"(?:kill|murder|shoot|stab|strangle|behead|slaughter|burn|hang|hurt|beat|rape)"
_WEAPON = (
    r"(?:pipe bomb|bomb|explosive|explosives|molotov cocktail|nerve agent|sarin|ricin|ghost gun|silencer|grenade|dirty bomb)"
)
# Category → (points, pattern). Points of a category add up to at most 100.
_RULES: Mapping[str, tuple[tuple[int, str], ...]] = {
    "harassment": (
        (60, rf"\b{_YOU}(?: are|'re|re)(?: all| just| such| a| an| the| so| nothing but){{0,3}} (?:\w{{1,12}} )?(?:idiot|moron|worthless|pathetic|loser|scum|trash|retard|retarded|stupid)\b"),
        (50, r"\b(?:shut up|go to hell|nobody (?:likes|loves) you|everyone hates you|fuck you|screw you)\b"),
        (60, r"\b(?:kill yourself|kys|go die|you should die|drop dead)\b"),
    ),
    "harassment/threatening": (
        (80, rf"\b(?:i|we)(?:'ll| will|'m going to|'m gonna| am going to|'re going to| are going to|'d love to| want to) {_KILL} {_YOU}\b"),
        (70, r"\b(?:i know where you live|you(?:'re| are) (?:a )?dead (?:man|woman|meat)?|watch your back|you will (?:regret|pay for) (?:this|it) with your life)\b"),
    ),
    "hate": (
        (70, rf"\b(?:all )?{_GROUP} (?:are|should be|deserve to be|need to be|must be)(?: all| nothing but| just){{0,2}} (?:\w{{1,12}} )?(?:vermin|animals|subhuman|inferior|parasites|cockroaches|filth|scum|criminals|exterminated|deported|killed|eradicated|gassed)\b"),
        (60, rf"\bi (?:really |fucking )?hate (?:all )?(?:the )?{_GROUP}\b"),
    ),
    "hate/threatening": (
        (80, rf"\b(?:{_KILL}|exterminate|eradicate|gas|lynch) (?:all |every |the |those ){{0,2}}{_GROUP}\b"),
        (80, rf"\b(?:all )?{_GROUP} (?:should|must|deserve to|need to) (?:all )?(?:die|be (?:killed|exterminated|shot|gassed|hanged|eradicated))\b"),
    ),
    "illicit": (
        (60, rf"\b(?:how (?:to|do i|can i)|steps to|instructions (?:to|for)|guide to){_GAP}(?:shoplift(?:ing)?|hotwire|launder money|money laundering|counterfeit(?:ing)?|pick a lock|evade taxes|phish(?:ing)?|steal|hack into|forge a|make meth|cook meth|synthesi[sz]e (?:meth|heroin|fentanyl))\b"),
        (50, r"\b(?:buy|sell|selling|buying) (?:stolen|counterfeit|fake) (?:credit cards?|passports?|ids?|documents|money)\b"),
        (50, r"\b(?:write|create|build|make)(?: me)?(?: a| an| some)? (?:\w{1,12} )?(?:ransomware|keylogger|malware|botnet|phishing (?:page|mail|email|site))\b"),
    ),
    "illicit/violent": (
        (80, rf"\b(?:how (?:to|do i|can i)|steps to|instructions (?:to|for)|recipe for|guide to){_GAP}{_WEAPON}\b"),
        (70, r"\b(?:hire|find) a (?:hitman|contract killer|assassin)\b"),
        (70, rf"\bhow (?:to|do i|can i) {_KILL} (?:someone|somebody|a person|people|my \w{{1,12}})\b"),
    ),
    "self-harm": (
        (60, r"\b(?:suicide|suicidal|self[- ]harm(?:ing)?|cutting myself|cut myself|hurt(?:ing)? myself|starv(?:e|ing) myself)\b"),
    ),
    "self-harm/intent": (
        (80, r"\b(?:i(?:'m| am)? (?:want|going|plan|planning|wish|gonna|about)(?: to)? (?:kill myself|end my life|die|commit suicide|hurt myself|cut myself)|i don'?t want to (?:live|be alive)(?: any ?more)?|i will (?:kill|hang|shoot) myself)\b"),
    ),
    "self-harm/instructions": (
        (80, r"\b(?:how (?:to|do i|can i|many \w{1,12} (?:to|does it take to))|best way to|painless way to|easiest way to)(?:\W{1,4}\w{1,20}){0,4}?\W{1,4}(?:kill myself|commit suicide|end my life|hang myself|overdose|cut myself|hide (?:cuts|self[- ]harm))\b"),
    ),
    "sexual": (
        (60, r"\b(?:explicit sex|hardcore porn|blowjob|handjob|cumshot|gangbang|masturbat(?:e|es|ing|ion)|deepthroat|erotic (?:story|roleplay))\b"),
        (50, r"\b(?:porn|pornographic|nudes|horny|orgasms?|sexually aroused)\b"),
    ),
    "sexual/minors": (
        (90, rf"\b{_SEXUAL}\b{_GAP}\b{_MINOR}\b|\b{_MINOR}\b{_GAP}\b{_SEXUAL}\b"),
        (90, r"\b(?:child porn(?:ography)?|csam|jailbait|lolicon)\b"),
    ),
    "violence": (
        (50, r"\b(?:massacre|torture|mass shooting|school shooting|beheading|murder (?:him|her|them|you|people|everyone)|kill (?:him|her|them|you|everyone|people))\b"),
        (50, rf"\b(?:i|we)(?:'ll| will|'m going to| am going to| want to) {_KILL} (?:him|her|them|someone|everyone|people)\b"),
    ),
    "violence/graphic": (
        (70, r"\b(?:disembowel(?:ed|ing|s)?|dismember(?:ed|ing|s|ment)?|decapitat(?:e|ed|es|ing|ion)|entrails|guts spill(?:ed|ing)?|brains? (?:splattered|blown out)|severed (?:head|limbs?|arm|leg)|pool of blood|mutilat(?:e|ed|ion))\b"),
    ),
}  # fmt: skip
# What a category says of another one too.
_IMPLIED = (
    ("harassment/threatening", ("harassment", "violence")),
    ("hate/threatening", ("hate", "violence")),
    ("illicit/violent", ("illicit",)),
    ("self-harm/intent", ("self-harm",)),
    ("self-harm/instructions", ("self-harm",)),
    ("sexual/minors", ("sexual",)),
    ("violence/graphic", ("violence",)),
)
_COMPILED = {category: tuple((points, re.compile(pattern)) for points, pattern in rules) for category, rules in _RULES.items()}
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class ModerationRequest:
    """A checked request."""

    texts: tuple[str, ...]


def parse_moderation_request(body: bytes) -> ModerationRequest:
    """Check the body; INVALID names every offending member. Any model's name is taken: there is one set of rules."""
    members = Members(json_object(body))
    members.text("model", longest=200)
    texts = _texts(members)
    members.check()
    return ModerationRequest(tuple(texts))


def scores(text: str) -> dict[str, int]:
    """Points from 0 to 100 of every category."""
    plain = _SPACE.sub(" ", unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'"))
    found = {
        category: min(100, sum(points for points, pattern in _COMPILED[category] if pattern.search(plain)))
        for category in CATEGORIES
    }
    for category, implied in _IMPLIED:
        for other in implied:
            found[other] = max(found[other], found[category])
    return found


def moderation_object(request: ModerationRequest, number: str) -> dict[str, Any]:
    """The answer: one result for each text."""
    return {"id": f"modr-{number}", "model": MODEL, "results": [_result(scores(text)) for text in request.texts]}


def _result(points: Mapping[str, int]) -> dict[str, Any]:
    return {
        "flagged": any(value >= FLAGGED_FROM for value in points.values()),
        "categories": {category: value >= FLAGGED_FROM for category, value in points.items()},
        "category_scores": {category: value / 100 for category, value in points.items()},
        "category_applied_input_types": {category: ["text"] for category in points},
    }


def _texts(members: Members) -> list[str]:
    value = members.get("input")
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        members.refuse("input", "A text or a list of texts is required.")
        return []
    if len(items) > MAX_INPUTS:
        members.refuse("input", f"At most {MAX_INPUTS} inputs are taken at a time.")
        return []
    if all(isinstance(item, dict) for item in items):
        # One input made of parts.
        if not all(item.get("type") == "text" and isinstance(item.get("text"), str) for item in items):
            members.refuse("input", "Only texts can be scored: the rules cannot see images.")
            return []
        items = ["\n".join(item["text"] for item in items)]
    if not all(isinstance(item, str) for item in items):
        members.refuse("input", "Must be a text, a list of texts, or a list of parts of the type 'text'.")
        return []
    if sum(map(len, items)) > MAX_CHARACTERS:
        members.refuse("input", f"At most {MAX_CHARACTERS} characters are taken at a time.")
        return []
    return items
