"""CIDR lists: compiled for the edge, compared with what was written before."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import cidrs

NETWORK = st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)).map(lambda pair: str(ip_network(pair, strict=False)))
LISTS = st.lists(NETWORK, max_size=12)


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("203.0.113.0/24", ["4cb0071"]),
        ("203.0.113.9", ["4cb007109"]),
        ("10.0.0.0/8", ["40a"]),
        ("198.18.0.0/15", ["4c612", "4c613"]),
        ("192.0.2.128/25", [f"4c00002{digit}" for digit in "89abcdef"]),
        ("0.0.0.0/0", ["4"]),
        ("2001:db8::/32", ["620010db8"]),
        ("2001:db8::/33", [f"620010db8{digit}" for digit in "01234567"]),
        ("::1", ["6" + "0" * 31 + "1"]),
        ("::ffff:203.0.113.0/120", ["4cb0071"]),
        ("::FFFF:0:0/96", ["4"]),
    ],
)
def test_a_network_becomes_the_prefixes_that_its_addresses_begin_with(text: str, prefixes: list[str]) -> None:
    assert cidrs.compiled([text]) == prefixes


@given(LISTS)
def test_compiled_prefixes_are_sorted_and_none_begins_another(texts: list[str]) -> None:
    found = cidrs.compiled(texts)
    assert found == sorted(set(found))
    assert not any(later.startswith(earlier) for earlier, later in pairwise(found))


@given(LISTS, st.integers(0, 2**32 - 1))
def test_an_address_is_in_a_list_if_a_prefix_begins_it(texts: list[str], number: int) -> None:
    inside = any(IPv4Address(number) in ip_network(text) for text in texts)
    assert inside == any(f"4{number:08x}".startswith(prefix) for prefix in cidrs.compiled(texts))


def test_neighbours_and_repetitions_cost_nothing() -> None:
    assert cidrs.compiled(["203.0.112.0/24", "203.0.113.0/24", "203.0.113.7"]) == ["4cb0070", "4cb0071"]
    assert cidrs.compiled(["10.0.0.0/9", "10.128.0.0/9"]) == ["40a"]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("203.0.113.5/24", "203.0.113.0/24"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("office", "203.0.113.0/24"),
        ("203.0.113.0/33", "203.0.113.0/24"),
        ("fe80::%eth0/64", "%"),
        ("", "203.0.113.0/24"),
    ],
)
def test_what_is_no_network_is_refused_with_what_to_write(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match="write") as caught:
        cidrs.checked(text)
    assert fix in str(caught.value)


# --- wider or narrower ---


def words(texts: list[str], before: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    old = cidrs.tokens("green", before)
    return old, cidrs.tokens("green", texts, old)


@pytest.mark.parametrize(
    ("before", "after", "wider", "narrower"),
    [
        (["203.0.113.0/24"], ["203.0.113.0/24"], False, False),
        (["203.0.113.0/24"], ["203.0.113.0/25", "203.0.113.128/25"], False, False),
        (["203.0.113.0/24"], ["203.0.113.0/25"], False, True),
        (["203.0.113.0/25"], ["203.0.113.0/24"], True, False),
        (["203.0.113.0/24"], [], False, True),
        ([], ["203.0.113.0/24"], True, False),
        (["203.0.113.0/24"], ["198.51.100.0/24"], True, True),
        (["203.0.113.0/25", "203.0.113.128/25"], ["203.0.113.7"], False, True),
        (["203.0.113.0/24"], ["::ffff:203.0.113.0/121"], False, True),
        (["2001:db8::/32"], ["2001:db8:1::/48"], False, True),
    ],
)
def test_a_wider_list_has_a_word_more_and_a_narrower_one_a_word_less(
    before: list[str], after: list[str], wider: bool, narrower: bool
) -> None:
    old, new = words(after, before)
    assert (bool(new - old), bool(old - new)) == (wider, narrower)


@given(LISTS, LISTS)
def test_words_tell_just_whether_there_are_more_or_fewer_addresses(before: list[str], after: list[str]) -> None:
    old, new = words(after, before)
    first, second = cidrs.compiled(before), cidrs.compiled(after)

    def covered(inner: list[str], outer: list[str]) -> bool:
        return all(any(one.startswith(other) for other in outer) for one in cidrs_spread(inner))

    def cidrs_spread(prefixes: list[str]) -> list[str]:
        # each prefix in parts as fine as the finest that lies in it, so that a cover of several counts
        found = []
        for prefix in prefixes:
            below = [one for one in (*first, *second) if one.startswith(prefix)]
            depth = max(map(len, below))
            parts = {one[:length] for one in below for length in range(len(prefix) + 1, depth + 1)}
            found += sorted(
                {part[:-1] + digit for part in parts for digit in "0123456789abcdef"}
                - {part for part in parts if any(other.startswith(part) and other != part for other in below)}
            ) or [prefix]
        return found

    assert bool(new - old) == (not covered(second, first))
    assert bool(old - new) == (not covered(first, second))


def test_words_that_hands_spoilt_count_for_nothing() -> None:
    spoilt = frozenset({"green office", "green", "green 203.0.113.5/24", "blue 203.0.113.0/24", "green 203.0.113.0/24"})
    assert cidrs.tokens("green", ["203.0.113.0/24"], spoilt) == {"green 203.0.113.0/24"}
