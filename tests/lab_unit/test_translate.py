"""The routing stand-in's translation against what a real istiod sent, and its own rules (problems, last good form)."""

from __future__ import annotations

import base64
import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from lab import pki
from lab.mesh import waypoint
from lab.mesh.authz import not_enforced, rbac_filters
from lab.mesh.clusters import service_cluster
from lab.mesh.listeners import listener
from lab.mesh.model import ProxyConfig, Unsupported, World
from lab.mesh.translate import accept, check, gateway_config, is_proxy_pod, node_config, waypoint_config
from lab.mesh.xds import Publisher
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


def test_proxies_hold_clusters_of_services_that_some_route_names_and_of_no_others() -> None:
    def hosts(config: Any) -> set[str]:
        return {c["name"].split("|")[3] for c in config.clusters}

    case = OURS["weight-0"]
    other = copy.deepcopy(recorded_world(case.manifests).services["web.shop.svc.cluster.local"])
    other["metadata"]["name"] = "other"
    case = Case("made", [*case.manifests, other], [], [], None, [])
    assert hosts(gateway_of(case)) == hosts(waypoint_of(case)) == {"web.shop.svc.cluster.local"}
    case.manifests.append(second([], "to-other"))
    case.manifests[-1]["spec"]["http"][0]["route"] = [{"destination": {"host": "other"}}]
    both = {"web.shop.svc.cluster.local", "other.shop.svc.cluster.local"}
    assert hosts(gateway_of(case)) == hosts(waypoint_of(case)) == both


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
        ({"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}, "spec.rules[0].from[0].source.ipBlocks"),
        ({"to": [{"operation": {"paths": ["/a/{*}"]}}]}, "spec.rules[0].to[0].operation.paths"),
        ({"when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}, "spec.rules[0].when[0].key"),
        ({"when": [{"key": "request.headers[a]"}]}, "spec.rules[0].when[0]"),
    ],
)
def test_policy_fields_that_are_not_supported_are_named(rule: Json, field: str) -> None:
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


def policy(namespace: str, rule: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"action": "ALLOW", "rules": [rule or {}], **spec},
    }


def test_operations_and_absent_identities_become_rbac() -> None:
    operation = {"hosts": ["shop.example.com", "*.lab"], "notPaths": ["/admin*"], "ports": ["80"], "methods": ["GET"]}
    one = policy(GATEWAY_NAMESPACE, {"to": [{"operation": operation}], "from": [{"source": {"principals": ["a/b"]}}]})
    assert check(one) == []
    [rbac] = [f["typed_config"] for f in rbac_filters([one])]
    [rule] = rbac["rules"]["policies"].values()
    [operations] = rule["permissions"][0]["and_rules"]["rules"]
    hosts, ports, methods, paths = operations["or_rules"]["rules"][0]["and_rules"]["rules"]
    assert [h["header"]["string_match"] for h in hosts["or_rules"]["rules"]] == [
        {"exact": "shop.example.com", "ignore_case": True},
        {"suffix": ".lab", "ignore_case": True},
    ]
    assert ports == {"or_rules": {"rules": [{"destination_port": 80}]}}
    assert methods["or_rules"]["rules"][0]["header"]["string_match"] == {"exact": "GET"}
    assert paths == {"not_rule": {"or_rules": {"rules": [{"url_path": {"path": {"prefix": "/admin"}}}]}}}
    nobody = rule["principals"][0]["and_ids"]["ids"][0]["or_ids"]["ids"][0]["and_ids"]["ids"]
    assert nobody == [{"or_ids": {"ids": [{"not_id": {"any": True}}]}}], "a gateway's callers have no identity"


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (policy(GATEWAY_NAMESPACE, selector={"matchLabels": GATEWAY_LABELS}), ""),
        (policy(GATEWAY_NAMESPACE), ""),
        (policy("shop", selector={"matchLabels": {"app": "web"}}), "selects 3 pods"),
        (policy("shop", targetRefs=[{"kind": "Service", "name": "web"}]), "waypoints enforce no policies"),
        (policy("elsewhere"), "selects no pod"),
    ],
)
def test_policies_without_effect_are_told(one: Json, told: str) -> None:
    gateway_pod = {
        "kind": "Pod",
        "metadata": {"name": "g", "namespace": GATEWAY_NAMESPACE, "labels": GATEWAY_LABELS},
        "spec": {"containers": [{"image": "istio/proxyv2:1"}]},
    }
    found = not_enforced(recorded_world([gateway_pod, one]), one, is_proxy_pod)
    assert (told in found) if told else found == ""
    assert not found or "not enforced here" in found


