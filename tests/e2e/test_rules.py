"""Rules, trains and proof of the split, with the real engine and real requests at both doors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Literal

import pytest
import yaml

from core import checks, split
from core.evaluate import Request, decide
from core.model import Settings
from lab import load, namespace
from lab.paths import LAB, ROOT
from lab.stack import Stack, api, inside
from tests import generate
from tests.e2e.conftest import Rested
from tests.e2e.waiting import until

pytestmark = pytest.mark.lab

Json = dict[str, Any]
Door = Literal["gateway", "mesh"]
ISTIO = "/apis/networking.istio.io/v1/namespaces"
SPACE, SERVICE = "/api/v1/namespaces/shop", "/api/v1/namespaces/shop/services/web"
CALL = "demo.Echo/Say"
CANARY = {"image": "sample-web:2.0"}

ASK = """
import http.client, json, sys
found = []
for host, method, path, headers in json.load(sys.stdin):
    door = http.client.HTTPConnection(host)
    door.request(method, path, headers={name: value.encode() for name, value in headers.items()})
    answer = door.getresponse()
    answer.read()
    found.append([answer.getheader("x-served-version"), answer.getheader("x-canary-route")])
print(json.dumps(found))
"""


def doors() -> dict[Door, str]:
    environment = namespace.running().environment
    return {"gateway": environment["GATEWAY_URL"], "mesh": environment["MESH_URL"]}


def ask(requests: list[Request]) -> list[tuple[str, str | None]]:
    """(track that served, route and track as the response names them) of each."""
    lines = []
    for request in requests:
        query = "&".join(f"{name}={value}" for name, value in request.query.items())
        path = f"{request.uri}?{query}" if query else request.uri
        host = doors()[request.door].removeprefix("http://")
        lines.append([host, request.method, path, request.sent()])
    argv, environment = inside([sys.executable, "-c", ASK])
    done = subprocess.run(argv, env=environment, input=json.dumps(lines), text=True, capture_output=True, check=True)
    return [(track, route) for track, route in json.loads(done.stdout)]


def settings(stack: Stack) -> Settings:
    """What the stack file says."""
    config = yaml.safe_load(stack.file.read_text())["config"]
    return checks.parse({key.removeprefix("canary:"): config[key] for key in config if key.startswith("canary:")})[0]


def routes() -> dict[str, Json]:
    """The live VirtualServices of the namespace, as written."""
    return {item["metadata"]["name"]: item["spec"] for item in api("GET", f"{ISTIO}/shop/virtualservices")["items"]}


RULES: list[Json] = [
    {"name": "staff", "headers": {"x-group": "staff"}, "to": "stable"},
    {"name": "exact", "headers": {"X-Canary": "true"}},
    {"name": "prefix", "headers": {"x-client": {"prefix": "ios-"}}},
    {"name": "regex", "headers": {"x-build": {"regex": "(beta|internal)-.*"}}},
    {"name": "cookie", "cookies": {"arm": "canary"}},
    {"name": "query", "query": {"preview": "1"}},
    {"name": "uri", "query": {"v": {"present": True}}, "uri": {"prefix": "/api"}, "method": "POST"},
    {"name": "docs", "uri": {"exact": "/docs"}, "to": "stable"},
    {"name": "users", "users": ["1", "a.b", *(f"customer-{number}@example.com" for number in range(200))]},
]
PROBES: list[tuple[str, dict[str, Any]]] = [
    ("rule-staff/stable", {"headers": {"x-group": "staff", "x-canary": "true"}}),
    ("rule-exact/canary", {"headers": {"x-canary": "true"}}),
    ("rule-prefix/canary", {"headers": {"x-client": "ios-17"}}),
    ("rule-regex/canary", {"headers": {"x-build": "beta-7"}}),
    ("rule-cookie/canary", {"cookies": {"a": "b", "arm": "canary"}}),
    ("rule-query/canary", {"query": {"preview": "1"}}),
    ("rule-uri/canary", {"uri": "/api/x", "method": "POST", "query": {"v": "2"}}),
    ("rule-docs/stable", {"uri": "/docs"}),
    ("rule-users/canary", {"headers": {"user-id": "a.b"}}),
    ("rule-users/canary", {"headers": {"user-id": "customer-199@example.com"}}),
    ("edge-green/canary", {"headers": {"x-deployment": "green"}}),
    ("edge-stamped/stable", {"headers": {"x-deployment": "blue"}}),
    ("edge-blue-cidr/stable", {"headers": {"x-deployment": "blue", "x-deployment-reason": "cidr", "x-canary": "true"}}),
]


def test_every_kind_of_rule_holds_at_both_doors_and_the_response_names_it(stack: Stack) -> None:
    stack.service(canary=CANARY, rules=RULES)
    stack.edit(weight=5)
    stack.up().check()
    wanted = settings(stack)
    rng = Random("rules")
    for door in doors():
        described = [Request(door=door, **what) for _, what in PROBES]
        assert [route for _, route in ask(described)] == [route for route, _ in PROBES], door
        some = [generate.request(rng, wanted, "web") for _ in range(100)]
        some = [Request(**{**vars(one), "door": door, "host": None}) for one in some]
        layers = set()
        for request, (track, route) in zip(some, ask(some), strict=True):
            decision = decide("web", wanted, request)
            assert track in decision.shares, (request, decision)
            assert route == f"{decision.route}/{track}", (request, decision)
            layers.add(decision.layer)
        assert layers >= {"rule", "stamp", "weight"}
    until(lambda: set(RULE_NAMES) <= logged(), "the access log has the rules' routes, each with its track")


RULE_NAMES = [(route.partition("/")[0], route.partition("/")[2]) for route, _ in PROBES]


def logged() -> set[tuple[str, str]]:
    """(route, track) in the access logs of the lab's own proxies."""
    lines = [line for path in (LAB / "access").glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    clusters = [(one["route_name"], (one["upstream_cluster"] or "|||").split("|")) for one in entries]
    return {(route, parts[2].rpartition("/")[2]) for route, parts in clusters}


def test_without_the_header_no_response_names_its_route_and_one_resource_changes(at_five: Stack) -> None:
    stack = at_five
    assert ask([Request(headers={"x-canary": "true"})]) == [("canary", "rule-qa/canary")]
    stack.edit(routeHeader=False)
    assert stack.planned() == {"update": ["web-vs"]}
    stack.up().check()
    assert ask([Request(headers={"x-canary": "true"})]) == [("canary", None)]


def test_a_grpc_service_is_split_and_ruled_by_metadata_method_and_path(stack: Stack) -> None:
    stack.service(
        "calls",
        stable={"image": "sample-grpc:1.0"},
        canary={"image": "sample-grpc:2.0"},
        protocol="grpc",
        hosts=["calls.lab.test"],
        replicas=1,
        drain="1s",
        rules=[
            {"name": "qa", "headers": {"x-canary": "true"}},
            {"name": "says", "users": ["1"], "uri": {"exact": f"/{CALL}"}, "method": "POST"},
            {"name": "other", "users": ["1"], "uri": {"exact": "/demo.Echo/Other"}, "to": "stable"},
        ],
    )
    stack.edit(weight=5)
    stack.up().check()
    for host in ("calls.lab.test", "calls.shop.svc.cluster.local"):
        url = f"grpc://{host}/{CALL}"
        until(lambda url=url: load.run(url, 20).served == 20, url)  # type: ignore[misc]
        found = load.run(url, 1000)
        assert found.lost == found.refused == 0, (host, found)
        assert split.accepts(found.canary, found.served, 0.05, 0.0001), (host, found)
        assert load.run(url, 50, {"x-canary": "true"}) == load.Counts(canary=50)
        assert load.run(url, 50, {"user-id": "1"}) == load.Counts(canary=50)
        assert load.run(url.replace("Say", "Other"), 50, {"user-id": "1"}) == load.Counts(stable=50)


def test_if_one_service_of_a_train_cannot_get_ready_no_route_of_it_changes(stack: Stack) -> None:
    stack.service("api", stable={"image": "sample-web:1.0"}, replicas=1, probe={"path": "/healthz"}, drain="1s")
    stack.up().check()
    before = routes()
    assert before.keys() == {"web", "api"}
    stack.service(canary=CANARY)
    stack.service("api", canary={"image": "sample-web:2.0-unready"})
    stack.edit(weight=5, readyTimeout="5s")
    failed = stack.up()
    assert failed.code != 0
    assert "api-canary" in failed.text
    assert routes() == before
    assert api("GET", "/apis/apps/v1/namespaces/shop/deployments/web-canary")["status"].get("availableReplicas"), (
        "it was not for want of this one"
    )
    stack.service("api", canary=CANARY)
    stack.up().check()
    assert [spec["http"][-1]["route"][1]["weight"] for spec in routes().values()] == [5, 5], "then both move together"


@contextmanager
def unlabelled() -> Iterator[None]:
    """The namespace without its use-waypoint label, as a hand would leave it."""
    label = "istio.io/use-waypoint"
    try:
        api("PATCH", SPACE, {"metadata": {"labels": {label: None}}})
        until(lambda: unbound() is not None, "the condition tells")
        yield
    finally:
        api("PATCH", SPACE, {"metadata": {"labels": {label: "waypoint"}}})


def unbound() -> str | None:
    return split.unbound(api("GET", SERVICE), api("GET", SPACE))


def judged(door: Door, weight: int) -> str:
    """The split at a door, by a probe of real requests."""
    found = load.run(doors()[door], 1000)
    assert found.lost == found.refused == 0
    return split.judge(found.stable, found.canary, weight, unrouted=1 / 3).state


def test_a_service_that_a_hand_took_from_its_waypoint_is_caught_by_condition_and_by_share(stack: Stack) -> None:
    stack.service(canary={**CANARY, "replicas": 1}, replicas=2)
    stack.edit(weight=5)
    stack.up().check()
    assert unbound() is None
    assert [judged(door, 5) for door in doors()] == ["in force", "in force"]
    with unlabelled():
        until(lambda: judged("mesh", 5) == "not in force", "callers inside meet every pod alike, and none is lost")
        assert judged("gateway", 5) == "in force", "callers from outside never needed the waypoint"
        told = stack.preview()
        assert told.code == 0, told.text
        assert "web: Service web is not bound to its waypoint" in told.text
        stack.edit(weight=10)
        refused = stack.up()
        assert refused.code != 0
        assert "weight 5 -> 10 would not be in force: Service web is not bound to its waypoint" in refused.text
        stack.edit(weight=5)
        stack.refresh().check()
        stack.up().check()
        until(lambda: unbound() is None, "the cure that the refusal names")
        until(lambda: judged("mesh", 5) == "in force", "callers inside meet the weight again")
    with unlabelled():
        stack.edit(weight=0)
        down = stack.up().check()
        assert "not bound" not in down.text, "a revert does not so much as look"
        assert routes()["web"]["http"][-1]["route"][0]["weight"] == 100


def test_what_others_bind_to_our_hosts_stops_a_rise_and_no_revert(at_five: Stack) -> None:
    stack = at_five
    leg = [{"destination": {"host": "web.shop.svc.cluster.local"}}]
    meta = {"name": "old", "namespace": "default"}
    spec: Json = {"hosts": ["shop.lab.test"], "gateways": ["istio-ingress/public"], "http": [{"route": leg}]}
    other = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": spec}
    parent = {"group": "", "kind": "Service", "name": "web", "namespace": "shop", "port": 80}
    bound = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta}
    gates = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"
    api("POST", f"{ISTIO}/default/virtualservices", other)
    api("POST", gates, bound | {"spec": {"parentRefs": [parent]}})
    try:
        stack.edit(weight=10)
        refused = stack.up()
        assert refused.code != 0
        assert "would not be in force: VirtualService default/old also names shop.lab.test" in refused.text
        assert "would not be in force: HTTPRoute default/old is bound to Service web" in refused.text
        stack.edit(weight=0)
        stack.up().check()
    finally:
        api("DELETE", f"{ISTIO}/default/virtualservices/old")
        api("DELETE", f"{gates}/old")


def test_the_api_server_takes_all_that_a_thousand_configurations_render(deployed: Rested) -> None:
    deployed.rest()  # the kinds of Istio come with the mesh
    api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tried"}})
    try:
        argv, environment = inside([sys.executable, "-m", "tests.dry_run", "tried"])
        done = subprocess.run(argv, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
    finally:
        api("DELETE", "/api/v1/namespaces/tried")
    assert found["refused"] == []
    assert found["asked"]["VirtualService"] >= generate.COUNT
    kinds = {"Gateway", "Service", "DestinationRule", "Deployment", "ServiceAccount", "ConfigMap", "Secret"}
    kinds |= {"PodDisruptionBudget", "HorizontalPodAutoscaler"}
    assert kinds <= found["asked"].keys()
