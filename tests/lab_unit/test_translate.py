"""The routing stand-in's translation against what a real istiod sent, and its own rules (problems, last good form)."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest

from lab.mesh.model import World
from lab.mesh.translate import accept, check, gateway_config, node_config, waypoint_config
from tests.golden_routes.cases import (
    CASES,
    HERE,
    Case,
    compact_cases,
    compact_clusters,
    compact_routes,
    folder_cases,
    shared_folder,
)
from tests.golden_routes.world import GATEWAY_LABELS, GATEWAY_NAMESPACE, ROUTE_NAME, recorded_world, waypoint_gateway

Json = dict[str, Any]
OURS = compact_cases()
FOLDER = shared_folder()
THEIRS = folder_cases(FOLDER) if FOLDER else {}


def gateway_of(case: Case) -> Any:
    config, problems = gateway_config(recorded_world(case.manifests), GATEWAY_NAMESPACE, GATEWAY_LABELS, "/dev/null")
    assert problems == []
    return config


def waypoint_of(case: Case) -> Any:
    world = recorded_world([*case.manifests, waypoint_gateway()])
    service = world.find("Service", "shop", "web")
    assert service is not None
    return waypoint_config(world, waypoint_gateway(), [service], "/dev/null")


def test_no_case_is_left_out() -> None:
    assert sorted(OURS) == CASES
    if FOLDER and "GOLDEN_DIR" not in os.environ:
        assert sorted(THEIRS) == CASES, f"{FOLDER} and {HERE} do not hold the same cases"


@pytest.mark.parametrize("name", CASES)
def test_compact_facts_are_those_of_the_recording(name: str) -> None:
    if name not in THEIRS:
        pytest.skip("the folder of recordings is not beside this checkout")
    ours, theirs = OURS[name], THEIRS[name]
    assert (ours.manifests, ours.routes, ours.waypoint, ours.clusters) == (
        theirs.manifests,
        theirs.routes,
        theirs.waypoint,
        theirs.clusters,
    )
    recorded = {p["probe"]: p for p in theirs.probes}
    for probe in ours.probes:
        assert {"response": {}, "seen": {}} | probe == recorded[probe["probe"]]
    assert len(ours.probes) == len(recorded)


@pytest.mark.parametrize("name", sorted({*CASES, *THEIRS}))
def test_structure_agrees_with_istiod(name: str) -> None:
    case = OURS.get(name) or THEIRS[name]
    assert [p for m in case.manifests for p in check(m)] == []
    config = gateway_of(case)
    assert [r["name"] for r in config.routes] == [ROUTE_NAME] or name not in CASES
    assert compact_routes(config.routes) == case.routes
    assert compact_clusters([c for c in config.clusters if "web.shop" in c["name"]]) == case.clusters
    if case.waypoint is not None:
        assert compact_routes(waypoint_of(case).routes) == case.waypoint


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_full_route_configuration_agrees_with_istiod(name: str) -> None:
    """Not only our facts: every field of every route, virtual host and cluster, but for where Envoy fetches from."""
    case = THEIRS[name]
    config = gateway_of(case)
    # The recorded port number is that of the gateway's environment.
    assert unnamed(config.routes) == unnamed(case.raw["istiod-routes"])
    ours = {c["name"]: c for c in config.clusters if "web.shop" in c["name"]}
    for recorded in copy.deepcopy(case.raw.get("istiod-clusters", [])):
        recorded["eds_cluster_config"].pop("eds_config")
        assert ours.pop(recorded["name"]) == recorded
    assert not ours
    if case.waypoint is not None:
        untyped = [{k: v for k, v in r.items() if k != "@type"} for r in waypoint_of(case).routes]
        assert untyped == case.raw["istiod-waypoint-routes"]


def unnamed(routes: list[Json]) -> list[Json]:
    return [{k: v for k, v in r.items() if k != "name"} for r in routes]


def virtual_service(**http: Any) -> Json:
    route = {"name": "r", "route": [{"destination": {"host": "web"}}], **http}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"hosts": ["shop.example.com"], "gateways": ["istio-ingress/public"], "http": [route]},
    }


def with_match(match: Json) -> Json:
    return virtual_service(match=[match])


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (virtual_service(delegate={"name": "x"}), "spec.http[0].delegate"),
        (virtual_service(timeout="0s"), "spec.http[0].timeout"),
        (virtual_service(timeout="soon"), "spec.http[0].timeout"),
        (virtual_service(retries={"attempts": 0, "perTryTimeout": "1s"}), "spec.http[0].retries"),
        (virtual_service(retries={"attempts": 1, "retryOn": "sometimes"}), "spec.http[0].retries.retryOn"),
        (virtual_service(fault={"abort": {"grpcStatus": "X"}}), "spec.http[0].fault.abort.grpcStatus"),
        (virtual_service(fault={"delay": {"fixedDelay": "1s"}}), "spec.http[0].fault.delay"),
        (virtual_service(redirect={"uri": "/"}, route=None), "spec.http[0].redirect"),
        (virtual_service(directResponse={"status": 200}, route=None), "spec.http[0].directResponse"),
        (virtual_service(rewrite={"uri": "/"}), "spec.http[0].rewrite"),
        (virtual_service(corsPolicy={"allowMethods": ["GET"]}), "spec.http[0].corsPolicy"),
        (virtual_service(mirror={"host": "web"}), "spec.http[0].mirror"),
        (virtual_service(headers={"request": {"set": {"Host": "x"}}}), "spec.http[0].headers.request"),
        (with_match({"port": 80}), "spec.http[0].match[0].port"),
        (with_match({"sourceLabels": {"app": "x"}}), "spec.http[0].match[0].sourceLabels"),
        (with_match({"headers": {"a": {"regex": "(?=x)"}}}), "spec.http[0].match[0].headers.a.regex"),
        (with_match({"headers": {"a": {"regex": "("}}}), "spec.http[0].match[0].headers.a.regex"),
        (with_match({"headers": {"a": None}}), "spec.http[0].match[0].headers.a"),
        (with_match({"headers": {"a": {"prefix": ""}}}), "spec.http[0].match[0].headers.a.prefix"),
        (with_match({"statPrefix": "x"}), "spec.http[0].match[0].statPrefix"),
    ],
)
def test_what_is_not_supported_is_named(obj: Json, field: str) -> None:
    problems = check(obj)
    assert [p.field for p in problems] == [field]
    assert problems[0].resource == "VirtualService shop/web"


@pytest.mark.parametrize("weights", [[0, 0], [-1, 101], [5.5, 94.5]])
def test_weights_that_istio_refuses(weights: list[Any]) -> None:
    targets = [{"destination": {"host": "web"}, "weight": w} for w in weights]
    assert [p.field for p in check(virtual_service(route=targets))] == ["spec.http[0].route"]


def test_a_bad_change_keeps_the_last_good_form() -> None:
    good: dict[tuple[str, str, str], Json] = {}
    fine, bad = virtual_service(timeout="3s"), virtual_service(timeout="never")
    assert accept([fine], good) == ([fine], [])
    kept, problems = accept([bad], good)
    assert kept == [fine] and "keeps serving" in problems[0].message
    assert accept([], good) == ([], []) and good == {}
    assert accept([bad], good)[0] == []


def case_with(extra: list[Json]) -> Case:
    base = [m for m in OURS["weight-0"].manifests if m["kind"] != "VirtualService"]
    return Case("made", [*base, *extra], [], [], None, [])


def second(match: list[Json], name: str = "second") -> Json:
    out = virtual_service(match=match)
    out["metadata"] |= {"name": name, "creationTimestamp": "2026-01-02T00:00:00Z"}
    out["spec"]["hosts"] = ["shop.example.com", "web.shop.svc.cluster.local"]
    out["spec"]["gateways"] = ["istio-ingress/public", "mesh"]
    out["spec"]["http"][0]["name"] = name
    return out


def names(config: Any) -> list[list[str]]:
    return [[r["name"] for r in v["routes"]] for c in config.routes for v in c["virtual_hosts"]]


def test_two_virtual_services_on_one_host_are_merged() -> None:
    first = second([], "first") | {}
    first["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    case = case_with([first, second([{"uri": {"prefix": "/x"}}])])
    assert names(gateway_of(case)) == [["second", "first"]], "a gateway moves catch-all routes to the end"
    assert names(waypoint_of(case)) == [["first", "second"]], "at a waypoint the first catch-all hides the rest"


def test_routes_after_a_catch_all_of_the_same_virtual_service_are_dropped() -> None:
    one = virtual_service()
    one["spec"]["http"].append({"name": "late", "route": [{"destination": {"host": "web"}}]})
    assert names(gateway_of(case_with([one]))) == [["r"]]


def test_present_and_full_regex_matches() -> None:
    case = case_with([with_match({"headers": {"x-a": {}, "x-b": {"regex": "*"}}})])
    match = gateway_of(case).routes[0]["virtual_hosts"][0]["routes"][0]["match"]
    assert match["headers"] == [{"name": "x-a", "present_match": True}, {"name": "x-b", "present_match": True}]


def test_a_waypoint_without_virtual_service_serves_every_pod() -> None:
    config = waypoint_of(case_with([]))
    route = config.routes[0]["virtual_hosts"][0]["routes"][0]
    assert (route["name"], route["route"]["cluster"]) == ("default", "inbound-vip|80|http|web.shop.svc.cluster.local")
    assert len(config.endpoints["inbound-vip|80|http|web.shop.svc.cluster.local"]["endpoints"][0]["lb_endpoints"]) == 3


def test_node_doors_cover_only_services_without_waypoint() -> None:
    world = recorded_world(OURS["weight-5"].manifests)
    [door] = [x for x in node_config(world, set()).listeners if "web.shop" in x["name"]]
    assert door["filter_chains"][0]["filters"][0]["name"] == "envoy.filters.network.tcp_proxy"
    assert not [x for x in node_config(world, {"web.shop.svc.cluster.local"}).listeners if "web.shop" in x["name"]]


def test_endpoints_leave_when_not_ready_or_being_deleted() -> None:
    base = recorded_world(OURS["weight-50"].manifests)
    objects = [copy.deepcopy(o) for k in ("Service", "EndpointSlice", "Pod") for o in base.all(k)]
    slices = next(o for o in objects if o["kind"] == "EndpointSlice")
    slices["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    next(o for o in objects if o["metadata"]["name"] == "web-stable-b")["metadata"]["deletionTimestamp"] = "now"
    world = World(objects)
    service = world.services["web.shop.svc.cluster.local"]
    assert [e.labels["version"] for e in world.endpoints(service, service["spec"]["ports"][0])] == ["canary"]


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"connectionPool": {"tcp": {"maxConnections": 1}}}, "spec.trafficPolicy.connectionPool.tcp"),
        ({"portLevelSettings": [{"port": {"number": 80}}]}, "spec.trafficPolicy.portLevelSettings"),
        ({"loadBalancer": {"simple": "PASSTHROUGH"}}, "spec.trafficPolicy.loadBalancer.simple"),
        ({"outlierDetection": {"interval": "often"}}, "spec.trafficPolicy.outlierDetection.interval"),
    ],
)
def test_traffic_policies_that_are_not_supported_are_named(policy: Json, field: str) -> None:
    metadata = {"name": "web", "namespace": "shop"}
    rule = {"kind": "DestinationRule", "metadata": metadata, "spec": {"host": "web", "trafficPolicy": policy}}
    assert [p.field for p in check(rule)] == [field]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}, "spec.rules[0].from"),
        ({"to": [{"operation": {"paths": ["/admin"]}}]}, "spec.rules[0].to"),
        ({"when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}, "spec.rules[0].when[0].key"),
        ({"when": [{"key": "request.headers[a]", "values": ["b*"]}]}, "spec.rules[0].when[0].values"),
    ],
)
def test_policies_are_on_request_headers_only(rule: Json, field: str) -> None:
    policy = {"kind": "AuthorizationPolicy", "metadata": {"name": "edge"}, "spec": {"action": "DENY", "rules": [rule]}}
    assert [p.field for p in check(policy)] == [field]


def test_authorization_policy_becomes_filters_in_order() -> None:
    policies = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": action.lower(), "namespace": GATEWAY_NAMESPACE},
            "spec": {
                "selector": {"matchLabels": GATEWAY_LABELS},
                "action": action,
                "rules": [{"when": [{"key": "request.headers[x-origin-secret]", "notValues": ["s3cr3t"]}]}],
            },
        }
        for action in ("ALLOW", "DENY")
    ]
    assert [p for o in policies for p in check(o)] == []
    chain = gateway_of(case_with(policies)).listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert [f["name"].rsplit(".", 1)[-1] for f in chain["http_filters"]] == ["deny", "allow", "fault", "router"]
