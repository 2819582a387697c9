"""The function on requests, as published, under njs."""

from __future__ import annotations

import json
import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import checks, edge
from core.model import Settings
from tests.edge import njs
from tests.edge.conftest import Make, raw

BLUE, GREEN = "198.51.100.0/24", "203.0.113.0/24"


def addresses(count: int, seed: int = 7) -> list[str]:
    """Addresses of viewers: half IPv4, half IPv6 of as many networks."""
    chance = random.Random(seed)
    found = [str(IPv4Address(chance.randrange(0x0B000000, 0xC6000000))) for _ in range(count // 2)]
    networks = [0x2001 << 112 | chance.getrandbits(48) << 64 for _ in range(count - count // 2)]
    return found + [str(IPv6Address(network | chance.getrandbits(64))) for network in networks]


# --- who is served by whom ---


def test_blue_comes_before_green_and_both_before_the_bucket(make: Make) -> None:
    settings = make(100, blueCidrs=[BLUE], greenCidrs=[GREEN])
    viewers = [("198.51.100.7", None), ("203.0.113.7", None), ("192.0.2.7", None)]
    assert njs.stamps(settings, viewers) == [("blue", "cidr"), ("green", "cidr"), ("green", "bucket")]
    assert njs.stamps(make(0, blueCidrs=[BLUE], greenCidrs=[GREEN]), viewers) == [
        ("blue", "cidr"),
        ("green", "cidr"),
        ("blue", "bucket"),
    ]


def test_halted_sends_nobody_whatever_the_lists_and_the_cookie_say(make: Make) -> None:
    settings = make(100, top={"halted": True}, blueCidrs=[BLUE], greenCidrs=[GREEN])
    viewers = [("198.51.100.7", None), ("203.0.113.7", "0"), ("192.0.2.7", "0")]
    assert njs.stamps(settings, viewers) == [("blue", "halted")] * 3


def test_0_is_nobody_and_100_is_everybody(make: Make) -> None:
    viewers = [(ip, None) for ip in addresses(500)]
    assert set(njs.stamps(make(0), viewers)) == {("blue", "bucket")}
    assert set(njs.stamps(make(100), viewers)) == {("green", "bucket")}


def test_of_10000_buckets_none_moves_back_when_the_percentage_rises_and_lowering_moves_them_back(make: Make) -> None:
    viewers = [("192.0.2.1", str(bucket)) for bucket in range(10_000)]
    before: set[int] = set()
    for weight in (0, 1, 5, 25, 50, 100):
        found = njs.stamps(make(weight), viewers)
        green = {bucket for bucket, (arm, _) in enumerate(found) if arm == "green"}
        assert len(green) == weight * 100
        assert before <= green
        before = green
    lowered = njs.stamps(make(5), viewers)
    assert sum(arm == "green" for arm, _ in lowered) == 500


def test_a_new_canary_begins_with_other_people_and_a_step_with_the_same(make: Make) -> None:
    viewers = [("192.0.2.1", str(bucket)) for bucket in range(0, 10_000, 7)]

    def green(settings: Settings) -> set[int]:
        return {place for place, (arm, _) in enumerate(njs.stamps(settings, viewers)) if arm == "green"}

    five, ten, other = green(make(5)), green(make(10)), green(make(5, canary="sample-web:3.0"))
    assert five < ten
    assert len(five & other) < len(five) / 2
    assert edge.salt(make(5)) == edge.salt(make(50)) != edge.salt(make(5, canary="sample-web:3.0"))


@pytest.mark.parametrize("cookie", ["", "-1", "10000", "1e3", "0x10", " 7", "7 ", "12345", "abc", "\uff17"])
def test_a_cookie_that_is_no_bucket_counts_as_none(make: Make, cookie: str) -> None:
    viewers: list[tuple[str, str | None]] = [(ip, None) for ip in addresses(40)]
    without = njs.stamps(make(50), viewers)
    assert {arm for arm, _ in without} == {"blue", "green"}
    assert njs.stamps(make(50), [(ip, cookie) for ip, _ in viewers]) == without


def test_the_cookie_wins_over_the_address(make: Make) -> None:
    settings = make(50)
    (arm, _), *_ = njs.stamps(settings, [("192.0.2.1", None)])
    buckets = [str((bucket - edge.salt(settings)) % 10_000) for bucket in (0, 4_999, 5_000, 9_999)]
    assert [one for one, _ in njs.stamps(settings, [("192.0.2.1", bucket) for bucket in buckets])] == [
        "green", "green", "blue", "blue",
    ]  # fmt: skip
    assert arm in ("blue", "green")


def test_addresses_of_one_ipv6_network_of_64_bits_share_a_bucket_and_of_the_next_do_not(make: Make) -> None:
    chance = random.Random(3)
    network = 0x20010DB8 << 96
    same = [str(IPv6Address(network | chance.getrandbits(64))) for _ in range(50)]
    others = [str(IPv6Address(network | number << 64)) for number in range(50)]
    assert len(set(buckets(same))) == 1
    assert len(set(buckets(others))) > 40


def test_however_an_address_is_written_it_is_the_same_viewer(make: Make) -> None:
    forms = [
        ["203.0.113.9", "::ffff:203.0.113.9", "::FFFF:cb00:7109", "0:0:0:0:0:ffff:203.0.113.9", "::ffff:cb00:7109"],
        ["2001:db8:85a3::8a2e:370:7334", "2001:0db8:85a3::8a2e:0370:7334", "2001:DB8:85A3:0:0:8A2E:370:7334"],
        ["2001:db8::", "2001:db8:0:0::", "2001:0db8:0000:0000:0000:0000:0000:0000"],
        ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
        ["::1", "0:0:0:0:0:0:0:1", "0::1"],
    ]
    settings = make(5, greenCidrs=["203.0.113.8/29", "2001:db8:85a3::/48", "64:ff9b::192.0.2.32/123", "::1"])
    for same in forms:
        assert len(set(buckets(same))) == 1, same
        assert len(set(njs.stamps(settings, [(ip, None) for ip in same]))) == 1, same
    firsts = njs.stamps(settings, [(same[0], None) for same in forms])
    assert [reason for _, reason in firsts] == ["cidr", "cidr", "bucket", "cidr", "cidr"]


# --- cohorts ---


def test_cidr_cohorts_are_exact_to_the_address(make: Make) -> None:
    networks = [
        "10.0.0.0/8", "172.16.0.0/12", "192.0.2.128/25", "198.18.0.0/15", "203.0.113.77", "100.64.0.0/10",
        "::ffff:198.51.100.64/122", "2001:db8::/32", "2001:db9:8000::/33", "2001:dba::/47", "fd00:1::1",
    ]  # fmt: skip
    settings = make(0, greenCidrs=networks)
    edges, chance = set(), random.Random(11)
    for text in networks:
        one = ip_network(text)
        first, last = int(one.network_address), int(one.broadcast_address)
        kind = type(one.network_address)
        inside = [chance.randint(first, last) for _ in range(20)]
        edges |= {str(kind(number)) for number in (first - 1, first, last, last + 1, *inside)}
    viewers = sorted(edges)
    found = [arm == "green" for arm, _ in njs.stamps(settings, [(ip, None) for ip in viewers])]
    wanted = [any(_is_in(ip, text) for text in networks) for ip in viewers]
    assert found == wanted
    assert 20 < sum(wanted) < len(wanted)


def _is_in(ip: str, text: str) -> bool:
    address, network = ip_address(ip), ip_network(text)
    return (address.version == network.version and address in network) or _mapped(ip) in _unmapped(text)


def _mapped(ip: str) -> Any:
    address = ip_address(ip)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _unmapped(text: str) -> Any:
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network.network_address, IPv6Address) else None
    return ip_network(f"{mapped}/{network.prefixlen - 96}") if mapped and network.prefixlen >= 96 else network


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=25),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40),
)
@settings(max_examples=25, deadline=None)
def test_any_list_holds_just_its_own_addresses(pairs: list[tuple[int, int]], ips: list[int]) -> None:
    networks = [str(ip_network((number, length), strict=False)) for number, length in pairs]
    made, _ = checks.parse(raw(0, greenCidrs=networks))
    near = [int(ip_network(text).network_address) for text in networks]
    viewers = [str(IPv4Address(number % 2**32)) for one in near for number in (one - 1, one, one + 1)]
    viewers += [str(IPv4Address(number)) for number in ips]
    found = [arm == "green" for arm, _ in njs.stamps(made, [(ip, None) for ip in viewers])]
    assert found == [any(_is_in(ip, text) for text in networks) for ip in viewers]


