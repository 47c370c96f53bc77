"""What calls of models cost: integers only, rounded up, and never nothing for want of a price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from wireroom_chat.domain.providers import Price, ProviderModel
from wireroom_common.errors import invalid

_PER = 1_000_000
# Tokens of an image, which have nothing to do with the length of its address or data.
_MEDIA_TOKENS = 4096
# Of an answer whose length neither the request nor the model bounds.
_DEFAULT_OUTPUT_TOKENS = 4096
_MOST_CHOICES = 128
# Members that bound the length of an answer.
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# Parts of a message's content that are not text.
_MEDIA = frozenset({"image_url", "input_audio", "video_url", "file"})
_MEMBERS = (
    "messages", "prompt", "input", "system", "tools", "functions", "response_format", "tool_choice", "prediction"
)  # fmt: skip


class Pricing:
    """Prices of models. `unknown` is the price of models without one; None: such models are refused."""

    def __init__(self, unknown: Price | None = None) -> None:
        if unknown is not None and (unknown.input_micros <= 0 or unknown.output_micros <= 0):
            msg = "The price of models without a price must not be zero."
            raise ValueError(msg)
        self._unknown = unknown

    def price(self, model: ProviderModel) -> Price:
        """The model's price, else the default; INVALID `price_unknown` when there is neither."""
        if model.price is not None:
            return model.price
        if self._unknown is None:
            raise invalid(
                "price_unknown",
                f"The model '{model.id}' has no price, so it cannot be used: its price or a default price has to be configured.",
                field="model",
            )
        return self._unknown

    def cost(self, price: Price, tokens_in: int, tokens_out: int, *, cached_in: int = 0) -> int:
        """Micro-units of a call, rounded up. `cached_in` of the prompt's tokens came from the provider's cache."""
        tokens_in, tokens_out = max(0, tokens_in), max(0, tokens_out)
        cached = min(max(0, cached_in), tokens_in)
        cached_price = price.input_micros if price.cached_input_micros is None else price.cached_input_micros
        total = (tokens_in - cached) * price.input_micros + cached * cached_price + tokens_out * price.output_micros
        return -(-total // _PER)

    def maximum(self, price: Price, body: Mapping[str, Any], model: ProviderModel) -> int:
        """An upper bound of what the call may cost, for the reservation.

        The prompt by its UTF-8 bytes, since no token of a byte-level tokenizer is shorter than one (images: a fixed number each, which
        is an estimate), within the model's context; the answer by the smaller of what the request and the model allow, for each choice.
        """
        dearest = max(price.input_micros, price.cached_input_micros or 0)
        total = prompt_bound(body, model) * dearest + output_bound(body, model) * price.output_micros
        return -(-total // _PER)


def prompt_bound(body: Mapping[str, Any], model: ProviderModel) -> int:
    """Tokens that the prompt has at most."""
    media = 0
    members = {name: body[name] for name in _MEMBERS if body.get(name) is not None}
    if isinstance(members.get("messages"), list):
        members["messages"] = [without_media(message) for message in members["messages"]]
        media = media_tokens(body["messages"])
    if isinstance(members.get("messages"), list):
        # A message's frame may be a few tokens even where its JSON is short.
        media += 8 * len(members["messages"])
    tokens = len(orjson.dumps(members)) + media
    return min(tokens, model.context_tokens) if model.context_tokens > 0 else tokens


def media_tokens(messages: Iterable[Any]) -> int:
    """Tokens of what is not text in messages: an estimate, for want of anything that tells."""
    return _MEDIA_TOKENS * sum(map(_media_parts, messages))


def _parts(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list) else []


def _is_media(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _MEDIA


def _media_parts(message: Any) -> int:
    return sum(map(_is_media, _parts(message)))


def without_media(message: Any) -> Any:
    """The message without its pictures, whose data say nothing of their tokens; everything else counts by its length."""
    if not _media_parts(message):
        return message
    pictures = [_is_media(part) and part["type"] == "image_url" for part in _parts(message)]
    parts = [
        {key: value for key, value in part.items() if key != "image_url"} if picture else part
        for part, picture in zip(_parts(message), pictures, strict=True)
    ]
    return {**message, "content": parts}


def output_bound(body: Mapping[str, Any], model: ProviderModel) -> int:
    """Tokens that all choices of the answer have at most; 0 for embeddings."""
    if "chat" not in model.purposes and "embeddings" in model.purposes:
        return 0
    longest = longest_answer(body, model)
    prompts = body.get("prompt")
    texts = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return longest * min(max(_positive(body.get("n")), _positive(body.get("best_of")), 1), _MOST_CHOICES) * texts


def longest_answer(body: Mapping[str, Any], model: ProviderModel) -> int:
    """Tokens that one choice of the answer has at most, if the provider is held to it."""
    asked = [value for name in LIMITS if (value := _positive(body.get(name)))]
    longest = max(asked) if asked else model.max_output_tokens or _DEFAULT_OUTPUT_TOKENS
    return min(longest, model.max_output_tokens) if model.max_output_tokens > 0 else longest


def _positive(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
