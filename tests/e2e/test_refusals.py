"""Bad input and forbidden changes stop in a real preview and a real up, in one line, and nothing is touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.stack import Stack, Update, api

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"

TODAY = datetime.now(UTC)
CLOSED = f"{(TODAY + timedelta(days=3)):%a} 09:00-16:00 UTC"
"""A window that is not open today, and in a run over midnight not tomorrow either."""

FREEZE = {
    "from": str((TODAY - timedelta(days=1)).date()),
    "to": str((TODAY + timedelta(days=1)).date()),
    "why": "year end",
}


def override(old: int, new: int) -> dict[str, Any]:
    return {"reason": "drill", "until": (TODAY + timedelta(hours=2)).isoformat(), "from": old, "to": new}


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "weight -1": ({"weight": -1}, {}, "canary:weight: got"),
    "weight 101": ({"weight": 101}, {}, "canary:weight: got"),
    "weight 5.5": ({"weight": 5.5}, {}, "canary:weight: got"),
    "weight abc": ({"weight": "abc"}, {}, "canary:weight: got"),
    "image missing": ({"weight": 5}, {"canary": {"replicas": 1}}, "canary:services.web.canary.image"),
    "unknown key": ({"wieght": 5}, {}, "did you mean weight?"),
    "weight without canary": ({"weight": 5}, {"canary": None}, "no service has a canary"),
    "ladder not rising": ({"weight": 5, "steps": [5, 5]}, {}, "canary:steps"),
    "rule without match": ({"weight": 5}, {"rules": [{"name": "all"}]}, "rules[0]"),
    "bad regex": ({"weight": 5}, {"rules": [{"name": "a", "headers": {"x": {"regex": "(?=b)"}}}]}, "RE2"),
    "regex too long": (
        {"weight": 5},
        {"rules": [{"name": "a", "headers": {"x": {"regex": "b" * 1025}}}]},
        "longer than 1024 bytes",
    ),
    "two rules of one name": (
        {"weight": 5},
        {"rules": [{"name": "a", "users": ["1"]}, {"name": "a", "users": ["2"]}]},
        "rules[1].name",
    ),
    "rule that is never reached": (
        {"weight": 5},
        {"rules": [{"name": "a", "users": ["1", "2"]}, {"name": "b", "users": ["2"]}]},
        "taken by rule a",
    ),
    "one host on two services": (
        {"services": {name: {"stable": {"image": "sample-web:1.0"}, "hosts": ["a.test"]} for name in ("x", "y")}},
        {},
        "already belongs to service x",
    ),
    "name too long for its children": (
        {"services": {"w" * 57: {"stable": {"image": "sample-web:1.0"}}}},
        {},
        "shorten it",
    ),
    "host *": ({"weight": 5}, {"hosts": ["*"]}, "hosts[0]"),
    "skipped rung": (
        {"weight": 50},
        {},
        "web: weight 0 -> 50 skips a rung of canary:steps; set canary:weight to 5 first",
    ),
    "hold": ({"weight": 5, "hold": "incident 42"}, {}, "web: weight 0 -> 5 is stopped by canary:hold ('incident 42')"),
    "window": (
        {"weight": 5, "windows": {"raise": CLOSED}},
        {},
        f"web: weight 0 -> 5 comes outside canary:windows.raise ({CLOSED}); allowed from ",
    ),
    "freeze": (
        {"weight": 5, "windows": {"freezes": [FREEZE]}},
        {},
        f"web: weight 0 -> 5 falls in the freeze {FREEZE['from']} to {FREEZE['to']} of canary:windows.freezes (year",
    ),
    "window that is none": ({"weight": 5, "windows": {"raise": "office hours"}}, {}, "canary:windows.raise: got"),
    "freeze that ends before it begins": (
        {"weight": 5, "windows": {"freezes": [{**FREEZE, "to": "2020-01-01"}]}},
        {},
        "canary:windows.freezes[0].to: got '2020-01-01'",
    ),
    "rejected image": (
        {"weight": 5, "rejected": ["sample-web:2.0"]},
        {},
        "web: weight 0 -> 5 brings back sample-web:2.0, which was rolled back",
    ),
    "too few pods": (
        {"weight": 5},
        {"replicas": 41, "canary": {"image": "sample-web:2.0", "replicas": 2}},
        "needs 3 pods of canary beside 41 of stable, and canary:services.web.canary.replicas is 2; set it to 3",
    ),
    "rule for all while held": (
        {"hold": "incident 42"},
        {"rules": [{"name": "more", "users": ["7"]}]},
        "web: a wider rule at weight 0 is stopped by canary:hold",
    ),
    "stable that nobody has seen": (
        {},
        {"stable": {"image": "sample-web:3.0"}},
        "without having served as canary; ship it as canary first",
    ),
    "override of another change": (
        {"weight": 50, "override": override(0, 25)},
        {},
        "canary:override does not cover it: it is for 0 -> 25, and this is 0 -> 50",
    ),
    "override that has ended": (
        {"weight": 50, "override": override(0, 50) | {"until": "2020-01-01T00:00:00Z"}},
        {},
        "canary:override does not cover it: it ended at 2020-01-01T00:00:00Z",
    ),
    "override for more than a day": (
        {"weight": 50, "override": override(0, 50) | {"until": "2099-01-01"}},
        {},
        "canary:override does not cover it: it may last a day at most",
    ),
}

IN_FLIGHT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "too early": ({"weight": 10}, {}, "web: weight 5 -> 10 comes before the hold of 5 has passed; allowed from "),
    "wider rule too early": (
        {},
        {"rules": [{"name": "more", "users": ["7"]}]},
        "web: a wider rule at weight 5 comes before the hold of 5 has passed; allowed from ",
    ),
    "another canary": ({}, {"canary": {"image": "sample-web:3.0"}}, "web: canary's template changes from "),
    "other ports": ({}, {"targetPort": 3001}, "web: ports changes from 80:3000 to 80:3001 while canary serves 5 %"),
    "another ladder": ({"steps": [5, 100]}, {}, "web: canary:steps changes from 5:3600,10:0 to 5:300,100:300 while"),
    "promotion": (
        {"weight": 0},
        {"stable": {"image": "sample-web:2.0"}, "canary": None},
        "which as canary carries 5 %, and promotion needs 100; raise canary:weight first",
    ),
}
"""From 5 %, in the first seconds of a stay of an hour."""


def readable(refused: Update, says: str) -> None:
    """The refusal is one line of the CLI's answer, and no traceback hides it."""
    assert refused.code != 0
    assert any(says in line for line in refused.text.splitlines()), refused.text
    assert "Traceback" not in refused.text, refused.text
    assert "KeyboardInterrupt" not in refused.text, refused.text


