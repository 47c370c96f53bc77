"""Types of settings that pydantic does not have."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

# "[::1],localhost" is a list with commas although it begins with a bracket.
_JSON_ARRAY = re.compile(r'\[\s*["\]]')


def _text_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not _JSON_ARRAY.match(text):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        entries = json.loads(text)
    except ValueError:
        raise ValueError('Write the list with commas (a, b) or as a JSON array (["a", "b"]).') from None
    return tuple(entries)


TextList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_text_list)]
"""Several texts in one variable: with commas (`a, b`) or as a JSON array (`["a", "b"]`); empty for none."""
