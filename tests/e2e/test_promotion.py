"""Every planned change of a running service, each one `pulumi up`, under 200 requests a second: nothing is lost.

`pytest tests/e2e/test_promotion.py --repeat 3` runs all of them three times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from lab import load, namespace
from lab.load import Counts
from lab.stack import Stack, Update, api

pytestmark = pytest.mark.lab

RATE = 200
PINNED_RATE = 20
"""Requests a second that the edge has stamped blue for their address: stable's, whatever happens."""

PINNED = {"x-deployment": "blue", "x-deployment-reason": "cidr"}
ROUTE = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/web"
QUOTAS = "/api/v1/namespaces/shop/resourcequotas"
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments"


@dataclass(frozen=True)
class Outcome:
    """How one update went, and who served meanwhile."""

    update: Update
    free: Counts
    pinned: Counts
    lost: dict[str, int]


def under_load(stack: Stack) -> Outcome:
    """One `pulumi up` while both kinds of requests come in."""
    url = namespace.running().environment["GATEWAY_URL"]
    with load.Steady(url, RATE) as free, load.Steady(url, PINNED_RATE, headers=PINNED) as pinned:
        update = stack.up()
    return Outcome(update, free.counts(), pinned.counts(), {**free.lost(), **pinned.lost()})


def image(track: str) -> str | None:
    """What the track's Deployment runs; None when there is none."""
    items = api("GET", DEPLOYMENT)["items"]
    found = {item["metadata"]["name"]: item["spec"]["template"]["spec"]["containers"][0] for item in items}
    return str(found[f"web-{track}"]["image"]) if f"web-{track}" in found else None


def shares() -> list[int]:
    """(stable, canary) as the live VirtualService has them."""
    return [leg["weight"] for leg in api("GET", ROUTE)["spec"]["http"][-1]["route"]]


def to(stack: Stack, *weights: int) -> None:
    """One update for each weight."""
    for weight in weights:
        stack.edit(weight=weight)
        stack.up().check()


def promote(stack: Stack) -> None:
    """The edit of a promotion."""
    stack.service(stable={"image": "sample-web:2.0"}, canary=None)
    stack.edit(weight=0)


def add(stack: Stack) -> Outcome:
    stack.service(canary={"image": "sample-web:2.0"})
    stack.edit(weight=25)
    found = under_load(stack)
    assert (image("canary"), shares()) == ("sample-web:2.0", [75, 25])
    return found


def revert(stack: Stack) -> Outcome:
    stack.edit(weight=0)
    found = under_load(stack)
    assert (image("canary"), shares()) == ("sample-web:2.0", [100, 0])
    assert found.free.canary, "canary served until the route moved"
    return found


def replace_at_zero(stack: Stack) -> Outcome:
    stack.service(canary={"image": "sample-web:3.0"})
    found = under_load(stack)
    assert (image("canary"), shares()) == ("sample-web:3.0", [100, 0])
    assert found.free.canary == 0
    return found


def remove(stack: Stack) -> Outcome:
    to(stack, 25)
    stack.service(canary=None)
    stack.edit(weight=0)
    found = under_load(stack)
    assert (image("canary"), shares()) == (None, [100, 0])
    assert found.free.canary, "canary served until the route moved"
    return found


def promotion(stack: Stack) -> Outcome:
    stack.service(canary={"image": "sample-web:2.0"})
    to(stack, 25, 100)
    promote(stack)
    found = under_load(stack)
    assert (image("stable"), image("canary"), shares()) == ("sample-web:2.0", None, [100, 0])
    assert found.free.canary, "canary served until the route moved"
    assert found.free.stable, "and stable afterwards"
    return found


def way_back(stack: Stack) -> Outcome:
    stack.service(stable={"image": "sample-web:1.0"})
    found = under_load(stack)
    assert (image("stable"), shares()) == ("sample-web:1.0", [100, 0])
    return found


