"""Nothing stands between an operator and weight 0; hand edits lose; a broken canary does not get users."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from lab.paths import LAB
from lab.stack import Stack, api

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
RULE = "/apis/networking.istio.io/v1/namespaces/shop/destinationrules/web"
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments"
CRASH = LAB / "crash"
"""While this file exists, canary crashes."""


def shares() -> list[int]:
    """(stable, canary) as the live VirtualService has them."""
    return [leg["weight"] for leg in api("GET", ROUTE)["spec"]["http"][-1]["route"]]


def route_names() -> list[str]:
    return [route["name"] for route in api("GET", ROUTE)["spec"]["http"]]


@pytest.fixture
def crashing(stack: Stack) -> Stack:
    """Canary at 5 %, crash-looping; the cluster has seen it."""
    stack.service(canary={"image": "sample-web:2.0", "env": {"CRASH_IF_FILE": str(CRASH)}})
    stack.edit(weight=5, readyTimeout="12s")
    stack.up().check()
    assert shares() == [95, 5]
    CRASH.touch()
    for _ in range(100):
        if not api("GET", f"{DEPLOYMENT}/web-canary")["status"].get("availableReplicas"):
            return stack
        time.sleep(0.2)
    raise AssertionError("canary did not crash")


def route_written() -> bool:
    """True as soon as the live route gives canary nothing."""
    return shares() == [100, 0]


@pytest.fixture(autouse=True)
def healthy() -> Iterator[None]:
    """No test inherits another's crash."""
    CRASH.unlink(missing_ok=True)
    yield
    CRASH.unlink(missing_ok=True)


def test_with_a_crash_looping_canary_and_after_a_refresh_the_route_is_written_before_anything_is_waited_for(
    crashing: Stack,
) -> None:
    """`make bench` prints the seconds."""
    stack = crashing
    stack.refresh()
    stack.edit(weight=0)
    update = threading.Thread(target=stack.up)
    update.start()
    try:
        while not route_written():
            assert update.is_alive(), "the update ended, and the route still leads to canary"
        assert update.is_alive(), "the route came first: the update goes on waiting for canary"
    finally:
        update.join()
    told = stack.outputs()
    assert (told["weight"], told["phase"]) == (0, "qa"), (
        "outputs tell of the route, though the update waited for canary"
    )


def test_a_canary_that_is_not_ready_stops_the_next_rise(crashing: Stack) -> None:
    crashing.edit(weight=10)
    refused = crashing.up()
    assert refused.code != 0
    assert "needs a ready canary" in refused.text
    assert shares() == [95, 5]


def test_a_canary_that_never_gets_ready_gets_no_user_and_the_update_says_why(stack: Stack) -> None:
    stack.service(canary={"image": "sample-web:2.0-unready"})
    stack.edit(weight=5, readyTimeout="5s")
    failed = stack.up()
    assert failed.code != 0
    assert "web-canary" in failed.text
    assert shares() == [100, 0]


def test_a_halt_overrules_rules_and_stamps(at_five: Stack) -> None:
    stack = at_five
    assert shares() == [95, 5]
    assert "rule-qa" in route_names()
    stack.edit(halted=True)
    stack.up().check()
    assert route_names() == ["default"]
    assert shares() == [100, 0]
    assert stack.outputs()["phase"] == "halted"


def edit_route(canary: int) -> None:
    spec = api("GET", ROUTE)["spec"]
    for leg, weight in zip(spec["http"][-1]["route"], (100 - canary, canary), strict=True):
        leg["weight"] = weight
    api("PATCH", ROUTE, {"spec": spec})


def test_a_route_edited_by_hand_is_seen_in_preview_and_taken_back_although_nothing_else_changed(
    stack: Stack,
) -> None:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.up().check()
    edit_route(50)
    assert stack.planned() == {"update": ["web-vs"]}
    assert shares() == [50, 50], "a preview writes nothing"
    stack.up().check()
    assert shares() == [100, 0]
    assert stack.planned() == {}


def test_an_edited_route_does_not_stop_a_step(at_five: Stack) -> None:
    stack = at_five
    assert shares() == [95, 5]
    edit_route(90)
    stack.edit(weight=10)
    assert stack.preview().code == 0
    stack.up().check()
    assert shares() == [90, 10]


def test_subsets_edited_by_hand_are_taken_back(stack: Stack) -> None:
    api("PATCH", RULE, {"spec": {"subsets": [{"name": "stable", "labels": {"version": "stable"}}]}})
    assert stack.planned() == {"update": ["web-dr"]}
    stack.up().check()
    assert [subset["name"] for subset in api("GET", RULE)["spec"]["subsets"]] == ["stable", "canary"]


@pytest.mark.parametrize(("path", "name"), [(ROUTE, "web-vs"), (RULE, "web-dr")], ids=["route", "subsets"])
def test_what_somebody_deleted_is_made_again_and_stops_no_revert(at_five: Stack, path: str, name: str) -> None:
    stack = at_five
    assert shares() == [95, 5]
    api("DELETE", path)
    assert stack.planned() == {"replace": [name]}
    stack.up().check()
    assert shares() == [95, 5], "the record was not lost with the route"
    assert stack.planned() == {}
    api("DELETE", path)
    stack.edit(weight=0)
    stack.up().check()
    assert shares() == [100, 0]
    assert api("GET", path)["metadata"]["annotations"]["canary/restored"] == "2"


def test_a_revert_goes_through_alone_while_a_release_of_the_mesh_is_stuck(at_five: Stack) -> None:
    stack = at_five
    assert shares() == [95, 5]
    daemon = "/apis/apps/v1/namespaces/istio-system/daemonsets/istio-cni-node"
    stack.edit(weight=0, istio={"version": "1.30.3", "chartSource": ".lab/missing", "timeout": "5s"})
    assert stack.up().code != 0, "the mesh cannot be updated from a chart that is not there"
    assert shares() == [95, 5]
    readme = (stack.project / "README.md").read_text()
    one_liner = re.search(r"^pulumi up (--skip-preview --yes --target '(.*)')$", readme, re.MULTILINE)
    assert one_liner, "the README tells the way"
    stack.up("--target", one_liner[2]).check()
    assert shares() == [100, 0]
    assert api("GET", daemon)["metadata"]["name"] == "istio-cni-node"