@pytest.mark.parametrize(("keys", "service", "says"), BAD.values(), ids=BAD.keys())
def test_a_preview_refuses(stack: Stack, keys: dict[str, Any], service: dict[str, Any], says: str) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.service(**service)
    stack.edit(**keys)
    readable(stack.preview(), says)


def test_an_update_without_a_preview_refuses_just_the_same_and_writes_nothing(stack: Stack) -> None:
    before = api("GET", ROUTE)["metadata"]["resourceVersion"]
    stack.service(canary={"image": "sample-web:2.0"})
    stack.service("api", stable={"image": "sample-web:1.0"}, canary={"image": 7})
    stack.edit(weight=5)
    readable(stack.up(), "canary:services.api.canary.image")
    assert api("GET", ROUTE)["metadata"]["resourceVersion"] == before
    deployments = api("GET", "/apis/apps/v1/namespaces/shop/deployments")["items"]
    assert sorted(item["metadata"]["name"] for item in deployments) == ["waypoint", "web-stable"]


def contents() -> dict[str, int]:
    """What the namespace declares: generation of each object by its path."""
    kinds = (
        "apps/v1/{}/deployments",
        "networking.istio.io/v1/{}/virtualservices",
        "networking.istio.io/v1/{}/destinationrules",
    )
    lists = [f"/apis/{kind.format('namespaces/shop')}" for kind in kinds]
    return {
        f"{path}/{item['metadata']['name']}": item["metadata"]["generation"]
        for path in lists
        for item in api("GET", path)["items"]
    }


