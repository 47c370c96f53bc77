"""Prices: whole numbers, rounded up, never nothing for want of one."""

from __future__ import annotations

from fractions import Fraction

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wireroom_chat.domain.pricing import Pricing, output_bound, prompt_bound
from wireroom_chat.domain.providers import FREE, Price, ProviderModel
from wireroom_common.errors import WireroomError

MICROS = st.integers(0, 10**12)
TOKENS = st.integers(0, 2**31 - 1)
PRICES = st.builds(Price, MICROS, MICROS, st.just("v"), st.none() | MICROS)


@given(PRICES, TOKENS, TOKENS, TOKENS)
def test_cost_is_the_exact_cost_rounded_up(price: Price, tokens_in: int, tokens_out: int, cached: int) -> None:
    cost = Pricing().cost(price, tokens_in, tokens_out, cached_in=cached)
    cached = min(cached, tokens_in)
    cheap = price.input_micros if price.cached_input_micros is None else price.cached_input_micros
    exact = Fraction((tokens_in - cached) * price.input_micros + cached * cheap + tokens_out * price.output_micros, 1_000_000)
    assert isinstance(cost, int)
    assert 0 <= cost - exact < 1
    assert (cost == 0) == (exact == 0)


@given(PRICES, st.integers(0, 4096), st.integers(0, 100_000), st.integers(1, 8))
def test_no_call_within_its_bounds_costs_more_than_the_maximum(price: Price, words: int, longest: int, choices: int) -> None:
    body = {"messages": [{"role": "user", "content": "é" * words}], "max_tokens": longest, "n": choices}
    model = ProviderModel("p", "m", price)
    tokens_out = longest * choices if longest else 4096 * choices
    # A token of each byte of the text, and a few for the frame.
    assert Pricing().maximum(price, body, model) >= Pricing().cost(price, 2 * words + 8, tokens_out)


def test_an_unknown_price_is_refused_or_the_default_and_never_nothing() -> None:
    model = ProviderModel("p", "m")
    with pytest.raises(WireroomError, match="price_unknown"):
        Pricing(None).price(model)
    assert Pricing(Price(1, 1, "default")).price(model) == Price(1, 1, "default")
    assert Pricing(Price(1, 1)).cost(Price(1, 1), 1, 0) == 1
    for zero in (FREE, Price(0, 5), Price(5, 0)):
        with pytest.raises(ValueError, match="must not be zero"):
            Pricing(zero)
    assert Pricing(None).price(ProviderModel("p", "local", FREE)) is FREE


@pytest.mark.parametrize(
    ("body", "model", "expected"),
    [
        ({}, ProviderModel("p", "m"), 4096),
        ({}, ProviderModel("p", "m", max_output_tokens=100), 100),
        ({"max_tokens": 7, "max_completion_tokens": 9}, ProviderModel("p", "m"), 9),
        ({"max_tokens": 700}, ProviderModel("p", "m", max_output_tokens=100), 100),
        ({"max_tokens": 7, "n": 3}, ProviderModel("p", "m"), 21),
        ({"max_tokens": 7, "n": 2, "best_of": 4}, ProviderModel("p", "m"), 28),
        ({"max_tokens": True, "n": "8"}, ProviderModel("p", "m"), 4096),
        ({"max_tokens": -5, "n": -1}, ProviderModel("p", "m"), 4096),
        ({"prompt": ["a", "b"], "max_tokens": 5}, ProviderModel("p", "m"), 10),
        ({"input": "text"}, ProviderModel("p", "e", purposes=frozenset({"embeddings"})), 0),
    ],
)
def test_bound_of_the_answer(body: dict[str, object], model: ProviderModel, expected: int) -> None:
    assert output_bound(body, model) == expected


def test_bound_of_the_prompt_counts_bytes_tools_and_images_within_the_context() -> None:
    model = ProviderModel("p", "m")
    tools = [{"type": "function", "function": {"name": "f" * 50}}]
    plain = prompt_bound({"messages": [{"role": "user", "content": "x"}]}, model)
    assert prompt_bound({"messages": [{"role": "user", "content": "x"}], "tools": tools}, model) >= plain + len(
        orjson.dumps(tools)
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    with_image = prompt_bound({"messages": [{"role": "user", "content": [image]}]}, model)
    assert 4096 <= with_image < 10_000
    assert (
        prompt_bound({"messages": [{"role": "user", "content": "x" * 9999}]}, ProviderModel("p", "m", context_tokens=100)) == 100
    )