def https_case(secret: Json | None) -> list[Json]:
    tls = {"mode": "SIMPLE", "credentialName": "shop-tls", "minProtocolVersion": "TLSV1_3"}
    server = {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["shop.example.com"], "tls": tls}
    case = case_with([virtual_service()])
    gateways = copy.deepcopy([m for m in case.manifests if m["kind"] == "Gateway"])
    gateways[0]["spec"]["servers"].append(server)
    gateways[0]["spec"]["servers"][0]["tls"] = {"httpsRedirect": True}
    others = [m for m in case.manifests if m["kind"] != "Gateway"]
    return [*gateways, *others, *([secret] if secret else [])]


def tls_secret(certificate: str, key: str) -> Json:
    pair = {"tls.crt": certificate, "tls.key": key}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in pair.items()}
    return {"kind": "Secret", "metadata": {"name": "shop-tls", "namespace": GATEWAY_NAMESPACE}, "data": data}


def https_of(secret: Json | None) -> Any:
    return gateway_config(recorded_world(https_case(secret)), GATEWAY_NAMESPACE, GATEWAY_LABELS, "/dev/null")


def test_https_is_served_with_the_secret_and_http_redirects() -> None:
    certificate, key = pki.self_signed(["shop.example.com"])
    config, problems = https_of(tls_secret(certificate, key))
    assert problems == []
    [door] = [x for x in config.listeners if x["name"].endswith("_443")]
    [chain] = door["filter_chains"]
    assert chain["filter_chain_match"] == {"server_names": ["shop.example.com"]}
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
    assert context["tls_certificate_sds_secret_configs"] == [{"name": "shop-tls"}]
    assert config.secrets[0]["tls_certificate"]["private_key"] == {"inline_string": key}
    http = next(r for r in config.routes if r["name"] == ROUTE_NAME)
    assert [v["require_tls"] for v in http["virtual_hosts"]] == ["ALL"]
    assert (
        "self-signed lab certificate" in x509.load_pem_x509_certificate(certificate.encode()).subject.rfc4514_string()
    )


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        (None, "Secret istio-ingress/shop-tls not found"),
        (tls_secret("", ""), "Secret istio-ingress/shop-tls has no tls.crt"),
        (tls_secret("x", "y"), "cannot be read"),
        (tls_secret(pki.self_signed(["a.b"])[0], pki.self_signed(["a.b"])[1]), "not the key of tls.crt"),
    ],
)
def test_without_a_good_secret_https_is_not_served_and_says_why(secret: Json | None, told: str) -> None:
    config, [problem] = https_of(secret)
    assert [x["name"].rsplit("_", 1)[1] for x in config.listeners] == ["80"] and config.secrets == []
    assert problem.field == "spec.servers[1].tls.credentialName"
    assert told in problem.message and "HTTPS is not served" in problem.message and not problem.known


@pytest.mark.parametrize("protocol", ["grpc", "http2", "kubernetes.io/h2c"])
def test_http2_upstream_by_app_protocol(protocol: str) -> None:
    options = service_cluster("c", {}, {"appProtocol": protocol})["typed_extension_protocol_options"]
    assert [o["explicit_http_config"] for o in options.values()] == [{"http2_protocol_options": {}}]
    assert "typed_extension_protocol_options" not in service_cluster("c", {}, {"appProtocol": "http"})


