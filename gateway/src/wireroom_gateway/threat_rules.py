"""What attacks look like: marks in text, and how many points each is worth.

Every pattern has bounded repetitions and is applied to a bounded text, so that the time is bounded whatever the text is. Points are
evidence, not proof: prose about an attack scores too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

import orjson

MAX_TEXT = 16 * 1024
MAX_SCORE = 100
_MAX_STRINGS = 500
# Members whose values are secrets: they are not looked at, and nothing is derived from them.
_SECRET_MEMBERS = re.compile(r"password|secret|(?<!page_)token|code|key|assertion|signature", re.IGNORECASE)
_ESCAPE = re.compile(r"\\u00([0-7][0-9a-fA-F])")
# Matches at every quote, closed or not: a search never looks at a character twice.
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.?)*+)(?:"|\Z)', re.DOTALL)
_SQL_COMMENT = re.compile(r"/\*[^*]{0,64}\*/")


class ThreatKind(StrEnum):
    """The closed set of kinds."""

    XSS = "xss"
    SQL = "sql"
    TRAVERSAL = "traversal"
    PROMPT_INJECTION = "prompt_injection"


# Kind → (points, texts of which one must be there, pattern). The texts are looked for first: that costs a hundredth of the pattern.
_RULES: Mapping[ThreatKind, tuple[tuple[int, tuple[str, ...], str], ...]] = {
    ThreatKind.XSS: (
        (60, ("script",), r"<\s{0,4}/?\s{0,4}script[\s/>]"),
        (40, ("<",), r"<\s{0,4}(?:iframe|object|embed|svg|math|base|meta|link)\b"),
        (50, ("<",), r"<[a-z]{1,12}\b[^<>]{0,120}[\s/\"']on[a-z]{4,20}\s{0,4}="),
        (50, ("script",), r"(?:javascript|vbscript)\s{0,4}:\s{0,4}[\w(/'\"`%]"),
        (40, ("text/html",), r"data\s{0,2}:\s{0,2}text/html"),
        (40, ("srcdoc",), r"\bsrcdoc\s{0,4}="),
        (30, ("document.",), r"\bdocument\.(?:cookie|domain|write|location)\b"),
        (20, ("alert", "eval", "prompt", "confirm"), r"\b(?:alert|eval|prompt|confirm)\s{0,4}[(`]"),
    ),
    ThreatKind.SQL: (
        (60, ("union",), r"\bunion\b[\s(+]{1,20}(?:all[\s(]{1,20})?select\b"),
        (
            60,
            ("or", "and", "||", "&&"),
            r"['\"`)]\s{0,8}(?:or|and|\|\||&&)\s{0,8}['\"(]{0,4}\w{1,20}['\")]{0,4}\s{0,8}(?:=|<|>|like\b|is\b|in\b)",
        ),
        (40, ("=",), r"\b(?:or|and)\s{1,8}(\d{1,9})\s{0,4}=\s{0,4}\1\b"),
        (50, (";",), r"['\")]\s{0,8};\s{0,8}(?:drop|delete|insert|update|alter|create|exec|shutdown|truncate|select)\b"),
        (
            50,
            ("pg_sleep", "benchmark", "xp_cmdshell", "load_file", "extractvalue", "updatexml"),
            r"\b(?:pg_sleep|benchmark|xp_cmdshell|load_file|extractvalue|updatexml)\s{0,4}\(",
        ),
        (50, ("delay", "sleep"), r"\bwaitfor\s{1,8}delay\b|\bsleep\s{0,4}\(\s{0,4}\d{1,4}\s{0,4}\)"),
        (40, ("--", "#", "/*"), r"['\"](?<=\w['\"])\)?(?:--|#|/\*)"),
        (
            40,
            ("_schema", "pg_catalog", "sysobjects", "sqlite_master", "@@version"),
            r"\b(?:information_schema|pg_catalog|sysobjects|sqlite_master)\b|@@version\b",
        ),
        (50, ("outfile", "dumpfile"), r"\binto\s{1,8}(?:outfile|dumpfile)\b"),
    ),
    ThreatKind.TRAVERSAL: (
        (30, ("../", "..\\"), r"(?:^|[/\\=])\.\.[/\\]"),
        (40, ("../", "..\\"), r"\.\.[/\\]\.\.[/\\]"),
        (
            50,
            ("/etc/", "win.ini", "boot.ini", "system32"),
            r"/etc/(?:passwd|shadow|sudoers)\b|\bwin\.ini\b|\bboot\.ini\b|\\windows\\system32",
        ),
        (
            40,
            ("/proc/", "/.git/", "/.env", "/.aws/", "/.ssh/", "/wp-config", "/.htpasswd"),
            r"/proc/self/|/\.git/|/\.env\b|/\.aws/|/\.ssh/|/wp-config\.php|/\.htpasswd",
        ),
        (40, ("php://", "expect://", "gopher://", "phar://", "file:///"), r"\b(?:php|expect|gopher|phar)://|\bfile:///"),
        (40, ("\x00",), r"\x00"),
    ),
    ThreatKind.PROMPT_INJECTION: (
        (
            60,
            ("ignore", "disregard", "forget", "override"),
            (
                r"\b(?:ignore|disregard|forget|override)\s{1,4}(?:(?:all|any|of|the|your|my|these|those)\s{1,4}){0,4}"
                r"(?:previous|prior|above|earlier|preceding|foregoing|system)\s{1,4}(?:\w{1,20}\s{1,4})?"
                r"(?:instruction|prompt|rule|message|direction|guideline|context)"
            ),
        ),
        (
            50,
            ("system", "hidden", "initial", "secret"),
            (
                r"\b(?:reveal|print|show|repeat|output|leak|tell)\s{1,4}(?:me\s{1,4})?(?:your|the)\s{1,4}(?:\w{1,20}\s{1,4})?"
                r"(?:system|hidden|initial|secret)\s{1,4}(?:prompt|instruction|message)"
            ),
        ),
        (50, ("<|",), r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id)\|>"),
        (40, ("inst]", "sys>>"), r"\[/?inst\]|<</?sys>>"),
        (40, ("##",), r"(?:^|\n)\s{0,4}#{2,4}\s{0,4}(?:system|new instructions?)\s{0,4}:"),
        (
            40,
            ("do anything now", "dan mode", "developer mode", "jailbreak mode"),
            r"\b(?:do anything now|dan mode|developer mode (?:enabled|on)|jailbreak mode)\b",
        ),
        (
            40,
            ("unrestricted", "unfiltered", "no rules", "no restrictions", "no limits"),
            r"\byou (?:are now|must now act as|will now be)\b[^.\n]{0,80}\b(?:unrestricted|unfiltered|no (?:rules|restrictions|limits))\b",
        ),
    ),
}
_COMPILED = {
    kind: tuple((points, needed, re.compile(pattern)) for points, needed, pattern in rules) for kind, rules in _RULES.items()
}
_ENCODED_PATH = re.compile(rb"%25(?:2e|2f|5c)|%c0%a[ef]|%00|%2e%2e|%2e\.|\.%2e|%5c", re.IGNORECASE)
_ENCODED_POINTS = 40
_PLAIN = re.compile(rb"[A-Za-z0-9/_&-]*(?:=[A-Za-z0-9/_&-]*)*+")


def score(text: str, kinds: Iterable[ThreatKind]) -> dict[ThreatKind, int]:
    """Points, up to 100, of each kind that has any. At most `MAX_TEXT` characters are looked at."""
    cut = text[:MAX_TEXT].lower()
    found: dict[ThreatKind, int] = {}
    for kind in kinds:
        looked_at = _SQL_COMMENT.sub(" ", cut) if kind is ThreatKind.SQL and "/*" in cut else cut
        points = sum(
            worth
            for worth, needed, pattern in _COMPILED[kind]
            if any(part in looked_at for part in needed) and pattern.search(looked_at)
        )
        if points:
            found[kind] = min(MAX_SCORE, points)
    return found


def is_plain(address: bytes) -> bool:
    """Whether a path or query consists of characters that no rule about addresses can match."""
    return _PLAIN.fullmatch(address) is not None


def path_points(raw_path: bytes) -> int:
    """Points for a path that hides dots or separators by encoding them."""
    return _ENCODED_POINTS if b"%" in raw_path and _ENCODED_PATH.search(raw_path[:MAX_TEXT]) else 0


def address_text(raw_path: bytes, query: bytes) -> str:
    """Path and query as an application might read them; encoded twice is read twice. Values of secret parameters are left out."""
    parameters = [
        part for part in query[:MAX_TEXT].split(b"&") if not _SECRET_MEMBERS.search(part.partition(b"=")[0].decode("latin-1"))
    ]
    text = b"\n".join((raw_path[:MAX_TEXT], *parameters)).decode("latin-1")
    for _ in range(2):
        if "%" not in text and "+" not in text:
            break
        text = unquote_plus(text, errors="replace")
    return text


def json_text(body: bytes) -> str:
    """The strings of a JSON body, names of members included, values of secret members not."""
    if len(body) <= MAX_TEXT:
        try:
            return "\n".join(_strings(orjson.loads(body)))
        except orjson.JSONDecodeError:
            pass
    # Cut off or malformed: the strings that can be seen. Which member they belong to cannot be told for sure: those of short bodies,
    # which may hold credentials, are whole and have been parsed above unless they are malformed; then nothing of them is looked at.
    if _SECRET_MEMBERS.search(body[:MAX_TEXT].decode("latin-1")):
        return ""
    strings = _JSON_STRING.findall(body[:MAX_TEXT].decode("utf-8", "replace"))
    return "\n".join(_unescaped(text) for text in strings[:_MAX_STRINGS])


def _strings(value: Any) -> list[str]:
    found: list[str] = []
    rest = [value]
    while rest and len(found) < _MAX_STRINGS:
        item = rest.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, list):
            rest.extend(reversed(item[:_MAX_STRINGS]))
        elif isinstance(item, dict):
            for name, member in list(item.items())[:_MAX_STRINGS]:
                found.append(name)
                if not _SECRET_MEMBERS.search(name):
                    rest.append(member)
    return found


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return text.replace('\\"', '"').replace("\\/", "/").replace("\\n", "\n").replace("\\\\", "\\")
