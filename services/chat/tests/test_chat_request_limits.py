"""What a request may say to a provider, and what its words may cost before anybody is asked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from wireroom_chat.domain.followup import search_query
from wireroom_chat.domain.links import LinkGuard
from wireroom_chat.domain.pricing import Pricing, prompt_bound
from wireroom_chat.domain.provider_address import check_address
from wireroom_chat.domain.providers import Price, ProviderModel
from wireroom_chat.domain.request import parse_request
from wireroom_chat.domain.terms import Terms
from wireroom_common.errors import ErrorKind, WireroomError

MODEL = ProviderModel("p", "m", Price(1_000_000, 1_000_000, "t"))
ASK = [{"role": "user", "content": "Hi"}]


def parsed(**members: Any) -> Any:
    return parse_request(orjson.dumps({"model": "m", "messages": ASK, **members}), stream=False)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [0, -1, 100000.0, "100000", True, [1]])
def test_length_that_is_no_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(WireroomError) as caught:
        parsed(**{name: value})
    assert caught.value.kind is ErrorKind.INVALID
    assert [problem.field for problem in caught.value.fields] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "models",
        "route",
        "plugins",
        "provider",
        "fallbacks",
        "api_base",
        "api_key",
        "extra_headers",
        "user_config",
        "web_search_options",
    ],
)
def test_members_that_choose_another_model_or_server_are_refused(name: str) -> None:
    with pytest.raises(WireroomError) as caught:
        parsed(**{name: ["x"]})
    assert [problem.field for problem in caught.value.fields] == [name]


def test_dearer_tiers_are_refused_and_what_would_be_stored_elsewhere_stays_here() -> None:
    with pytest.raises(WireroomError):
        parsed(service_tier="priority")
    sent = parsed(service_tier="auto", store=True, metadata={"a": "b"}, temperature=0.5, seed=3).raw
    assert sorted(sent) == ["messages", "model", "seed", "temperature"]


def test_prompt_counts_whatever_it_calls_itself() -> None:
    long = "x" * 10_000
    hidden = {"messages": [{"role": "user", "type": "image_url", "content": long}], "tools": [{"type": "image_url", "x": long}]}
    assert prompt_bound(hidden, MODEL) > 20_000
    picture = {"type": "image_url", "image_url": {"url": "data:" + "A" * 1_000_000}, "note": long}
    bound = prompt_bound({"messages": [{"role": "user", "content": [picture, {"type": "text", "text": long}]}]}, MODEL)
    assert 24_000 < bound < 40_000
    assert Pricing(None).maximum(Price(1_000_000, 1_000_000), {"messages": ASK, "max_tokens": 50}, MODEL) < 150


def test_long_texts_are_searched_by_their_end() -> None:
    text = "What about the Aurora pump of the northern harbour? " * 40_000
    assert search_query("And what does it cost?", [text] * 6, Terms()).startswith("And what does it cost?")
    assert search_query(text, [text], Terms()) == text
    assert len(parsed(messages=[{"role": "user", "content": text}]).search_text()) == 4000


def test_text_without_an_end_passes_the_guard_of_links() -> None:
    """Quadratic work would take minutes here."""
    guard = LinkGuard({"example.com"})
    assert len(guard.feed("=" * 400_000) + guard.rest()) == 400_000


@pytest.mark.parametrize(
    "host",
    [
        "\uff11\uff16\uff19.\uff12\uff15\uff14.169.254",
        "169\u3002254\u3002169\u3002254",
        "\u2460\u2465\u2468.254.169.254",
        "[64:ff9b::a9fe:a9fe]",
        "[::169.254.169.254]",
        "[::ffff:169.254.169.254]",
        "168.63.129.16",
        "0.1.2.3",
        "169.254.169.254",
    ],
)
def test_addresses_that_give_out_credentials_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(ValueError, match=r"taken|ASCII"):
        check_address(f"http://{host}/v1")


@pytest.mark.parametrize("host", ["10.0.0.5", "[::1]", "127.0.0.1", "models.internal", "[fd12::5]"])
def test_private_addresses_are_taken(host: str) -> None:
    assert check_address(f"http://{host}:8000/v1/") == f"http://{host}:8000/v1"