def test_grpc_retry_conditions_are_passed_on() -> None:
    words = "unavailable,cancelled,resource-exhausted"
    case = case_with([second([], "grpc")])
    case.manifests[-1]["spec"]["http"][0]["retries"] = {"attempts": 2, "retryOn": words}
    for config in (gateway_of(case), waypoint_of(case)):
        assert config.routes[0]["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]["retry_on"] == words


def test_response_headers_are_set_by_destination_at_both_doors() -> None:
    def leg(track: str, **more: Any) -> Json:
        return {"destination": {"host": "web"}, "headers": {"response": {"set": {"x-canary-route": track}}}, **more}

    split = second([], "split")
    split["spec"]["http"] = [
        {"name": "rule", "match": [{"method": {"exact": "PUT"}}], "route": [leg("rule/canary")]},
        {"name": "default", "route": [leg("default/stable", weight=90), leg("default/canary", weight=10)]},
    ]
    for config in (gateway_of(case_with([split])), waypoint_of(case_with([split]))):
        rule, default = config.routes[0]["virtual_hosts"][0]["routes"]
        holders = [rule, *default["route"]["weighted_clusters"]["clusters"]]
        added = [h["response_headers_to_add"][0] for h in holders]
        values = [a["header"]["value"] for a in added]
        assert values == ["rule/canary", "default/stable", "default/canary"]
        assert {a["append_action"] for a in added} == {"OVERWRITE_IF_EXISTS_OR_ADD"}


def bindable(*objects: Json, label: str = "waypoint", **changes: Any) -> tuple[World, Json]:
    base = recorded_world([*objects])
    service = copy.deepcopy(base.services["web.shop.svc.cluster.local"])
    service["metadata"]["labels"] = {"istio.io/use-waypoint": label, **changes}
    kinds = ("Service", "EndpointSlice", "Pod", "KubernetesGateway")
    others = [o for k in kinds for o in base.all(k) if o["metadata"]["name"] != "web"]
    return World([*others, service]), service


def waypoint_pod(**status: Any) -> Json:
    labels = {"gateway.networking.k8s.io/gateway-name": "waypoint"}
    metadata = {"name": "waypoint-1", "namespace": "shop", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": status}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def test_a_service_is_bound_once_its_waypoint_served_and_stays_bound() -> None:
    world, service = bindable(waypoint_gateway(), waypoint_pod())
    assert waypoint.binding(world, service) == ("False", "WaypointIsNotReady", 'waypoint "shop/waypoint" is not ready')
    world, service = bindable(waypoint_gateway(), waypoint_pod(**READY))
    bound = ("True", "WaypointAccepted", "Successfully attached to waypoint shop/waypoint")
    assert waypoint.binding(world, service) == bound
    broken = waypoint_gateway() | {"status": {"addresses": [{"value": "waypoint"}]}}
    world, service = bindable(broken, waypoint_pod())
    assert waypoint.binding(world, service) == bound, "it fails rather than being gone round"


def test_a_service_that_is_not_bound_says_why() -> None:
    world, service = bindable(label="absent")
    assert (waypoint.binding(world, service) or ())[1:2] == ("WaypointIsNotReady",)
    world, service = bindable(waypoint_gateway(), label="none")
    assert waypoint.binding(world, service) is None and waypoint.bound_condition(world, service, "now") is None
    workloads = waypoint_gateway()
    workloads["metadata"]["labels"] = {"istio.io/waypoint-for": "workload"}
    world, service = bindable(workloads, waypoint_pod(**READY))
    assert (waypoint.binding(world, service) or ())[1:2] == ("UnsupportedTrafficType",)
    far, place = waypoint_gateway(), {"istio.io/use-waypoint-namespace": "infra"}
    far["metadata"]["namespace"] = "infra"
    far["status"] = {"addresses": [{"value": "x"}]}
    world, service = bindable(far, **place)
    assert (waypoint.binding(world, service) or ())[1:2] == ("AttachmentDenied",)
    assert waypoint.bound_services(world, far) == []
    far["spec"]["listeners"][0]["allowedRoutes"] = {"namespaces": {"from": "All"}}
    assert (waypoint.binding(world, service) or ())[:1] == ("True",)


@pytest.mark.parametrize(
    ("pods", "told"),
    [
        ([], "no pod exists"),
        ([waypoint_pod()], "pod waypoint-1 is not ready"),
        (
            [
                waypoint_pod(
                    containerStatuses=[
                        {
                            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 4s"}},
                            "lastState": {"terminated": {"exitCode": 1}},
                        }
                    ]
                )
            ],
            "pod waypoint-1 CrashLoopBackOff, back-off 4s, last exit code 1",
        ),
    ],
)
def test_a_waypoint_that_does_not_serve_says_why(pods: list[Json], told: str) -> None:
    world, _ = bindable(waypoint_gateway(), *pods)
    status = waypoint.gateway_status(world, world.all("KubernetesGateway")[0], "now")
    accepted, programmed = status["conditions"]
    assert (accepted["status"], programmed["status"], programmed["reason"]) == ("True", "False", "AddressNotAssigned")
    assert told in programmed["message"] and "addresses" not in status


def with_parameters(data: Json | None) -> tuple[World, Json]:
    gateway = waypoint_gateway()
    gateway["metadata"]["uid"] = "u"
    reference = {"group": "", "kind": "ConfigMap", "name": "size"}
    gateway["spec"]["infrastructure"] = {"parametersRef": reference}
    config = {"kind": "ConfigMap", "metadata": {"name": "size", "namespace": "shop"}, "data": data}
    return World([gateway, *([config] if data is not None else [])]), gateway


def test_parameters_are_laid_over_what_a_waypoint_consists_of() -> None:
    spread = '{"spec": {"template": {"spec": {"topologySpreadConstraints": [{"maxSkew": 1}]}}}}'
    sizes = {"horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 5}", "deployment": spread}
    world, gateway = with_parameters({**sizes, "podDisruptionBudget": "spec: {minAvailable: 1}"})
    made = {m["kind"]: (path, m) for path, m in waypoint.objects(world, gateway, "1")}
    assert sorted(made) == [
        *("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServiceAccount"),
    ]
    path, scaler = made["HorizontalPodAutoscaler"]
    assert path == "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"
    assert scaler["spec"]["maxReplicas"] == 5 and scaler["spec"]["scaleTargetRef"]["name"] == "waypoint"
    budget = made["PodDisruptionBudget"][1]["spec"]
    assert budget["minAvailable"] == 1 and budget["selector"]["matchLabels"]
    pod = made["Deployment"][1]["spec"]["template"]["spec"]
    assert pod["topologySpreadConstraints"] and pod["containers"][0]["name"] == "istio-proxy"
    plain = waypoint_gateway()
    plain["metadata"]["uid"] = "u"
    assert [m["kind"] for _, m in waypoint.objects(World([plain]), plain, "1")] == [
        *("ServiceAccount", "Deployment", "Service"),
    ]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "ConfigMap size does not exist"),
        ({"replicas": "2"}, "unsupported overlay 'replicas'"),
        ({"deployment": "spec: {template: {spec: {containers: [{name: x}]}}}"}, "a list over a list"),
    ],
)
def test_parameters_that_cannot_be_laid_over_are_refused(data: Json | None, told: str) -> None:
    world, gateway = with_parameters(data)
    with pytest.raises(Unsupported, match=told):
        waypoint.objects(world, gateway, "1")


def test_a_listener_that_another_proxy_takes_over_stays_open_until_it_is_told_to_close(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    ours, other = (listener(name, ["10.96.0.1"], port, []) for name, port in (("ours", 80), ("other", 81)))

    def written() -> list[str]:
        return [one["name"] for one in json.loads((tmp_path / "lds.json").read_text())["resources"]]

    publisher.publish(ProxyConfig(listeners=[ours, other]))
    assert (written(), publisher.closing) == (["ours", "other"], False)
    publisher.publish(ProxyConfig(listeners=[other]))
    assert (written(), publisher.closing) == (["ours", "other"], True)
    publisher.publish(ProxyConfig(listeners=[ours, other]))
    assert (written(), publisher.closing) == (["ours", "other"], False), "it came back: nothing closed in between"
    publisher.publish(ProxyConfig(listeners=[other]))
    publisher.close()
    assert (written(), publisher.closing) == (["other"], False)
