"""What providers say about their limits in the headers of an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 3600.0
_FAMILIES = (
    # OpenAI, Groq, vLLM gateways: a count and a duration.
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    # Anthropic: a count and a time.
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    # OpenRouter: a count and milliseconds since 1970. The IETF draft: a count and seconds.
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
)
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?")
_NUMBER = re.compile(r"\d{1,16}(?:\.\d{1,9})?")
_EPOCH_SECONDS = 1e9
_EPOCH_MILLISECONDS = 1e12


def exhausted_for(headers: Mapping[str, str], now: datetime) -> float:
    """Seconds until a limit of which nothing is left is reset; 0 when something is left of each, or nothing is said."""
    seconds = 0.0
    for remaining_name, reset_name in _FAMILIES:
        remaining = headers.get(remaining_name)
        if remaining is None or not _NUMBER.fullmatch(remaining.strip()) or float(remaining) >= 1:
            continue
        seconds = max(seconds, reset_seconds(headers.get(reset_name, ""), now))
    return seconds


def reset_seconds(value: str, now: datetime) -> float:
    """Seconds from now, of a duration (`6m0s`, `20ms`), a number of seconds, or a time; 1 for what cannot be read."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _EPOCH_MILLISECONDS:
            number = number / 1000 - now.timestamp()
        elif number >= _EPOCH_SECONDS:
            number -= now.timestamp()
        return _bounded(number)
    match = _DURATION.fullmatch(value)
    if value and match:
        hours, minutes, seconds, milliseconds = (float(part) if part else 0.0 for part in match.groups())
        return _bounded(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return 1.0
    return _bounded(((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds())


def retry_after(value: str | None, now: datetime) -> float:
    """Seconds of a `Retry-After` header: a number or a date; 0 when there is none that can be read."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return _bounded(seconds)


def _bounded(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST)
