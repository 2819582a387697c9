"""The policy pack: what each policy says, of whom it says nothing, and that none of it stops a way down.

| case of istio-golden | what the pack says |
|---|---|
| missing-subset | `known-subsets` refuses: half of all requests would get 503 |
| no-default-route | `catch-all-last` refuses: what brings no stamp gets 404 |
| all others, with faults, mirrors and header operations among them | nothing: that is what somebody asked for |
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pulumi_policy.proxy import unknown_checking_proxy

from policies import facts, pack
from tests import policy_cases as cases
from tests import policy_pack, program
from tests.golden_routes import cases as golden
from tests.policy_cases import BROKEN, POD, SPLIT, Declared, add, changed, drop, every, put, without
from tests.policy_pack import Said, refused, said
from tests.unit.test_golden import STACKS

FLAGGED = "kubernetes:flagger.app/v1beta1:Canary"


def declared(these: Declared, needs: dict[str, list[str]] | None = None, stack: str = "prod") -> Any:
    """As the SDK hands it over."""
    return [
        policy_pack.resource(kind, name, props, (needs or {}).get(name, ()), stack)
        for name, (kind, props) in these.items()
    ]


def by_policy(found: list[Said]) -> dict[str, list[str]]:
    """Texts by policy."""
    out: dict[str, list[str]] = {}
    for one in found:
        out.setdefault(one.policy, []).append(one.text)
    return out


# --- each policy ---


def test_the_good_stack_breaks_nothing() -> None:
    assert said(declared(changed())) == []
    assert said(declared(changed(edge=False))) == []


def test_each_policy_has_a_case_that_breaks_it() -> None:
    assert set(BROKEN) | {"way-down-first", "not-checked"} == {policy.name for policy in pack.POLICIES}


EACH = [(name, change, says) for name, found in BROKEN.items() for change, says in found]


@pytest.mark.parametrize(
    ("name", "change", "says"), EACH, ids=[f"{name}-{index}" for index, (name, *_) in enumerate(EACH)]
)
def test_one_changed_property_breaks_one_policy_which_names_it(name: str, change: cases.Change, says: str) -> None:
    found = by_policy(said(declared(changed(change, edge=name.startswith("edge")))))
    assert found.keys() == {name}
    assert any(says in text for text in found[name]), found


@pytest.mark.parametrize("name", [name for name, found in BROKEN.items() if found])
def test_the_message_holds_the_fix_in_one_line(name: str) -> None:
    for change, _ in BROKEN[name]:
        for text in by_policy(said(declared(changed(change, edge=name.startswith("edge")))))[name]:
            assert "\n" not in text
            assert ";" in text, f"no fix in {text!r}"


def _unknown(declared: Declared, name: str, at: tuple[str | int, ...]) -> None:
    put(name, *at, value=policy_pack.UNKNOWN)(declared)


UNKNOWN: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "route-weights": ("route", (*SPLIT, "route", 0, "weight")),
    "known-subsets": ("route", ("spec", "http", 0, "route", 0, "destination", "subset")),
    "weight-on-ladder": ("route", ("metadata", "annotations", "canary/steps")),
    "edge-follows-mesh": ("keys", ("resourceKeyValuePairs", 1, "value")),
    "one-router-per-host": ("router", ("spec", "hostnames")),
    "catch-all-last": ("route", (*SPLIT, "match")),
    "explicit-routes": ("route", (*SPLIT, "timeout")),
    "no-silent-match": ("route", ("spec", "http", 0, "match")),
    "waypoint-for-routes": ("space", ("metadata", "labels")),
    "explained-override": ("stack", ("override",)),
    "pinned-images": ("stable", (*POD, "image")),
    "readiness-probes": ("stable", (*POD, "ports")),
    "subsets-select-pods": ("service", ("spec", "selector")),
    "no-sidecars": ("space", ("metadata", "labels")),
    "pinned-istio": ("base", ("version",)),
    "disruption-budgets": ("stable", ("spec", "replicas")),
    "edge-https": ("distribution", ("defaultCacheBehavior", "viewerProtocolPolicy")),
    "edge-tls": ("distribution", ("viewerCertificate", "minimumProtocolVersion")),
    "edge-function": ("distribution", ("defaultCacheBehavior", "functionAssociations")),
    "edge-cache-key": ("distribution", ("orderedCacheBehaviors", 0, "cachePolicyId")),
    "edge-origin": ("distribution", ("origins", 0, "customHeaders")),
    "edge-log": ("distribution", ("loggingConfig",)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_of_what_a_preview_does_not_know_it_is_said_that_it_was_not_checked(name: str) -> None:
    target, at = UNKNOWN[name]
    these = changed()
    if target == "router":
        add("router", cases._ROUTER, copy.deepcopy(cases.ROUTER))(these)
        put("router", "spec", "parentRefs", value=[])(these)
    if target == "stack":
        add("stack", "pulumi:pulumi:Stack", {})(these)
    _unknown(these, target, at)
    found = said(declared(these))
    assert refused(declared(these)) == []
    line = next(one.text for one in found if one.policy == "not-checked" and one.text.startswith(f"{name}: "))
    assert "can't be known during preview" in line
    assert str(at[-1]) in line or str(at[0]) in line, "it names the property"


def test_what_is_known_is_checked_beside_what_is_not() -> None:
    these = changed(put("canary", *POD, "image", value="sample-web:1.0"))
    _unknown(these, "stable", (*POD, "image"))
    assert by_policy(said(declared(these))).keys() == {"pinned-images", "not-checked"}


@pytest.mark.parametrize("name", sorted(cases.GOOD | cases.EDGE))
@pytest.mark.parametrize("place", [("metadata", "name"), ("metadata", "labels"), ("metadata",), ("spec",)])
def test_whatever_is_unknown_no_policy_refuses_for_it(name: str, place: tuple[str, ...]) -> None:
    these = changed()
    if place[0] in these[name][1]:
        _unknown(these, name, place)
    assert refused(declared(these)) == []


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just(policy_pack.UNKNOWN),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_object_whatever_stands_in_it_makes_a_policy_fail(data: st.DataObject) -> None:
    """The engine takes a policy that raises for a failed update: a revert would wait for its repair."""
    these = changed()
    at: Any = these[data.draw(st.sampled_from(sorted(these)))][1]
    while True:
        keys = list(range(len(at))) if isinstance(at, list) else sorted(at)
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(at[key], dict | list) and at[key]) or data.draw(st.booleans()):
            at[key] = data.draw(junk)
            break
        at = at[key]
    for one in said(declared(these)):
        assert isinstance(one.text, str)


# --- thresholds ---


def test_images_need_a_digest_in_production_alone_and_configuration_says_what_that_is() -> None:
    these = changed(put("stable", *POD, "image", value="sample-web:1.0"))
    assert [one.policy for one in said(declared(these, stack="prod-eu"))] == ["pinned-images"]
    assert said(declared(these, stack="dev")) == []
    assert [one.policy for one in said(declared(these, stack="dev"), {"pinned-images": {"stacks": ["d*"]}})] == [
        "pinned-images"
    ]
    assert said(declared(these), {"pinned-images": {"stacks": []}}) == []


def test_the_other_thresholds_can_be_set_too() -> None:
    newer = {"edge-tls": {"minimum": "TLSv1.3_2025"}}
    assert [one.policy for one in said(declared(changed()), newer)] == ["edge-tls"]
    these = changed(put("budget", "spec", "selector", "matchLabels", value={"app": "other"}))
    assert [one.policy for one in said(declared(these))] == ["disruption-budgets"] * 2
    assert said(declared(these), {"disruption-budgets": {"replicas": 3}}) == []
    header = {"edge-origin": {"header": "x-door"}}
    assert [one.policy for one in said(declared(changed()), header)] == ["edge-origin"]


def test_an_origin_may_speak_http_where_it_is_no_production() -> None:
    these = changed(put("distribution", "origins", 0, "customOriginConfig", "originProtocolPolicy", value="http-only"))
    assert said(declared(these, stack="lab")) == []


# --- what is no fault ---


FINE = {
    "a minimum of TLS that is newer": put(
        "distribution", "viewerCertificate", "minimumProtocolVersion", value="TLSv1.3_2025"
    ),
    "an origin that only CloudFront reaches": put(
        "distribution",
        "origins",
        value=[{"originId": "inside", "domainName": "a", "vpcOriginConfig": {"vpcOriginId": "v"}}],
    ),
    "an origin that asks for a certificate": put(
        "distribution",
        "origins",
        0,
        value={
            "originId": "a",
            "customOriginConfig": {
                "originProtocolPolicy": "https-only",
                "originMtlsConfig": {"clientCertificateArn": "arn"},
            },
        },
    ),
    "a policy that keeps nothing": put("cache", "maxTtl", value=0),
    "a log that is delivered": every(
        put("distribution", "loggingConfig", value=None),
        add("log", "aws:cloudwatch/logDeliverySource:LogDeliverySource", {"name": "edge"}),
    ),
    "an HTTPRoute for another host": add(
        "router", cases._ROUTER, cases._of("gateway/v1:HTTPRoute", "w", {"hostnames": ["other.example.com"]})
    ),
    "a match for callers of the mesh": put("route", "spec", "http", 0, "match", 0, "gateways", value=["mesh"]),
    "a match with a path that is not the root": put(
        "route", "spec", "http", 0, "match", value=[{"uri": {"prefix": "/a"}}]
    ),
    "a redirect, which takes no time": put(
        "route",
        "spec",
        "http",
        0,
        value={"name": "old", "match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new"}},
    ),
    "one destination without a weight": put(
        "route", *SPLIT, "route", value=[{"destination": {"host": cases.HOST, "subset": "canary"}}]
    ),
    "a short name of the host": put("rule", "spec", "host", value="web"),
    "pods of another stack": every(drop("stable"), drop("canary")),
    "a container without a port": put("stable", *POD, value={"name": "aside", "image": f"aside@{cases.DIGEST}"}),
    "a chart of the same name that is not Istio's": add(
        "base2", "kubernetes:helm.sh/v3:Release", {"chart": "base", "version": "9", "namespace": "shop"}
    ),
    "a chart in a folder": put("istiod", "chart", value="charts/istiod"),
    "one pod, which is one": every(*(put(name, "spec", "replicas", value=1) for name in ("stable", "canary"))),
    "a waypoint in another namespace": put(
        "space",
        "metadata",
        "labels",
        value={
            "istio.io/dataplane-mode": "ambient",
            "istio.io/use-waypoint": "waypoint",
            "istio.io/use-waypoint-namespace": "doors",
        },
    ),
    "a namespace that is not ambient": put("space", "metadata", "labels", value={"istio-injection": "enabled"}),
    "sidecars that are kept out": put("space", "metadata", "labels", "istio-injection", value="disabled"),
    "a route for the public door alone": every(
        put("route", "spec", "gateways", value=["istio-ingress/public"]),
        put("space", "metadata", "labels", "istio.io/use-waypoint", value=None),
    ),
    "an override with both": add(
        "stack", "pulumi:pulumi:Stack", {"override": {"reason": "sale", "until": "2020-01-01T00:00:00+01:00"}}
    ),
    "a day as the end of an override": add(
        "stack", "pulumi:pulumi:Stack", {"override": {"reason": "sale", "until": "2020-01-01"}}
    ),
    "no ladder on record": put("route", "metadata", "annotations", "canary/steps", value=""),
}


@pytest.mark.parametrize("what", FINE)
def test_no_policy_minds(what: str) -> None:
    these = changed()
    FINE[what](these)
    if what == "one destination without a weight":  # all to canary: the edge says so too
        put("keys", "resourceKeyValuePairs", 1, "value", value='{"buckets":10000}')(these)
    assert said(declared(these)) == []


def test_the_edge_matters_where_routes_read_its_stamp() -> None:
    these = changed(
        put("distribution", "defaultCacheBehavior", "functionAssociations", value=None),
        put("distribution", "defaultCacheBehavior", "cachePolicyId", value="658327ea-f89d-4fab-a63d-7e88639e58f6"),
        put("route", "spec", "http", 0, "match", value=[{"headers": {"x-canary": {"exact": "true"}}}]),
    )
    assert said(declared(these)) == []


def test_a_route_inside_the_mesh_alone_is_not_compared_with_the_edge() -> None:
    these = changed(
        put("route", "spec", "gateways", value=["mesh"]),
        put("keys", "resourceKeyValuePairs", 1, "value", value='{"buckets":500}'),
    )
    assert said(declared(these)) == []


def test_a_door_that_is_open_while_names_move_is_told_and_not_refused() -> None:
    (one,) = said(declared(without(changed(), "door")))
    assert (one.policy, one.refused) == ("way-down-first", False)
    assert "edge-origin: no AuthorizationPolicy turns away what has no x-origin-secret" in one.text


def test_the_pods_that_flagger_keeps_for_serving_are_those_a_budget_is_for() -> None:
    these = changed(put("budget", "spec", "selector", "matchLabels", value={"app": "web-stable-primary"}), edge=False)
    these = without(these, "canary", "route", "rule")
    assert [one.policy for one in said(declared(these))] == ["disruption-budgets"]
    these["flagger"] = (FLAGGED, {"spec": {"targetRef": {"kind": "Deployment", "name": "web-stable"}}})
    assert said(declared(these)) == []


# --- our own stacks ---


@pytest.mark.parametrize("stack", STACKS)
def test_our_own_stacks_break_no_policy(stack: str) -> None:
    run = program.run(program.stack_config(stack))
    found = said(policy_pack.of_run(run, stack))
    # The files name no place for the edge's log: it has to be made first.
    assert [(one.policy, one.refused) for one in found] == ([("edge-log", False)] if stack in ("prod", "lab") else [])


def test_every_mandatory_policy_has_something_to_look_at_in_our_own_stacks() -> None:
    runs = [program.run(program.stack_config(stack)) for stack in ("prod", "train")]
    kinds = {facts.kind_of(one.type) for run in runs for one in run.resources} | {"Stack"}
    assert all(kinds & set(rule.kinds) for rule in facts.RULES)


# --- other people's routes ---


SAYS = {"missing-subset": ["known-subsets"], "no-default-route": ["catch-all-last"]}


def _shared() -> dict[str, golden.Case]:
    folder = golden.shared_folder()
    return golden.folder_cases(folder) if folder else {}


@pytest.mark.parametrize("name", golden.CASES)
def test_of_the_recorded_routes_those_are_refused_that_lose_requests(name: str) -> None:
    for found in (golden.compact_cases(), _shared()):
        if name in found:
            assert [one.policy for one in said(policy_pack.of_manifests(found[name].manifests))] == SAYS.get(name, [])


QA = "      match:\n      - headers:\n          x-canary: {exact: 'true'}\n"
PATH = "match: [{uri: {prefix: /a}}]\n      name: default"
CART = "sourceLabels: {app: cart}"

# By what is broken: case, text in its manifests, what stands there instead, which policies refuse.
VARIANTS: dict[str, tuple[str, str, str, list[str]]] = {
    "weights of two tracks that sum to 110": ("weight-5", "weight: 95", "weight: 105", ["route-weights"]),
    "weights that count as parts of ten": ("weight-50", "weight: 50", "weight: 5", ["route-weights"]),
    "a weight left out": ("weight-5", "weight: 95", "mirrored: true", ["route-weights"]),
    "a subset with a typing error": ("header-canary", "subset: canary\n", "subset: canray\n", []),
    "the same in what is split": ("weight-5", "subset: canary\n", "subset: canray\n", ["known-subsets"]),
    "a split for one path only": ("weight-5", "name: default", PATH, ["catch-all-last"]),
    "callers told apart by labels": ("attributes", "method: {exact: POST}", CART, ["no-silent-match"]),
    "a split without a limit": ("weight-5", "timeout: 10s", "mirrored: true", ["explicit-routes"]),
    "a split without a name": ("weight-5", "name: default", "mirrored: true", ["explicit-routes"]),
    "two routes of one name": ("blue-green-header", "name: blue", "name: green", ["explicit-routes"]),
    "rules after the route for all": ("blue-green-header", QA, "", ["catch-all-last"]),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_of_broken_variants_each_policy_refuses_its_own(what: str) -> None:
    name, part, instead, policies = VARIANTS[what]
    text = (golden.HERE / f"{name}.yaml").read_text().partition("answers:")[0]
    assert part in text
    manifests = yaml.safe_load(text.replace(part, instead))["manifests"]
    assert sorted({one.policy for one in refused(policy_pack.of_manifests(manifests))}) == policies
    if not policies:  # at rest: canary's own faults are told
        assert {one.policy for one in said(policy_pack.of_manifests(manifests))} == {"way-down-first"}


# --- ways down ---


def _web(weight: int, **more: Any) -> dict[str, Any]:
    config = program.stack_config("prod")
    config["canary:services"]["web"]["canary"] |= more.pop("canary", {})
    return config | {"canary:weight": weight} | {f"canary:{key}": value for key, value in more.items()}


def _after(*configs: dict[str, Any]) -> program.Run:
    run = program.run(configs[0])
    for config in configs[1:]:
        run = program.run(config, recorded=program.recorded_from(run))
    return run


def _spoilt(run: program.Run) -> Any:
    """The resources of `run`, with a fault for every policy that looks at one."""
    resources = policy_pack.of_run(run)
    for one in resources:
        props = json.loads(json.dumps(one.props, default=lambda value: value["__target"]))
        if one.resource_type.endswith(":Deployment"):
            container = props["spec"]["template"]["spec"]["containers"][0]
            container["image"] = "web:latest"
            del container["readinessProbe"]
        if one.resource_type.endswith(":VirtualService"):
            for route in props["spec"]["http"]:
                del route["timeout"]
                route["route"][0]["weight"] = 7
            props["spec"]["http"].append({"name": "late"})
        if one.resource_type.endswith(":Distribution"):
            props["defaultCacheBehavior"] = {"viewerProtocolPolicy": "allow-all"}
            props["viewerCertificate"] = {}
            del props["origins"][0]["customHeaders"]
        if one.resource_type.endswith(":Release"):
            props["version"] = "latest"
        if one.resource_type.endswith(":Namespace"):
            props["metadata"].setdefault("labels", {})["istio-injection"] = "enabled"
        one.props = unknown_checking_proxy(props)
    return [one for one in resources if not one.resource_type.endswith((":PodDisruptionBudget", "/v1:Gateway"))]


SPOILT = {
    "route-weights", "catch-all-last", "explicit-routes", "waypoint-for-routes", "pinned-images", "readiness-probes",
    "no-sidecars", "pinned-istio", "disruption-budgets", "edge-https", "edge-tls", "edge-function", "edge-cache-key",
    "edge-origin",
}  # fmt: skip


def test_a_rise_of_the_spoilt_stack_is_refused_by_all_that_it_breaks() -> None:
    run = _after(_web(0), _web(5))
    assert {one.policy for one in refused(_spoilt(run))} >= SPOILT


@pytest.mark.parametrize(
    "down",
    [
        _web(0),
        _web(5, halted=True),
        _web(5, steps=[5, 100]) | {"canary:weight": 0},
    ],
    ids=["weight 0", "halted", "weight 0 with another ladder"],
)
def test_nothing_stops_a_way_down_whatever_is_wrong(down: dict[str, Any]) -> None:
    found = said(_spoilt(_after(_web(0), _web(5), down)))
    assert [one for one in found if one.refused] == []
    told = {one.text.partition(":")[0] for one in found if one.policy == "way-down-first"}
    # Where canary is halted no route reads a stamp.
    assert SPOILT - told <= {"edge-function", "edge-cache-key"}, "what would be refused is told"


def test_nothing_stops_a_lower_weight_either_nor_the_end_of_a_canary() -> None:
    up = [_web(weight, steps=[{"weight": 5, "hold": 0}, {"weight": 50, "hold": 0}]) for weight in (0, 5, 50)]
    lower, gone = copy.deepcopy(up[1]), copy.deepcopy(up[0])
    del gone["canary:services"]["web"]["canary"]
    for down in (lower, gone):
        assert refused(_spoilt(_after(*up, down))) == []


def test_at_weight_0_canarys_faults_are_told_and_not_refused_and_those_of_others_are() -> None:
    at_rest = put("route", *SPLIT, "route", 0, "weight", value=100), put("route", *SPLIT, "route", 1, "weight", value=0)
    faults = (
        put("canary", *POD, "image", value="sample-web:2.0"),
        put("canary", *POD, "readinessProbe", value=None),
        put("rule", "spec", "subsets", 1, "labels", value={"version": "next"}),
    )
    found = said(declared(changed(*at_rest, *faults, edge=False)))
    assert {one.policy for one in found} == {"pinned-images", "readiness-probes", "way-down-first"}
    faults = (*faults[:2], put("route", "spec", "http", 0, "route", 0, "destination", "subset", value="beta"))
    found = said(declared(changed(*at_rest, *faults, edge=False)))
    assert {one.policy for one in found} == {"way-down-first"}
    assert {one.text.partition(":")[0] for one in found} == {"pinned-images", "readiness-probes", "known-subsets"}


def test_at_weight_0_what_renders_the_stable_route_is_refused_all_the_same() -> None:
    at_rest = put("route", *SPLIT, "route", value=[{"destination": {"host": cases.HOST, "subset": "steady"}}])
    assert [one.policy for one in refused(declared(changed(at_rest, edge=False)))] == ["known-subsets"]
    rest = put("route", *SPLIT, "route", 0, "weight", value=100), put("route", *SPLIT, "route", 1, "weight", value=0)
    cut = put("route", "spec", "http", 0, "match", value=[{}])
    assert [one.policy for one in refused(declared(changed(*rest, cut, edge=False)))] == ["catch-all-last"]


def test_a_split_whose_other_weights_are_0_may_sum_to_anything_since_nobody_meets_canary() -> None:
    down = put("route", *SPLIT, "route", 1, "weight", value=0)
    found = said(declared(changed(down, edge=False)))
    assert [one.policy for one in found] == ["way-down-first"]
    assert "route-weights: route default: weights must sum to 100, got 90 + 0 = 90" in found[0].text


def test_at_100_nothing_is_at_rest() -> None:
    full = put("route", *SPLIT, "route", 0, "weight", value=0), put("route", *SPLIT, "route", 1, "weight", value=100)
    found = refused(declared(changed(*full, put("canary", *POD, "readinessProbe", value=None), edge=False)))
    assert [one.policy for one in found] == ["readiness-probes"]


def test_an_edge_that_lags_behind_a_revert_is_told() -> None:
    down = put("route", *SPLIT, "route", 0, "weight", value=100), put("route", *SPLIT, "route", 1, "weight", value=0)
    (one,) = said(declared(changed(*down)))
    assert (one.policy, one.refused) == ("way-down-first", False)
    assert "edge-follows-mesh: 0 % at foreign/web and 10 % at the edge" in one.text


def test_without_a_mesh_too_a_way_down_is_free_and_a_rise_is_not() -> None:
    def at(weight: int) -> dict[str, Any]:
        return program.stack_config("replicas") | {"canary:weight": weight}

    def spoilt(run: program.Run) -> list[Said]:
        return refused(_spoilt(run))

    alone = at(0)
    del alone["canary:services"]["web-app"]["canary"]
    first = _after(alone)
    assert {one.policy for one in spoilt(first)} >= {"pinned-images", "readiness-probes", "disruption-budgets"}
    assert spoilt(_after(at(0), at(5)))
    assert spoilt(_after(at(0), at(5), at(0))) == []


# --- the pack as a whole ---


def test_policies_are_named_and_described_as_users_meet_them() -> None:
    for policy in pack.POLICIES:
        assert policy.name == policy.name.lower()
        assert policy.description.endswith(".")
        assert "\n" not in policy.description
        assert len(policy.description) <= 100
    assert len({policy.name for policy in pack.POLICIES}) == len(pack.POLICIES)


def test_the_server_that_reads_once_says_what_the_sdks_own_says() -> None:
    """The pack replaces a method of the SDK to save time, and only time."""
    from google.protobuf.struct_pb2 import Struct
    from pulumi.runtime import proto
    from pulumi_policy import policy as sdk

    these = changed(
        *(found[0][0] for name, found in BROKEN.items() if name in ("route-weights", "edge-tls", "edge-log"))
    )
    _unknown(these, "stable", (*POD, "image"))
    request = proto.AnalyzeStackRequest()
    for name, (kind, props) in these.items():
        values = Struct()
        values.update(props)
        request.resources.add(urn=f"urn:pulumi:prod::p::{kind}::{name}", type=kind, name=name, properties=values)
    answers = [
        server("canary", "0.1.0", [*pack.POLICIES], pack.ADVISORY).AnalyzeStack(request, None)  # type: ignore[no-untyped-call]
        for server in (sdk._PolicyAnalyzerServicer, pack._ReadingOnce)
    ]
    assert answers[0] == answers[1]
    assert {one.policyName for one in answers[0].diagnostics} == {
        "route-weights",
        "edge-tls",
        "edge-log",
        "not-checked",
    }


def test_the_folder_is_all_that_the_pack_needs(tmp_path: Path) -> None:
    """A published pack is its folder, under whatever name."""
    folder = tmp_path / "pulumi-analyzer-canary-v0.1.0"
    shutil.copytree(program.ROOT / "policies", folder, ignore=shutil.ignore_patterns(".venv*", "__pycache__"))
    assert (folder / "requirements.txt").read_text() == "pulumi-policy==1.21.0\n"
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.policy", "127.0.0.1:1", str(folder)],
        cwd=folder,
        env={"PATH": "/usr/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        import grpc
        from google.protobuf import empty_pb2
        from pulumi.runtime.proto import analyzer_pb2_grpc

        assert process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            info = analyzer_pb2_grpc.AnalyzerStub(channel).GetAnalyzerInfo(empty_pb2.Empty(), timeout=30)
        assert [one.name for one in info.policies] == [policy.name for policy in pack.POLICIES]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def document() -> str:
    """The policies in Markdown."""
    lines = [
        (program.ROOT / "tests" / "policies.md").read_text().rstrip(),
        "",
        "| policy | | rule | settings |",
        "|---|---|---|---|",
    ]
    for policy in pack.POLICIES:
        level = "**refuses**" if policy.enforcement_level is pack.MANDATORY else "tells"
        schema = policy.config_schema.properties if policy.config_schema else {}
        keys = ", ".join(f"`{key}`: {json.dumps(one['default'])}" for key, one in schema.items())
        lines.append(f"| `{policy.name}` | {level} | {policy.description} | {keys} |")
    return "\n".join([*lines, ""])


def test_the_document_is_current(update_golden: bool) -> None:
    path = program.ROOT / "docs" / "policies.md"
    if update_golden:
        path.write_text(document())
    assert path.read_text() == document(), "if the difference is meant: make golden"