LIFE = (add, revert, replace_at_zero, remove, promotion, way_back)
"""Each begins where the one before has ended."""


def test_each_planned_change_is_one_update_and_loses_no_request(
    stack: Stack, attempt: int, record_property: Callable[[str, object], None]
) -> None:
    stack.edit(steps=[{"weight": weight, "hold": "0s"} for weight in (25, 100)])
    for change in LIFE:
        name, found = change.__name__, change(stack)
        record_property(name, found)
        print(f"{name}, attempt {attempt}: free {found.free}, pinned {found.pinned}, {found.update.seconds:.1f} s")
        assert found.update.code == 0, (name, found.update.text)
        assert (found.free.lost, found.pinned.lost) == (0, 0), (name, found.lost)
        # Nobody who is pinned to stable may meet canary.
        assert (found.free.refused, found.pinned.refused, found.pinned.canary) == (0, 0, 0), name
        assert found.free.served > RATE / 2, f"{name}: the load was there"
        assert found.pinned.served > PINNED_RATE / 2, name
        assert stack.planned() == {}, f"{name}: one update was all of it"


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """The namespace gets no further pod: a new stable cannot get ready, and canary, which runs, does not notice."""
    full = {"hard": {"pods": "0"}}
    api("POST", QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": full})
    try:
        api("PATCH", f"{QUOTAS}/full/status", {"status": {**full, "used": {"pods": "0"}}})  # no controller counts here
        pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "probe", "image": "pause"}]}}
        for _ in range(100):
            try:
                api("POST", "/api/v1/namespaces/shop/pods?dryRun=All", {"apiVersion": "v1", "kind": "Pod", **pod})
            except RuntimeError as error:
                assert "exceeded quota" in str(error)
                break
        else:
            raise AssertionError("the quota did not come into force")
        yield
    finally:
        api("DELETE", f"{QUOTAS}/full")


def retry(stack: Stack) -> None:
    """The same edit again."""


def go_back(stack: Stack) -> None:
    """The plain revert: the file as it was, but for the weight."""
    stack.service(stable={"image": "sample-web:1.0"}, canary={"image": "sample-web:2.0", "replicas": 3})


@pytest.mark.parametrize(
    ("then", "stable", "canary", "pods"),
    # The promoted stable has as many pods as canary had, though the settings declare two.
    [(retry, "sample-web:2.0", None, 3), (go_back, "sample-web:1.0", "sample-web:2.0", 2)],
    ids=["then run again", "then reverted"],
)
def test_a_promotion_whose_stable_does_not_get_ready_leaves_traffic_where_it_is(
    stack: Stack, then: Callable[[Stack], None], stable: str, canary: str | None, pods: int
) -> None:
    stack.service(canary={"image": "sample-web:2.0", "replicas": 3})
    stack.edit(steps=[{"weight": 100, "hold": "0s"}])
    to(stack, 100)
    promote(stack)
    stack.edit(readyTimeout="5s")
    with no_room():
        failed = under_load(stack)
    assert failed.update.code != 0
    assert "'web-stable' timed out waiting to be Ready" in failed.update.text
    assert "exceeded quota" in failed.update.text, "the cluster's own reason"
    assert (failed.free.stable, failed.pinned.canary) == (0, 0), "nobody moved"
    assert (failed.free.lost, failed.pinned.lost) == (0, 0), failed.lost
    assert (image("canary"), shares()) == ("sample-web:2.0", [0, 100])
    assert stack.outputs()["phase"] == "baking", "outputs tell of the route"
    stack.edit(readyTimeout="60s")
    then(stack)
    found = under_load(stack)
    assert found.update.code == 0, found.update.text
    assert (found.free.lost, found.pinned.lost) == (0, 0), found.lost
    assert (image("stable"), image("canary"), shares()) == (stable, canary, [100, 0])
    assert api("GET", f"{DEPLOYMENT}/web-stable")["spec"]["replicas"] == pods
