"""Bad input and forbidden changes stop in a real preview and a real up, in one line, and nothing is touched."""

from __future__ import annotations

from typing import Any

import pytest

from lab.stack import Stack, Update, api

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"

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
    "skipped rung": ({"weight": 50}, {}, "set canary:weight to 5 first"),
}


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


def test_what_the_api_server_rejects_shows_in_preview_and_leaves_the_route_serving(stack: Stack) -> None:
    before = api("GET", ROUTE)["spec"]
    # Valid for our own checks, refused by the API server: a quantity that is none.
    stack.service(canary={"image": "sample-web:2.0", "resources": {"requests": {"cpu": "lots"}}})
    stack.edit(weight=5)
    assert stack.preview().code != 0
    assert stack.up().code != 0
    assert api("GET", ROUTE)["spec"] == before
