"""Strategy `flagger` with the real Flagger: it takes services over, promotes a good version, rolls back a bad one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import flagger_charts, load, monitoring
from lab.paths import LAB
from lab.stack import Stack, api, inside
from tests.e2e.conftest import Rested
from tests.e2e.waiting import until

pytestmark = pytest.mark.lab

PATIENCE = 240
"""Seconds after which Flagger is taken for stuck."""

WEB, PAY = "http://shop.lab.test", "http://pay.shop.svc.cluster.local"
ANALYSIS = {"interval": "10s", "threshold": 2, "stepWeights": [20, 50]}


@pytest.fixture(scope="module")
def flagged(deployed: Rested) -> Iterator[Stack]:
    """The lab's stack under strategy flagger: `web` at the gateway, `pay` inside the mesh; both initialised."""
    charts = flagger_charts.provide()
    deployed.alone()
    common = {"port": 80, "targetPort": 3000, "replicas": 2, "drain": "2s"}
    common |= {"probe": {"path": "/healthz", "periodSeconds": 1}, "stable": {"image": "sample-web:1.0"}}
    hey = "hey -z 10s -q 10 -c 2 http://web-canary.shop/"
    deployed.edit(
        strategy="flagger",
        weight=None,
        steps=None,
        gate={"prometheus": monitoring.PROMETHEUS_URL},
        flagger={"chartSource": str(charts), "timeout": "60s"},
        services={
            "web": common | {"hosts": ["shop.lab.test"], "flagger": ANALYSIS | {"loadTest": hey}},
            "pay": common | {"flagger": ANALYSIS},
        },
    )
    deployed.up().check()
    wait({"web": "Initialized", "pay": "Initialized"})
    # Flagger has written the routes; the proxies have them a moment later.
    for url in (WEB, PAY):
        until(lambda url=url: not bad(load.each(url, [{}])), f"a route for {url}")  # type: ignore[misc]
    yield deployed
    deployed.alone()


def wait(wanted: dict[str, str]) -> dict[str, list[tuple[float, int]]]:
    """Follows the Canaries until all are in these phases; for each the weights of its route and when they were seen."""
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in wanted}
    deadline = time.monotonic() + PATIENCE
    while True:
        items = {one["metadata"]["name"]: one for one in api("GET", f"{GROUP}/canaries")["items"]}
        phases = {name: items[name].get("status", {}).get("phase") for name in wanted}
        for name, history in seen.items():
            weight = canary_weight(name)
            if weight is not None and (not history or history[-1][1] != weight):
                history.append((time.time(), weight))
        if phases == wanted:
            return seen
        assert time.monotonic() < deadline, f"wanted {wanted}, found {phases}, weights {seen}: {log()[-3000:]}"
        time.sleep(0.5)


GROUP = "/apis/flagger.app/v1beta1/namespaces/shop"


def canary_weight(name: str) -> int | None:
    """What Flagger wrote into its route; None before there is one."""
    routes = api("GET", "/apis/networking.istio.io/v1/namespaces/shop/virtualservices")["items"]
    for route in routes:
        if route["metadata"]["name"] == name:
            legs = {leg["destination"]["host"]: leg.get("weight", 0) for leg in route["spec"]["http"][0]["route"]}
            assert set(legs) == {f"{name}-primary", f"{name}-canary"}
            return int(legs[f"{name}-canary"])
    return None


def image(deployment: str) -> str:
    found = api("GET", f"/apis/apps/v1/namespaces/shop/deployments/{deployment}")
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def log() -> str:
    """What Flagger said."""
    return "".join(path.read_text() for path in sorted((LAB / "logs" / "pods").glob("flagger-system.flagger-*.log")))


def measured(query: str) -> float:
    """One number from the lab's Prometheus; 0 where there is no series."""
    url = f"{monitoring.PROMETHEUS_URL}/api/v1/query"
    argv, environment = inside(
        [sys.executable, "-c", f"import httpx; print(httpx.get({url!r}, params={{'query': {query!r}}}).text)"]
    )
    answer = subprocess.run(argv, env=environment, text=True, capture_output=True, check=True).stdout
    result: list[Any] = json.loads(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def bad(answers: list[load.Answer]) -> list[load.Answer]:
    return [one for one in answers if not 200 <= one.status < 300]


def test_flagger_promotes_a_good_version_and_rolls_back_a_bad_one_on_what_ambient_reports(flagged: Stack) -> None:
    flagged.service("web", stable={"image": "sample-web:2.0"})
    flagged.service("pay", stable={"image": "sample-web:3.0-fail50"})
    with load.Steady(WEB, 50) as web, load.Steady(PAY, 50) as pay:
        flagged.up().check()
        seen = wait({"web": "Succeeded", "pay": "Failed"})
    assert [weight for _, weight in seen["web"]] == [0, 20, 50, 0]
    assert (image("web-primary"), image("web")) == ("sample-web:2.0", "sample-web:2.0")
    assert not bad(web.answers()), "a good version loses nothing, its promotion included"
    assert seen["pay"][-1][1] == 0
    assert max(weight for _, weight in seen["pay"]) == 20, "the bad version never got beyond the first step"
    assert image("pay-primary") == "sample-web:1.0"
    assert "Halt pay.shop advancement ambient-request-success-rate" in log(), "judged by our query"
    hey = 'sum(istio_requests_total{reporter="waypoint",destination_service_name="web-canary"})'
    assert measured(hey) > 0, "the load test went through the waypoint"
    lost = bad(pay.answers())
    assert lost
    took = seen["pay"][-1][0] - lost[0].at
    print(f"\nbad version: {len(lost)} of {len(pay.answers())} requests lost; {took:.1f} s from the first to weight 0")
    with load.Steady(PAY, 50) as after:
        time.sleep(2)
    assert not bad(after.answers()), "rolled back means nobody meets it any more"
    assert flagged.planned() == {}, "what Flagger did is no drift that the next update would undo"
