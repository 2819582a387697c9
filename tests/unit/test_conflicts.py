"""Each combination that Istio ignores in silence: refused by a line of its own, or impossible to write.

| combination | here |
|---|---|
| no waypoint | the namespace always gets one; live: `not bound to its waypoint` |
| gateways without mesh, other namespace of the route, workload waypoint | fixed; keys of that name are refused |
| subset label not on pods, selector with a version, port tcp-, upper-case header name | fixed (test_properties) |
| sourceLabels, hostNetwork, headless | keys of that name are refused; live: `headless` |
| DestinationRule at the gateway, a second route for the host, HTTPRoute | live |
| stale ingress-use-waypoint, pods outside the mesh, sidecars | live |
| value in other case | no fault: values care for case, and `evaluate` says what a request gets |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pulumi
import pytest

import live
from core import checks, conflicts, routes, specs
from core.conflicts import Around
from tests import program

Json = dict[str, Any]


@pytest.mark.parametrize("key", sorted(conflicts.SILENT))
@pytest.mark.parametrize("place", ["service", "rule"])
def test_a_key_that_would_make_such_an_object_is_refused_with_the_reason(web: Json, key: str, place: str) -> None:
    service = web["services"]["web"]
    at = service if place == "service" else service["rules"][0]
    at[key] = {"app": "a"}
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(web)
    (line,) = caught.value.lines
    assert line.startswith("canary:services.web.")
    assert line.endswith(f".{key}: got {{'app': 'a'}}: {conflicts.SILENT[key]}")


@pytest.mark.parametrize(
    ("key", "value"), [("protocol", "tcp"), ("namespace", "istio-ingress/shop"), ("hosts", ["*"]), ("port", "tcp-web")]
)
def test_the_other_ways_to_write_one_are_refused_too(web: Json, key: str, value: Any) -> None:
    (web if key == "namespace" else web["services"]["web"])[key] = value
    with pytest.raises(checks.SettingsError, match=key):
        checks.parse(web)


def test_the_namespace_asks_for_ambient_and_for_a_waypoint_that_serves_services() -> None:
    run = program.run(program.stack_config("dev"))
    space = run.of("Namespace")["shop-namespace"].inputs["metadata"]
    assert space["labels"] == {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}
    (waypoint,) = (one for one in run.of("Gateway").values() if "networking.k8s.io" in one.inputs["apiVersion"])
    assert waypoint.inputs["metadata"]["labels"]["istio.io/waypoint-for"] == "service"
    assert waypoint.inputs["metadata"]["namespace"] == "shop"
    for kind in ("VirtualService", "DestinationRule", "Service"):
        assert {one.inputs["metadata"]["namespace"] for one in run.of(kind).values()} == {"shop"}, kind
    for one in run.of("Deployment").values():
        pod = one.inputs["spec"]["template"]
        assert "hostNetwork" not in pod["spec"]
        assert pod["metadata"]["labels"]["version"] in one.name


def healthy() -> dict[str, Any]:
    """A namespace as this program leaves it."""
    settings, _ = checks.parse(
        {"namespace": "shop", "services": {"web": {"stable": {"image": "a:1"}, "hosts": ["shop.lab.test"]}}}
    )
    bound = {"type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted", "message": "ok"}
    own = {"name": "web", "namespace": "shop"}
    return {
        "namespace": {
            "metadata": {"name": "shop", "labels": {specs.AMBIENT_LABEL: "ambient", specs.WAYPOINT_LABEL: "waypoint"}}
        },
        "services": {
            "web": {
                "metadata": {**own, "labels": specs.labels("web")},
                "spec": {**specs.service_spec("web", settings.services["web"]), "clusterIP": "10.96.0.7"},
                "status": {"conditions": [bound]},
            }
        },
        "routes": [{"metadata": own, "spec": routes.virtual_service_spec("web", settings)}],
        "rules": [{"metadata": own, "spec": routes.destination_rule_spec("web", "shop")}],
        "parents": [],
    }


def _route(namespace: str, hosts: list[str], gateways: list[str] | None = None) -> Callable[[Json], None]:
    spec = {"hosts": hosts, "http": []} | ({"gateways": gateways} if gateways else {})
    return lambda world: world["routes"].append({"metadata": {"name": "old", "namespace": namespace}, "spec": spec})


def _rule(namespace: str, host: str) -> Callable[[Json], None]:
    item = {"metadata": {"name": "old", "namespace": namespace}, "spec": {"host": host}}
    return lambda world: world["rules"].append(item)


def _parent(kind: str, near: str, **parent: str) -> Callable[[Json], None]:
    meta = {"name": "old", "namespace": near}
    item = {"kind": kind, "metadata": meta, "spec": {"parentRefs": [{"kind": "Service", "name": "web", **parent}]}}
    return lambda world: world["parents"].append(item)


def _label(place: str, key: str, value: str | None) -> Callable[[Json], None]:
    def change(world: Json) -> None:
        labels = (world["namespace"] if place == "namespace" else world["services"]["web"])["metadata"]["labels"]
        labels.pop(key, None)
        if value is not None:
            labels[key] = value

    return change


FQDN = "web.shop.svc.cluster.local"
LIVE: list[tuple[str, Callable[[Json], None], str]] = [
    ("no waypoint", _label("namespace", specs.WAYPOINT_LABEL, None), "is not bound to its waypoint"),
    ("waypoint none", _label("service", specs.WAYPOINT_LABEL, "none"), "is not bound to its waypoint"),
    (
        "waypoint refused",
        lambda world: world["services"]["web"]["status"]["conditions"][0].update(status="False", reason="Missing"),
        "meet no weight: Missing: ok",
    ),
    (
        "ingress by waypoint, Service",
        _label("service", "istio.io/ingress-use-waypoint", "true"),
        "on Service web makes the waypoint",
    ),
    (
        "ingress by waypoint, namespace",
        _label("namespace", "istio.io/ingress-use-waypoint", "true"),
        "on its namespace makes the waypoint",
    ),
    ("sidecars", _label("namespace", "istio-injection", "enabled"), "injects sidecars"),
    ("sidecars of a revision", _label("namespace", "istio.io/rev", "1-30"), "injects sidecars"),
    ("not ambient", _label("namespace", specs.AMBIENT_LABEL, None), "outside the mesh"),
    (
        "headless",
        lambda world: world["services"]["web"]["spec"].update(clusterIP="None"),
        "is headless",
    ),
    (
        "second route at the gateway",
        _route("team-b", ["shop.lab.test"], ["x/y"]),
        "team-b/old also names shop.lab.test",
    ),
    ("second route in the mesh", _route("shop", ["web"]), f"shop/old also names {FQDN}"),
    ("rule at the gateway", _rule("istio-ingress", FQDN), "istio-ingress/old also names"),
    ("second rule", _rule("shop", "web"), "shop/old also names"),
    ("HTTPRoute", _parent("HTTPRoute", "shop"), "HTTPRoute shop/old is bound to Service web"),
    (
        "GRPCRoute from elsewhere",
        _parent("GRPCRoute", "b", namespace="shop"),
        "GRPCRoute b/old is bound to Service web",
    ),
]


def _found(world: Json) -> list[str]:
    settings, _ = checks.parse(
        {"namespace": "shop", "services": {"web": {"stable": {"image": "a:1"}, "hosts": ["shop.lab.test"]}}}
    )
    return list(conflicts.found("web", settings, Around(**world)))


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in LIVE], ids=[case[0] for case in LIVE])
def test_what_others_put_beside_ours_is_found_and_nothing_else_is_said(
    change: Callable[[Json], None], says: str
) -> None:
    world = copy.deepcopy(healthy())
    change(world)
    (line,) = _found(world)
    assert says in line
    assert ";" in line, "what to do is said"


OTHERS: list[Callable[[Json], None]] = [
    lambda world: None,
    _route("team-b", ["web"]),  # the Service of that name in their own namespace
    _route("team-b", ["shop.lab.test"]),  # for callers inside, who mean no host of ours
    _route("team-b", ["other.lab.test"], ["istio-ingress/public"]),
    _rule("team-b", FQDN),  # neither the gateway nor the waypoint looks there
    _rule("istio-ingress", "other.shop.svc.cluster.local"),
    _parent("HTTPRoute", "team-b"),
    lambda world: world["parents"].append({"metadata": {"name": "a", "namespace": "shop"}, "spec": {}}),
]


@pytest.mark.parametrize("change", OTHERS)
def test_what_others_have_of_their_own_is_no_conflict(change: Callable[[Json], None]) -> None:
    world = copy.deepcopy(healthy())
    change(world)
    assert _found(world) == []


def test_what_could_not_be_read_is_no_conflict() -> None:
    assert _found({}) == []


def _rolling(weight: int) -> Json:
    config = program.stack_config("lab", edge=False) | {"canary:weight": weight}
    config["canary:services"]["web"]["canary"] = {"image": "sample-web:2.0"}
    return config


def _label_gone(asked: list[str]) -> live.Live:
    def around() -> Around:
        asked.append("around")
        return Around(namespace={"metadata": {"name": "shop"}}, services={"web": {"metadata": {"name": "web"}}})

    return live.Live(around=around)


@pytest.fixture(scope="module")
def at_five() -> Json:
    """What is recorded while canary gets 5 %."""
    first = program.run(_rolling(0))
    return program.recorded_from(program.run(_rolling(5), recorded=program.recorded_from(first)))


def test_a_rise_is_refused_while_the_split_is_not_in_force(at_five: Json) -> None:
    with pytest.raises(pulumi.RunError, match=r"weight 5 -> 10 would not be in force: Service web is not bound"):
        program.run(_rolling(10), recorded=at_five, seen=_label_gone([]))


def test_at_the_same_weight_it_is_a_warning(at_five: Json, caplog: pytest.LogCaptureFixture) -> None:
    program.run(_rolling(5), recorded=at_five, seen=_label_gone([]))
    assert "web: Service web is not bound to its waypoint" in caplog.text


def test_on_the_way_down_nobody_so_much_as_asks(at_five: Json) -> None:
    asked: list[str] = []
    for config in (_rolling(0), _rolling(3), _rolling(5) | {"canary:halted": True}):
        program.run(config, recorded=at_five, seen=_label_gone(asked))
    assert asked == []
