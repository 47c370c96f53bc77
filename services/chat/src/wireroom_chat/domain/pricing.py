"""What tokens cost, in integer micro-units (millionths of the currency unit)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from wireroom_chat.domain.providers import Price, ProviderModel
from wireroom_common.errors import ErrorKind, WireroomError

_MILLION = 1_000_000
_DEFAULT_OUTPUT = 4096


class Pricing:
    """`unknown`: the price of models for which nobody has set one; None refuses them."""

    def __init__(self, unknown: Price | None) -> None:
        self._unknown = unknown

    def price(self, model: ProviderModel) -> Price:
        """The price of the model; INVALID `price_unknown` when there is none."""
        price = model.price or self._unknown
        if price is None:
            raise WireroomError(
                ErrorKind.INVALID, "price_unknown", f"The price of the model '{model.id}' is not set; the operator has to set it."
            )
        return price

    def cost(self, price: Price, tokens_in: int, tokens_out: int) -> int:
        """Micro-units, rounded up."""
        return -(-(tokens_in * price.input_micros + tokens_out * price.output_micros) // _MILLION)

    def maximum(self, price: Price, body: Mapping[str, Any], model: ProviderModel) -> int:
        """The most that a call with this body can cost: each byte of the prompt may be a token."""
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or model.max_output_tokens or _DEFAULT_OUTPUT
        return self.cost(price, len(orjson.dumps(body.get("messages"))), limit * (body.get("n") or 1))
