"""Links and pictures in answers whose prompt held untrusted text.

Such text may have led the model to write an address that carries data out (a picture is fetched without a click) or that looks like a
way to sign in. What is not allowed is made plain text: shown, but nothing that a reader's program loads or a click opens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

REMOVED = "(link removed)"
# Also without a scheme, with backslashes, and as programs guess it from `www.`.
_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]{0,20}\\?:[/\\]{2}|(?<![\w:/\\])[/\\]{2}(?=[\w\[%-])|(?<![\w.-])www\.(?=\w))[^\s<>()\[\]\"'`|{}]*",
    re.IGNORECASE,
)
# A host with a path or a query, which programs that guess take for an address.
_BARE = re.compile(r"(?<![\w@./:\\-])(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}(?::\d{1,5})?[/?][^\s<>()\[\]\"'`|{}]*", re.IGNORECASE)
_SCHEME = re.compile(r"\b(?:javascript|vbscript|data|mailto|tel|file)\s*:(?=[^\s\d])", re.IGNORECASE)
_DESTINATION = re.compile(r"\]\((?P<to>[^\s()<>]*)(?=\))")
_ENTITY = re.compile(r"&(?=#[0-9xX]|(?:sol|bsol|colon|period|commat|lpar|rpar|lsqb|rsqb|lbrack|rbrack|excl|lt|gt|NewLine|Tab);)")
_STEERING = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_TAIL = re.compile(r"(?<![!-~])[!-~]+\Z")
_LONGEST_TAIL = 4_000
_OWN_PATHS = ("/api/v1/artefacts/", "/api/v1/citations/")
_TRAILING = ".,;:!?"


class LinkGuard:
    """Cleans a text that arrives in pieces. `addresses`: exact ones that may stand, beside all of `hosts`."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._addresses: set[str] = set()
        self._held = ""

    def allow(self, address: str) -> None:
        """An address that may stand as it is: that of a source."""
        if address.startswith(("http://", "https://")):
            self._addresses.add(address)

    def feed(self, text: str) -> str:
        """What may be shown now: all but a last word that may go on."""
        # First of all: what nobody sees must not hide that a word goes on.
        text = self._held + _STEERING.sub("", text)
        match = _TAIL.search(text)
        self._held = match.group() if match and len(match.group()) <= _LONGEST_TAIL else ""
        return self._clean(text.removesuffix(self._held) if self._held else text)

    def rest(self) -> str:
        """What was held."""
        held, self._held = self._held, ""
        return self._clean(held)

    def _clean(self, text: str) -> str:
        # What would only be an address once a reader's program has decoded it.
        text = _ENTITY.sub("& ", text)
        # Pictures and HTML never: they act without a click.
        text = text.replace("![", "! [")
        text = re.sub(r"<(?=[A-Za-z/!?])", "< ", text)
        # Definitions of reference links; and links whose end is not in sight or not allowed.
        text = text.replace("]:", "] :")
        text = _ADDRESS.sub(self._address, text)
        text = _BARE.sub(self._bare, text)
        text = _SCHEME.sub(lambda match: match.group().rstrip(":") + " : ", text)
        parts: list[str] = []
        position = 0
        for match in re.finditer(r"\]\(", text):
            found = _DESTINATION.match(text, match.start())
            allowed = found is not None and self._allowed(found.group("to"))
            parts.append(text[position : match.start()] + ("](" if allowed else "] ("))
            position = match.end()
        return "".join(parts) + text[position:]

    def _bare(self, match: re.Match[str]) -> str:
        found = match.group()
        body = found.rstrip(_TRAILING)
        return found if self._allowed(f"https://{body}") else REMOVED + found[len(body) :]

    def _address(self, match: re.Match[str]) -> str:
        found = match.group()
        body = found.rstrip(_TRAILING)
        return found if self._allowed(body) else REMOVED + found[len(body) :]

    def _allowed(self, address: str) -> bool:
        if address in self._addresses:
            return True
        if address.startswith(_OWN_PATHS) and "\\" not in address and ".." not in address:
            return True
        try:
            parts = urlsplit(address)
            host, user = parts.hostname, parts.username
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and user is None and "\\" not in address and (host or "") in self._hosts
