"""What `core.evaluate` says of the edge is what the function as published says under njs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import Any

import pytest

from core import edge
from core.evaluate import NOBODY, Decision, Request, Stamp, behind_edge, decide, stamp
from core.model import Settings
from tests.edge import njs
from tests.edge.conftest import Make

BLUE = ["198.51.100.0/24", "2001:db8:b1::/48", "10.0.0.0/9", "192.0.2.4/31"]
GREEN = ["203.0.113.0/24", "2001:db8:8::/45", "::ffff:172.16.0.0/108", "192.0.2.6/32"]
COOKIES = ["", "0", "9999", "42", "0042", "10000", "-1", "1e3", " 7", "abc"]


def address(rng: Random) -> str:
    """In a list or out of it, IPv4 or IPv6, in one of the ways to write it."""
    if rng.random() < 0.5:
        network = ip_network(rng.choice(BLUE + GREEN))
        found: Any = network[rng.randrange(network.num_addresses)]
    else:
        found = rng.choice([IPv4Address(rng.getrandbits(32)), IPv6Address(rng.getrandbits(128))])
    if isinstance(found, IPv4Address):
        return rng.choice([str(found), f"::ffff:{found}", f"::FFFF:{found}"])
    texts: list[str] = [str(found), found.exploded, str(found).upper()]
    return rng.choice(texts)


@pytest.mark.parametrize("number", range(12))
def test_the_evaluator_and_the_function_agree_on_every_stamp(make: Make, number: int) -> None:
    rng = Random(f"stamps-{number}")
    settings = make(
        rng.choice([0, 1, 5, 50, 99, 100]),
        canary=f"sample-web:{number + 2}.0",
        top={"halted": number == 11},
        blueCidrs=rng.sample(BLUE, rng.randint(0, 4)),
        greenCidrs=rng.sample(GREEN, rng.randint(0, 4)),
    )
    broken = ["", "nonsense", "1.2.3", "256.1.1.1", "fe80::1%eth0", "1:2", ":::", "::ffff:1.2.3.999"]
    viewers = [(address(rng), rng.choice([None, *COOKIES])) for _ in range(400)]
    viewers += [(text, rng.choice([None, "1"])) for text in broken]
    said = [stamp(settings, ip, {} if crumb is None else {edge.COOKIE: crumb}) for ip, crumb in viewers]
    assert [(one.arm, one.reason) for one in said] == njs.stamps(settings, viewers)
    reasons = {one.reason for one in said}
    assert reasons == ({"halted"} if settings.halted else {"cidr", "bucket", "error"} & reasons | {"bucket", "error"})


def through(settings: Settings, ip: str, **request: Any) -> tuple[Stamp | None, Decision]:
    found, arrived = behind_edge(settings, Request(**request), ip)
    return found, decide("web", settings, arrived)


def test_a_request_is_followed_from_the_viewer_through_the_edge_to_its_route(make: Make) -> None:
    lists = {"blueCidrs": ["198.51.100.0/24"], "greenCidrs": ["203.0.113.0/24"]}
    settings = make(5, **lists)
    spoofed = {"x-deployment": "green", "x-deployment-reason": "cidr", "X-Canary": "true", "User-Id": "1"}
    for headers in ({}, spoofed):
        said = through(settings, "198.51.100.7", headers=headers)
        assert said == (Stamp("blue", "cidr"), Decision("cidr", "edge-blue-cidr", {"stable": 1.0}))
        said = through(settings, "203.0.113.7", headers=headers)
        assert said == (Stamp("green", "cidr"), Decision("stamp", "edge-green", {"canary": 1.0}))
    low, high = ((bucket - edge.salt(settings)) % 10_000 for bucket in (499, 500))
    for own, arm, track in ((low, "green", "canary"), (high, "blue", "stable")):
        found, decision = through(settings, "192.0.2.1", cookies={edge.COOKIE: str(own)}, headers=spoofed)
        assert found is not None
        assert (found.arm, found.reason, decision.shares) == (arm, "bucket", {track: 1.0})
    trusting = make(5, trustHeaders=["x-canary"], **lists)
    assert through(trusting, "192.0.2.1", headers={"x-canary": "true"})[1].route == "rule-qa"
    assert through(trusting, "198.51.100.7", headers={"x-canary": "true"})[1].layer == "cidr"
    assert through(make(5, top={"halted": True}), "203.0.113.7") == (
        Stamp("blue", "halted"),
        Decision("halted", "default", {"stable": 1.0}),
    )


def test_a_host_that_is_no_alias_gets_no_further_and_without_an_edge_nothing_is_stamped(make: Make) -> None:
    settings = make(5)
    assert through(settings, "192.0.2.1", host="other.example.com") == (None, NOBODY)
    assert through(settings, "192.0.2.1", host="SHOP.lab.test:443")[0] is not None
    without = settings.model_copy(update={"edge": None})
    found, arrived = behind_edge(without, Request(headers={"x-deployment": "green"}), "192.0.2.1")
    assert (found, arrived.headers) == (None, {"x-deployment": "green"})