# --- whatever goes wrong ---


def whole(generation: str = "0a1b2c3d", **state: Any) -> dict[str, Any]:
    """A store in which everybody is green."""
    own = {"buckets": 10_000, "salt": 0, "generation": generation, "halted": False} | state
    return {"blue_cidrs": f"@{generation}", "green_cidrs": f"@{generation}", "green_percentage": json.dumps(own)}


GARBAGE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no percentage": {**whole(), "green_percentage": None},
    "no blue list": {**whole(), "blue_cidrs": None},
    "no green list": {**whole(), "green_cidrs": None},
    "an empty list": {**whole(), "blue_cidrs": ""},
    "a list as people write it": {**whole(), "green_cidrs": "203.0.113.0/24"},
    "a list that is JSON": {**whole(), "blue_cidrs": '["4cb0071"]'},
    "a list of another write": {**whole(), "green_cidrs": "@99999999"},
    "a list that was cut off": {**whole(), "green_cidrs": "4cb0071 @0a1b"},
    "no JSON": {**whole(), "green_percentage": "5%"},
    "a plain number": {**whole(), "green_percentage": "100"},
    "null": {**whole(), "green_percentage": "null"},
    "an array": {**whole(), "green_percentage": "[10000]"},
    "buckets as text": whole(buckets="10000"),
    "buckets that are no whole number": whole(buckets=9999.5),
    "too many buckets": whole(buckets=10_001),
    "fewer than none": whole(buckets=-1),
    "no salt": whole(salt=None),
    "a salt that is too big": whole(salt=10_000),
    "no word about halted": whole(halted=None),
    "halted as text": whole(halted="false"),
}