def test_a_rule_that_one_service_of_two_breaks_stops_both_and_writes_nothing(stack: Stack) -> None:
    before = contents()
    stack.service(canary={"image": "sample-web:2.0"})
    stack.service("api", stable={"image": "sample-web:1.0"}, canary={"image": "sample-web:2.0"}, replicas=41)
    stack.service("api", canary={"image": "sample-web:2.0", "replicas": 2})
    stack.edit(weight=5)
    refused = stack.up()
    readable(refused, "api: weight 0 -> 5 needs 3 pods of canary")
    assert "web: weight" not in refused.text, "web itself breaks no rule"
    assert contents() == before


def test_in_flight_a_preview_refuses_what_would_change_what_users_meet(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.edit(weight=5, steps=[{"weight": 5, "hold": "1h"}, {"weight": 10, "hold": "0s"}])
    stack.up().check()
    kept = stack.file.read_text()
    for keys, service, says in IN_FLIGHT.values():
        stack.file.write_text(kept)
        stack.service(**service)
        stack.edit(**keys)
        readable(stack.preview(), says)
    # An exception that is stated lets exactly its change pass, and stays visible.
    stack.file.write_text(kept)
    stack.edit(weight=10, override=override(5, 10))
    stack.up().check()
    told = stack.outputs()
    assert (told["weight"], told["override"]["reason"]) == (10, "drill")


def test_a_promotion_waits_for_the_bake(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.edit(weight=100, steps=[{"weight": 100, "hold": "1h"}])
    stack.up().check()
    stack.service(stable={"image": "sample-web:2.0"}, canary=None)
    stack.edit(weight=0)
    readable(stack.preview(), "before the bake (the hold of 100) is over; allowed from ")


def test_a_rolled_back_image_stays_out_of_a_checkout_that_knows_nothing_of_it(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:6.6"})  # the record keeps it out of all that comes after, too
    stack.edit(weight=5)
    stack.up().check()
    stale = stack.file.read_text()
    stack.edit(weight=0, halted=True, rejected=["sample-web:6.6"])
    stack.up().check()
    stack.file.write_text(stale)
    readable(stack.up(), "web: weight 0 -> 5 brings back sample-web:6.6, which was rolled back")
    assert stack.outputs()["rejected"] == ["sample-web:6.6"]
    stack.service(canary={"image": "sample-web:3.0"})
    stack.up().check()
    assert stack.outputs()["effectiveWeight"] == 5


def test_outside_the_window_for_serving_stable_serves_and_the_share_comes_back_at_once(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    for weight in (5, 10):
        stack.edit(weight=weight)
        stack.up().check()
    stack.edit(windows={"serve": CLOSED})
    assert stack.planned() == {"update": ["web-vs"]}
    stack.up().check()
    told = stack.outputs()
    assert (told["weight"], told["effectiveWeight"]) == (10, 0)
    assert told["windows"] == {"serve": CLOSED, "serving": False}
    stack.edit(windows={"serve": "Mon-Sun 00:00-24:00 UTC"})
    stack.up().check()
    assert stack.outputs()["effectiveWeight"] == 10


def test_what_the_api_server_rejects_shows_in_preview_and_leaves_the_route_serving(stack: Stack) -> None:
    before = api("GET", ROUTE)["spec"]
    # Valid for our own checks, refused by the API server: a quantity that is none.
    stack.service(canary={"image": "sample-web:2.0", "resources": {"requests": {"cpu": "lots"}}})
    stack.edit(weight=5)
    assert stack.preview().code != 0
    assert stack.up().code != 0
    assert api("GET", ROUTE)["spec"] == before
