"""The commands of docs/adopt.md, run in order against a live service that other hands wrote."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import bench, load, namespace
from lab.paths import LAB, ROOT
from lab.stack import Stack, api
from tests.e2e.conftest import Rested

pytestmark = pytest.mark.lab

PAGE = (ROOT / "docs" / "adopt.md").read_text()
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
NETWORKING = "/apis/networking.istio.io/v1/namespaces/shop"
HOST = "web.shop.svc.cluster.local"
POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {
        "containers": [
            {
                "name": "web",
                "image": "sample-web:1.0",
                "ports": [{"containerPort": 3000}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 3000}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
            }
        ]
    },
}
WAYPOINT = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
PUBLIC = {
    "selector": {"istio": "ingressgateway"},
    "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["shop/shop.lab.test"]}],
}
LIVE: list[tuple[str, str, dict[str, Any]]] = [
    (
        "Namespace",
        "/api/v1/namespaces",
        {
            "metadata": {
                "name": "shop",
                "labels": {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"},
            }
        },
    ),
    (
        "Gateway",
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways",
        {"metadata": {"name": "waypoint", "labels": {"istio.io/waypoint-for": "service"}}, "spec": WAYPOINT},
    ),
    (
        "Gateway",
        "/apis/networking.istio.io/v1/namespaces/istio-ingress/gateways",
        {"metadata": {"name": "public"}, "spec": PUBLIC},
    ),
    (
        "Deployment",
        DEPLOYMENTS,
        {
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": POD},
        },
    ),
    (
        "Service",
        "/api/v1/namespaces/shop/services",
        {
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 3000}]},
        },
    ),
    (
        "VirtualService",
        f"{NETWORKING}/virtualservices",
        {
            "metadata": {"name": "web"},
            "spec": {
                "hosts": ["shop.lab.test", HOST],
                "gateways": ["istio-ingress/public", "mesh"],
                "http": [{"route": [{"destination": {"host": HOST, "port": {"number": 80}}}]}],
            },
        },
    ),
]


def commands() -> list[str]:
    """What the page tells to type."""
    return [line.strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.strip().splitlines()]


def names() -> set[str]:
    return {
        one["metadata"]["name"] for one in api("GET", DEPLOYMENTS)["items"] if one["metadata"]["name"] != "waypoint"
    }


def ready(name: str) -> None:
    for _ in range(150):
        if api("GET", f"{DEPLOYMENTS}/{name}").get("status", {}).get("readyReplicas") == 2:
            return
        time.sleep(0.2)
    raise AssertionError(f"Deployment {name} did not get ready")


@pytest.fixture
def adopter(deployed: Rested) -> Iterator[Stack]:
    """A stack for the service, beside a mesh, a gateway and a live service that it knows nothing of."""
    deployed.alone()
    for kind, path, body in LIVE:
        group = path.removeprefix("/apis/").partition("/namespaces")[0] if path.startswith("/apis") else "v1"
        api("POST", path, {"apiVersion": group, "kind": kind, **body})
    ready("web")
    stack = Stack(LAB / "adopt.yaml", "adopt")
    stack.reset()
    described = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    stack.edit(**{key.removeprefix("canary:"): value for key, value in described.items()})
    bench.ensure(stack)
    yield stack
    stack.destroy().check()


def type_in(line: str, stack: Stack) -> None:
    """Runs a line of the page.  There is no kubectl here: its one command goes to the API server as it would."""
    words = shlex.split(line)
    if words[0] == "kubectl":
        assert words == ["kubectl", "delete", "deployment", "web", "-n", "shop"]
        api("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": "Background"})
        return
    stack.run(words[1], *words[2:], "--config-file", str(stack.file)).check()


def test_the_page_takes_over_a_live_service_without_losing_a_request(adopter: Stack) -> None:
    url = namespace.running().environment["GATEWAY_URL"]
    lines = commands()
    assert any("upsertExistingObjects true" in line for line in lines)
    with load.Steady(url, 200) as steady:
        for line in lines:
            if line.startswith("kubectl"):
                assert names() == {"web", "web-stable"}
                time.sleep(1)
                assert {one.version for one in latest(steady)} == {"stable"}, "the old pods serve still"
            type_in(line, adopter)
        time.sleep(3)
        answers = steady.answers()
    assert names() == {"web-stable"}
    assert {answer.version for answer in answers} == {"unknown", "stable"}, "both the old pods and ours have served"
    assert [answer.why for answer in answers if answer.status != 200] == []
    assert adopter.planned() == {}, "a second update has nothing to do"


def latest(steady: load.Steady) -> list[load.Answer]:
    return sorted(steady.answers(), key=lambda answer: answer.at)[-100:]