def test_the_store_that_the_garbage_is_made_of_sends_everybody_to_green(make: Make) -> None:
    assert njs.stamps(make(), [("192.0.2.1", None)], store=whole()) == [("green", "bucket")]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_the_store_is_blue(make: Make, kind: str) -> None:
    store = {key: value for key, value in GARBAGE[kind].items() if value is not None}
    (arm, reason), *_ = njs.stamps(make(), [("192.0.2.1", "0")], store=store)
    assert (arm, reason) in (("blue", "error"), ("blue", "halted"))


@pytest.mark.parametrize(
    "ip", ["", "garbage", "1.2.3", "1.2.3.256", "1.2.3.4.5", "1:2:3", "::1::", "1:2:3:4:5:6:7:8:9", ":", "g::1"]
)
def test_an_address_that_is_none_is_blue(make: Make, ip: str) -> None:
    assert njs.stamps(make(100), [(ip, "0")]) == [("blue", "error")]


def test_without_a_store_or_an_address_everybody_is_blue_and_without_a_log_nothing_changes(make: Make) -> None:
    assert njs.stamps(make(100), [("192.0.2.1", None)], broken="store") == [("blue", "error")]
    assert njs.stamps(make(100), [("192.0.2.1", None)], broken="log") == [("green", "bucket")]
    event = njs.request("192.0.2.1")
    del event["viewer"]
    assert njs.stamp(njs.on_requests(make(100), [event])[0]) == ("blue", "error")


# --- what it writes ---


STORES = [
    {"weight": 100},
    {"weight": 0},
    {"weight": 5, "top": {"halted": True}},
    {"weight": 5, "greenCidrs": ["192.0.2.0/24"]},
]


