"""Bad input and forbidden changes stop in a real preview and a real up, in one line, and nothing is touched."""

from __future__ import annotations

import pytest

from lab.stack import Stack, Update, api
from tests.refusals import CLOSED, FROM_REST, HELD, IN_FLIGHT, TODAY, override

pytestmark = pytest.mark.lab

ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"


def readable(refused: Update, says: str) -> None:
    """The refusal is one line of the CLI's answer, and no traceback hides it."""
    assert refused.code != 0
    assert any(says in line for line in refused.text.splitlines()), refused.text
    assert "Traceback" not in refused.text, refused.text
    assert "KeyboardInterrupt" not in refused.text, refused.text


# One for each way in which something is refused; tests/unit/test_refusals.py has them all.
EXAMPLES = [
    "weight 5.5",
    "image missing",
    "skipped rung",
    "hold",
    "window",
    "rejected image",
    "too few pods",
    "rule for all while held",
    "stable that nobody has seen",
    "override of another change",
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_preview_refuses(stack: Stack, name: str) -> None:
    keys, service, says = FROM_REST[name]
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
    stack.edit(weight=5, steps=HELD)
    stack.up().check()
    kept = stack.file.read_text()
    for name in ("too early", "another canary", "promotion"):
        keys, service, says = IN_FLIGHT[name]
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


def test_a_rolled_back_image_stays_out_of_a_checkout_that_knows_nothing_of_it(stack: Stack) -> None:
    bad = f"sample-web:6.{TODAY:%j%H%M%S}"  # its own in each run: the record keeps it out of all that comes after
    stack.service(canary={"image": bad})
    stack.edit(weight=5)
    stack.up().check()
    stale = stack.file.read_text()
    stack.edit(weight=0, halted=True, rejected=[bad])
    stack.up().check()
    stack.file.write_text(stale)
    readable(stack.up(), f"web: weight 0 -> 5 brings back {bad}, which was rolled back")
    assert bad in stack.outputs()["rejected"]
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
