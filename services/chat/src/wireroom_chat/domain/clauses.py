"""Where a sentence says two things: each may be cited for what it says itself."""

from __future__ import annotations

import re

_BORDER = re.compile(
    r"(?<!\s)\s*+;\s+"
    r"|,\s+(?=(?:and|but|whereas|whose|which|who|those|und|aber|et|mais|y|pero)\b)"
    r"|(?<!\s)\s++(?=and\s+(?:is|are|was|were|has|have|had|can|could|will|would)\b)",
    re.IGNORECASE,
)
# What begins or holds such a thing limits the rest of the sentence, and goes with it.
_LIMITING = re.compile(
    r"^\W*(?:and|but)\s+(?:not|never|no|none|nor|in|on|at|for|by|with|from|under)\b"
    r"|\b(?:if|unless|except|only|provided|otherwise|until|without|may|might|could|perhaps|probably)\b",
    re.IGNORECASE,
)
_LIMITING_ELSEWHERE = re.compile(
    r"^\W*(?:und|aber|et|mais|y|pero)\s+(?:nicht|kein\w*|nie|pas|jamais|aucun\w*|no|nunca|ning\w*|in|an|am|auf|mit|für|à|en|au|pour|avec|con|para)\b"
    r"|\b(?:wenn|falls|sofern|außer|nur|ohne|sonst|könnten?|dürften?|vielleicht|wohl|sauf|seulement|sinon|sans|pourrai\w*|salvo|excepto|s[oó]lo|sin"
    r"|podr\w+|quiz[aá]s?)\b",
    re.IGNORECASE,
)
_MAX = 4


def clauses(sentence: str) -> list[str]:
    """Clauses that hold by themselves, at most four; none where the sentence is one clause, or where one limits the others."""
    parts = [part for part in _BORDER.split(sentence) if part and part.strip()]
    if not 1 < len(parts) <= _MAX or any(_LIMITING.search(part) or _LIMITING_ELSEWHERE.search(part) for part in parts[1:]):
        return []
    return parts
