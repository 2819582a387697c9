"""Who may reach the pods, and that nobody is locked out, or held back, by the objects that say so."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from core import checks, security
from tests import program
from tests.program import Run

DOORS = ["cluster.local/ns/shop/sa/waypoint", "cluster.local/ns/istio-ingress/sa/istio-ingressgateway"]


def sources(raw: dict[str, Any], **gate: str) -> list[dict[str, Any]]:
    settings, _ = checks.parse(raw | {"gate": gate})
    (rule,) = security.authorization_policy_spec("web", settings)["rules"]
    return [one["source"] for one in rule["from"]]


def config(**changes: Any) -> dict[str, Any]:
    found = copy.deepcopy(program.stack_config("lab", edge=False))
    found["canary:services"]["web"]["canary"] = {"image": "sample-web:2.0"}
    return found | {f"canary:{key}": value for key, value in changes.items()}


@pytest.fixture(scope="module")
def run() -> Run:
    return program.run(config())


def test_only_the_two_doors_may_connect_to_the_pods_of_a_service(web: dict[str, Any]) -> None:
    assert sources(web) == [{"principals": DOORS}]


def test_the_policy_guards_both_tracks_and_asks_nothing_that_ztunnel_cannot_see(run: Run) -> None:
    spec = run.spec("AuthorizationPolicy", "web-doors")
    assert spec["selector"] == {"matchLabels": {"app.kubernetes.io/name": "web"}}
    for track in ("stable", "canary"):
        template = run.spec("Deployment", f"web-{track}")["template"]
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (rule,) = spec["rules"]
    assert rule.keys() == {"from"}, "paths, methods and headers would fail closed there"
    assert "targetRefs" not in spec, "the waypoint would enforce it, not the pods behind it"


def test_the_doors_are_named_as_the_mesh_names_them(run: Run) -> None:
    """A waypoint's account has the Gateway's name, the ingress gateway's that of its release."""
    waypoints = [one for one in run.of("Gateway").values() if one.inputs["spec"].get("gatewayClassName")]
    assert [one.inputs["metadata"]["name"] for one in waypoints] == ["waypoint"]
    release = run.of("Release")["mesh-istio-ingressgateway"].inputs
    assert (release["name"], release["namespace"]) == ("istio-ingressgateway", "istio-ingress")
    assert "serviceAccount" not in release["values"]


@pytest.mark.parametrize(
    ("url", "space"),
    [
        ("http://prometheus.monitoring:9090", "monitoring"),
        ("http://prometheus.observe.svc:9090", "observe"),
        ("https://prometheus-k8s.obs.svc.cluster.local/prefix", "obs"),
    ],
)
def test_prometheus_may_scrape_services_that_count_their_own_requests(
    web: dict[str, Any], url: str, space: str
) -> None:
    assert sources(web, metrics="app", prometheus=url) == [{"principals": DOORS}, {"namespaces": [space]}]
    assert sources(web, metrics="istio", prometheus=url) == [{"principals": DOORS}]


def test_a_prometheus_elsewhere_opens_no_pod(web: dict[str, Any]) -> None:
    assert sources(web, metrics="app", prometheus="https://prometheus.example.com") == [{"principals": DOORS}]


def test_plaintext_is_refused_in_the_namespace(run: Run) -> None:
    found = run.of("PeerAuthentication")["security-mtls"].inputs
    assert found["metadata"] == {"name": "default", "namespace": "shop"}
    assert found["spec"] == {"mtls": {"mode": "STRICT"}}


def test_nobody_is_locked_out_before_the_doors_serve_and_no_route_waits_for_a_lock_or_an_alert() -> None:
    run = program.run(config(alerts={"webhook": "http://rollout:9094/webhook"}))
    extra = {one.name for one in run.resources if one.parent in ("security", "observability")}
    assert {"web-doors", "security-mtls", "shop-canary-alerts"} <= extra
    for one in run.resources:
        if one.parent == "security":
            assert {"web-vs", "shop-waypoint"} <= set(one.depends_on)
        if one.name not in extra:
            assert not extra & set(one.depends_on), one.name


def test_every_service_has_its_own_policy() -> None:
    services = program.stack_config("lab", edge=False)["canary:services"]
    run = program.run(config(services=services | {"api": {"stable": {"image": "api:1"}}}))
    assert run.of("AuthorizationPolicy").keys() == {"web-doors", "api-doors"}