@pytest.mark.parametrize("broken", ["", "store", "log"])
@pytest.mark.parametrize("config", STORES, ids=str)
def test_both_stamps_are_whole_new_objects_on_every_path(make: Make, config: Any, broken: str) -> None:
    spoofed = {"x-deployment": ["green", "green"], "x-deployment-reason": ["cidr", "cidr"], "accept": ["a", "b"]}
    found = njs.on_requests(make(**config), [njs.request("192.0.2.1", spoofed)], broken=broken)[0]
    headers = found["answer"]["headers"]
    for name in ("x-deployment", "x-deployment-reason"):
        assert list(headers[name]) == ["value"], "other values of a header sent twice would stay"
    assert headers["accept"]["multiValue"] == [{"value": "a"}, {"value": "b"}]
    assert (broken == "store") == (headers["x-deployment-reason"]["value"] == "error")


def test_of_1000_requests_with_stamps_and_rule_headers_of_their_own_none_has_any_effect(make: Make) -> None:
    spoofed = {"x-deployment": "green", "x-deployment-reason": "cidr", "x-canary": "true", "user-id": ["1", "2"]}
    viewers = addresses(1_000)
    plain = njs.on_requests(make(5), [njs.request(ip) for ip in viewers])
    found = njs.on_requests(make(5), [njs.request(ip, spoofed | {"x-kept": "yes"}) for ip in viewers])
    for one, other in zip(plain, found, strict=True):
        headers = other["answer"]["headers"]
        assert headers.pop("x-kept") == {"value": "yes"}
        assert headers == one["answer"]["headers"]
    assert len(found) == 1_000


def test_headers_that_are_trusted_stay_and_are_removed_even_when_the_store_is_gone_if_they_are_not(make: Make) -> None:
    settings = make(5, trustHeaders=["X-Canary"])
    event = njs.request("192.0.2.1", {"x-canary": "true", "user-id": "1"})
    for broken in ("", "store"):
        headers = njs.on_requests(settings, [event], broken=broken)[0]["answer"]["headers"]
        assert headers["x-canary"] == {"value": "true"}
        assert "user-id" not in headers


def test_arm_reason_and_generation_go_to_the_access_log(make: Make) -> None:
    settings = make(5, greenCidrs=[GREEN])
    assert settings.edge is not None
    generation = edge.values(settings, settings.edge)["green_cidrs"][-8:]
    events = [njs.request("203.0.113.7")]
    assert njs.on_requests(settings, events)[0]["log"] == f"green cidr {generation}"
    assert njs.on_requests(settings, events, broken="store")[0]["log"] == "blue error "


# --- the hash ---


def buckets(viewers: list[str]) -> list[int]:
    """Buckets of addresses, in portions: njs frees memory only when it ends."""
    made, _ = checks.parse(raw())
    assert made.edge is not None
    code, found = edge.code("viewer-response", made, made.edge), []
    for start in range(0, len(viewers), 25_000):
        text = " ".join(viewers[start : start + 25_000])
        script = f"{code}\nconst ips = '{text}'.split(' ');\n"
        script += "tell(ips.map(function (ip) { return hashOf(hexOf(ip)); }));"
        found += njs.result(script)
    return found


def test_200000_addresses_fill_the_buckets_evenly() -> None:
    """Chi-square over the 10,000 buckets stays below the value that an even spread exceeds once in 100,000 times.

    Addresses as they come: neighbours in networks, IPv4 and IPv6.
    """
    chance = random.Random(5)
    viewers = []
    for _ in range(400):
        network = chance.randrange(0x0B000000, 0xDF000000) & 0xFFFFFF00
        viewers += [str(IPv4Address(network + host)) for host in range(250)]
        network = 0x2A00 << 112 | chance.getrandbits(32) << 80
        viewers += [str(IPv6Address(network | number << 64 | chance.getrandbits(64))) for number in range(250)]
    assert len(set(viewers)) == 200_000
    counts = Counter(buckets(viewers))
    expected = 200_000 / 10_000
    square = sum((counts[bucket] - expected) ** 2 / expected for bucket in range(10_000))
    # Mean 9,999, standard deviation 141: 4.3 of them up is the quantile; as far down would be too even to be chance.
    assert abs(square - 9_999) < 4.3 * 141
    for weight in (1, 5, 25, 50):
        share = 100 * sum(counts[bucket] for bucket in range(weight * 100)) / 200_000
        assert abs(share - weight) <= 0.2 if weight <= 5 else abs(share - weight) <= 0.5
