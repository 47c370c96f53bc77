"""URL forms and the address guard, on whatever there is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wireroom_news.domain.addresses import Address, AddressPolicy
from wireroom_news.domain.articles import Entry, ParsedFeed, identify
from wireroom_news.domain.urls import UrlRefusedError, canonical_url, feed_url

# Written down from the registries of special addresses, on purpose not taken from the code under test.
PRIVATE_V4 = (
    (0x00000000, 8), (0x0A000000, 8), (0x64400000, 10), (0x7F000000, 8), (0xA9FE0000, 16), (0xAC100000, 12), (0xC0000000, 24),
    (0xC0000200, 24), (0xC0586300, 24), (0xC0A80000, 16), (0xC6120000, 15), (0xC6336400, 24), (0xCB007100, 24), (0xE0000000, 4),
    (0xF0000000, 4), (0xA83F8110, 32),
)  # fmt: skip
PRIVATE_V6 = (
    "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
    "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip
LISTED_V6 = tuple((int(ip_network(text).network_address), ip_network(text).prefixlen) for text in PRIVATE_V6)

v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
# Uniform numbers would hardly ever meet a short range: half of the examples begin like one.
near_v4 = st.builds(
    lambda network, tail: IPv4Address((network[0] & ~0xFFF | tail) & 0xFFFFFFFF),
    st.sampled_from(PRIVATE_V4),
    st.integers(-2, 0x1FFF),
)
near_v6 = st.builds(
    lambda network, tail: IPv6Address((network[0] + tail) % 2**128), st.sampled_from(LISTED_V6), st.integers(-(2**66), 2**66)
)
any_address = st.one_of(v4, near_v4, st.integers(0, 2**128 - 1).map(IPv6Address), near_v6)


def listed(address: Address) -> bool:
    number, bits, networks = int(address), address.max_prefixlen, PRIVATE_V4 if address.version == 4 else LISTED_V6
    return any(number >> (bits - prefix) == base >> (bits - prefix) for base, prefix in networks)


@settings(max_examples=1_000)
@given(any_address)
def test_guard_agrees_with_the_list(address: Address) -> None:
    policy = AddressPolicy()
    assert policy.is_public(address) is not listed(address)
    assert policy.allows("name.example", 443, address) is not listed(address)
    assert not policy.allows("name.example", 22, address)


@given(v4)
def test_no_form_of_an_embedded_address_passes(address: IPv4Address) -> None:
    number, policy = int(address), AddressPolicy()
    forms = (
        number,  # compatible
        0xFFFF << 32 | number,  # mapped
        0xFFFF << 48 | number,  # translated
        0x0064FF9B << 96 | number,  # NAT64
        0x0064FF9B0001 << 80 | number,  # NAT64, local use
        0x2002 << 112 | number << 80 | 1,  # 6to4
        0x20010000 << 96 | (number ^ 0xFFFFFFFF),  # Teredo
    )
    assert [form for form in forms if policy.is_public(IPv6Address(form))] == []


@pytest.mark.parametrize("text", ["8.8.8.8", "93.184.215.14", "168.63.129.17", "2606:4700::1111", "2a00:1450::1", "2001:4860::1"])
def test_public_addresses_pass(text: str) -> None:
    assert AddressPolicy().allows("name.example", 443, ip_address(text))


def test_exceptions_and_denials_are_as_narrow_as_written() -> None:
    local, other = ip_address("127.0.0.1"), ip_address("10.2.3.4")
    policy = AddressPolicy(["feeds.internal:8081", "10.2.0.0/16", "[::1]:9000"], ["93.184.0.0/16"])
    assert policy.allows("FEEDS.internal.", 8081, local)
    assert not policy.allows("feeds.internal", 8082, local)
    assert not policy.allows("sub.feeds.internal", 8081, local)
    assert policy.allows("any.example", 22, other)
    assert policy.allows("::1", 9000, ip_address("::1"))
    assert not policy.allows("::1", 9001, ip_address("::1"))
    assert not policy.allows("example.com", 443, ip_address("93.184.215.14"))


@pytest.mark.parametrize("text", ["", ":80", "host:port", "10.0.0.1/8", "10.0.0.0/99"])
def test_unreadable_exception_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        AddressPolicy([text])


scraps = st.sampled_from(
    ["http", "https", "HTTP", ":", "//", "/", "?", "#", "&", "=", "@", "%", "%2F", ".", "..", "[", "]", "::1", "a.example", "xn--", "ß",
     "。",
     "\u2003", "\ud800", "\x00", " ", "\t", "\n", "utm_source=x", "q=1", ":80", ":443", ":99999", "\\", "+", "é", "\u0130", "\U0001f4f0"]
)  # fmt: skip
url_like = st.lists(scraps, max_size=12).map(lambda parts: "http://a.example" + "".join(parts))
anything = st.one_of(
    st.text(max_size=200), st.lists(scraps, max_size=14).map("".join), url_like, url_like.map(lambda url: url[:7] + url[16:])
)


@settings(max_examples=1_500)
@given(anything)
def test_canonical_url_is_idempotent_and_never_raises(text: str) -> None:
    first = canonical_url(text)
    if first is not None:
        assert canonical_url(first) == first
        assert first.startswith(("http://", "https://"))
        assert first.isascii()
        assert "#" not in first


@settings(max_examples=1_500)
@given(anything)
def test_feed_url_is_idempotent_or_says_why_not(text: str) -> None:
    first = reason = ""
    try:
        first = feed_url(text)
    except UrlRefusedError as error:
        reason = str(error)
    if not reason:
        assert feed_url(first) == first
        assert "@" not in first.split("/")[2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTPS://News.Example:443/a?utm_source=x&id=1#top", "https://news.example/a?id=1"),
        ("http://user:secret@news.example/a", "http://news.example/a"),
        ("https://news.example./a?fbclid=1", "https://news.example/a"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
    ],
)
def test_spellings_of_one_url(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other) == other


entries = st.lists(
    st.builds(
        Entry,
        guid=st.sampled_from(["", "1", "2", "3"]),
        url=st.sampled_from(
            ["", "https://n.example/", "https://n.example/1", "https://n.example/2?utm_source=x", "https://n.example/2"]
        ),
        title=st.sampled_from(["A", "B"]),
        text=st.sampled_from(["x", "y"]),
        summary=st.just(""),
        author=st.just(""),
        published_at=st.none(),
    ),
    max_size=8,
)


@given(st.data(), entries)
def test_order_of_entries_changes_nothing(data: st.DataObject, found: list[Entry]) -> None:
    shuffled = data.draw(st.permutations(found))
    one, other = (identify(ParsedFeed("F", "https://n.example/", tuple(each))) for each in (found, shuffled))
    assert set(one.items) == set(other.items)
    assert one.shared_keys == other.shared_keys
