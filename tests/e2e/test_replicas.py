"""Strategy `replicas`: the endpoints behind one Service are the share.

Nothing here routes by weight: who is a ready endpoint of the Service gets requests, each as many as the other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import bench
from lab.paths import LAB
from lab.stack import Stack, api

pytestmark = pytest.mark.lab

PODS = 5
PODS_PATH = "/api/v1/namespaces/plain/pods"


def endpoints() -> Counter[str]:
    """Ready endpoints of the Service by track."""
    slices = api("GET", "/apis/discovery.k8s.io/v1/namespaces/plain/endpointslices")["items"]
    pods = {
        pod["name"]: pod["labels"]["version"] for pod in (one["metadata"] for one in api("GET", PODS_PATH)["items"])
    }
    return Counter(
        pods.get(endpoint["targetRef"]["name"], "gone")
        for one in slices
        for endpoint in one.get("endpoints") or []
        if endpoint["conditions"].get("ready")
    )


def settled(**wanted: int) -> None:
    """The ready endpoints come to be these: a controller writes the slices, a moment after the pods have changed."""
    for _ in range(50):
        if endpoints() == Counter(wanted):
            return
        time.sleep(0.2)
    assert endpoints() == Counter(wanted)


@contextmanager
def watched() -> Iterator[list[int]]:
    """The numbers of ready endpoints seen meanwhile."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(endpoints().total())
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    done.set()
    thread.join()


@pytest.fixture(scope="module")
def plain(lab: None) -> Iterator[Stack]:
    stack = Stack(LAB / "plain.yaml", "plain")
    stack.reset()
    web = {"stable": {"image": "sample-web:1.0"}, "replicas": PODS, "probe": {"path": "/healthz"}, "drain": "2s"}
    stack.edit(
        strategy="replicas",
        namespace="plain",
        services={"web": web},
        steps=[{"weight": weight, "hold": "0s"} for weight in (20, 100)],
        readyTimeout="120s",
    )
    bench.ensure(stack)
    stack.up().check()
    yield stack
    stack.destroy().check()


def test_a_rung_may_not_be_skipped_here_either_and_nothing_is_written(plain: Stack) -> None:
    settled(stable=PODS)
    plain.service(canary={"image": "sample-web:2.0"})
    plain.edit(weight=100)
    refused = plain.up()
    assert refused.code != 0
    assert "web: weight 0 -> 100 skips a rung of canary:steps; set canary:weight to 20 first" in refused.text
    assert endpoints() == {"stable": PODS}


def test_pods_follow_the_weight_and_there_are_never_fewer_than_were_asked_for(plain: Stack) -> None:
    plain.service(canary={"image": "sample-web:2.0"})
    for weight, canary in ((20, 1), (100, PODS)):
        plain.edit(weight=weight)
        with watched() as seen:
            plain.up().check()
        settled(stable=PODS - canary, canary=canary)
        assert min(seen) >= PODS, f"fewer pods than asked for on the way to {weight}"
        assert plain.outputs()["services"]["web"]["replicas"]["share"] == weight
        assert plain.planned() == {}
    plain.edit(weight=0)
    with watched() as seen:
        plain.up().check()
    settled(stable=PODS)
    assert min(seen) >= PODS, "stable had no pods: canary's had to stay until they were there"
