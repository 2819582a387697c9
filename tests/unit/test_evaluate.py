"""Who gets a described request: the settings and the rendered routes give one answer, and it is the contract's."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from core import checks, matches, routes
from core.evaluate import NOBODY, Decision, Request, decide, route
from core.model import Rule, Service, Settings
from tests import generate

ALL = {"stable": 1.0}
CANARY = {"canary": 1.0}


def both(raw: dict[str, Any], request: Request, **changes: Any) -> Decision:
    """The decision of the settings, after a check that the rendered routes decide the same."""
    settings, _ = checks.parse(raw | changes)
    said = decide("web", settings, request)
    written = route(routes.virtual_service_spec("web", settings), request)
    assert (said.route, said.shares) == (written.route, written.shares)
    return said


def test_settings_and_rendered_routes_agree_on_a_thousand_generated_configurations() -> None:
    layers: Counter[str] = Counter()
    for seed, settings in generate.accepted():
        for name in settings.services:
            spec = routes.virtual_service_spec(name, settings)
            rng = Random(f"{seed}-{name}")
            for _ in range(10):
                request = generate.request(rng, settings, name)
                said, written = decide(name, settings, request), route(spec, request)
                assert (said.route, said.shares) == (written.route, written.shares), (seed, name, request)
                assert said.layer in (written.layer, "absent", "halted"), (seed, name, request)
                layers[said.layer] += 1
    assert set(layers) == {"absent", "halted", "cidr", "rule", "stamp", "weight"}
    assert min(layers.values()) >= 100, f"a layer is hardly met: {layers}"


def test_a_rule_that_is_called_hidden_never_takes_a_request() -> None:
    hidden = 0
    for number in range(4 * generate.COUNT):
        rng = Random(f"{generate.SEED}-hidden-{number}")
        service = Service.model_validate({"stable": {"image": "a:1"}, "canary": {"image": "a:2"}})
        first, second = (Rule.model_validate(generate.rule(rng, f"r{n}", service)) for n in range(2))
        if not matches.hides(first, second, service.user_header):
            continue
        hidden += 1
        settings = Settings(services={"web": service.model_copy(update={"rules": [first, second]})})
        for _ in range(20):
            request = generate.request(rng, settings, "web")
            assert decide("web", settings, request).route != "rule-r1", (first, second, request)
    assert hidden >= 30


@pytest.mark.parametrize(
    ("headers", "layer", "name", "shares"),
    [
        ({}, "weight", "default", {"stable": 0.95, "canary": 0.05}),
        ({"X-Canary": "true"}, "rule", "rule-qa", CANARY),
        ({"x-canary": "True"}, "weight", "default", {"stable": 0.95, "canary": 0.05}),
        ({"user-id": "2"}, "rule", "rule-first-users", CANARY),
        ({"user-id": "22"}, "weight", "default", {"stable": 0.95, "canary": 0.05}),
        ({"x-deployment": "green"}, "stamp", "edge-green", CANARY),
        ({"x-deployment": "blue"}, "stamp", "edge-stamped", ALL),
        ({"x-deployment": "purple"}, "stamp", "edge-stamped", ALL),
        ({"x-deployment": "blue", "x-canary": "true"}, "rule", "rule-qa", CANARY),
        (
            {"x-deployment": "blue", "x-deployment-reason": "cidr", "x-canary": "true"},
            "cidr",
            "edge-blue-cidr",
            ALL,
        ),
    ],
    ids=str,
)
def test_the_layers_decide_in_the_order_of_the_contract(
    web: dict[str, Any], headers: dict[str, str], layer: str, name: str, shares: dict[str, float]
) -> None:
    assert both(web, Request(headers=headers)) == Decision(layer, name, shares)


@pytest.mark.parametrize("stamp", ["green", "blue"])
def test_halted_and_absent_beat_rules_and_stamps(web: dict[str, Any], stamp: str) -> None:
    request = Request(headers={"x-canary": "true", "x-deployment": stamp})
    assert both(web, request, halted=True) == Decision("halted", "default", ALL)
    del web["services"]["web"]["canary"]
    assert both(web, request, weight=0) == Decision("absent", "default", ALL)


def test_at_weight_zero_a_late_bucket_stamp_is_stable_and_a_cidr_stamp_is_not(web: dict[str, Any]) -> None:
    for reason, name, shares in (("bucket", "edge-green-late", ALL), ("cidr", "edge-green", CANARY)):
        request = Request(headers={"x-deployment": "green", "x-deployment-reason": reason})
        assert both(web, request, weight=0) == Decision("stamp", name, shares)
    assert both(web, Request(), weight=0) == Decision("weight", "default", ALL)


RULES: list[tuple[str, dict[str, Any], Request, Request]] = [
    ("exact", {"headers": {"a": "x"}}, Request(headers={"A": "x"}), Request(headers={"a": "X"})),
    ("prefix", {"headers": {"a": {"prefix": "x"}}}, Request(headers={"a": "xy"}), Request(headers={"a": "yx"})),
    ("regex", {"headers": {"a": {"regex": "b.?"}}}, Request(headers={"a": "bc"}), Request(headers={"a": "abc"})),
    ("present", {"headers": {"a": {"present": True}}}, Request(headers={"a": ""}), Request()),
    ("cookie", {"cookies": {"a": "x"}}, Request(cookies={"b": "y", "a": "x"}), Request(cookies={"ba": "x"})),
    ("query", {"query": {"a": "x"}}, Request(query={"a": "x"}), Request(query={"a": "xx"})),
    ("query prefix", {"query": {"a": {"prefix": "x"}}}, Request(query={"a": "xx"}), Request(query={"A": "x"})),
    ("user", {"users": ["a.b", "1"]}, Request(headers={"user-id": "a.b"}), Request(headers={"user-id": "axb"})),
    (
        "uri",
        {"users": ["1"], "uri": {"prefix": "/a"}},
        Request(headers={"user-id": "1"}, uri="/ab"),
        Request(headers={"user-id": "1"}, uri="/A"),
    ),
    (
        "method",
        {"users": ["1"], "method": "POST"},
        Request(headers={"user-id": "1"}, method="POST"),
        Request(headers={"user-id": "1"}),
    ),
]


@pytest.mark.parametrize("to", ["canary", "stable"])
@pytest.mark.parametrize(("rule", "met", "missed"), [case[1:] for case in RULES], ids=[case[0] for case in RULES])
def test_every_kind_of_rule_takes_what_it_describes_and_nothing_else(
    web: dict[str, Any], rule: dict[str, Any], met: Request, missed: Request, to: str
) -> None:
    web["services"]["web"]["rules"] = [{"name": "one", "to": to, **rule}]
    assert both(web, met) == Decision("rule", "rule-one", {to: 1.0})
    assert both(web, missed).layer == "weight"


def test_the_first_rule_that_holds_decides(web: dict[str, Any]) -> None:
    web["services"]["web"]["rules"] = [
        {"name": "staff", "headers": {"x-group": "staff"}, "to": "stable"},
        {"name": "first", "users": ["1"]},
    ]
    assert both(web, Request(headers={"user-id": "1"})).route == "rule-first"
    assert both(web, Request(headers={"user-id": "1", "x-group": "staff"})).route == "rule-staff"


def test_a_host_that_is_not_the_services_meets_no_route_from_outside(web: dict[str, Any]) -> None:
    assert both(web, Request(host="other.example.com")) == NOBODY
    assert both(web, Request(host="SHOP.lab.test:8080")).layer == "weight"
    assert both(web, Request(host="other.example.com", door="mesh")).layer == "weight"


def test_a_service_without_hosts_is_met_inside_the_mesh_only(web: dict[str, Any]) -> None:
    web["services"]["web"]["hosts"] = []
    assert both(web, Request()) == NOBODY
    assert both(web, Request(door="mesh")).layer == "weight"


def test_a_hand_written_condition_that_a_waypoint_would_drop_is_named(web: dict[str, Any]) -> None:
    spec = routes.virtual_service_spec("web", checks.parse(web)[0])
    spec["http"][0]["match"][0]["sourceLabels"] = {"app": "a"}
    with pytest.raises(ValueError, match="sourceLabels"):
        route(spec, Request())
