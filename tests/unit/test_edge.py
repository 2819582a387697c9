"""The edge in the settings, in the transition rules and in the program."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pytest

from core import checks, edge, evaluate, record, routes
from core.model import Settings
from policies import weights
from tests import program
from tests.edge.conftest import raw

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(config)
    return str(caught.value)


def parsed(config: dict[str, Any]) -> Settings:
    settings, warnings = checks.parse(config)
    assert warnings == []
    return settings


def changed(config: dict[str, Any], **top: Any) -> dict[str, Any]:
    return copy.deepcopy(config) | top


# --- settings ---

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no CIDR": ({"greenCidrs": ["office"]}, "canary:edge.greenCidrs[0]: got 'office'", "write it as 203.0.113.0/24"),
    "host bits": ({"blueCidrs": ["10.0.0.1/8"]}, "canary:edge.blueCidrs[0]: got '10.0.0.1/8'", "write 10.0.0.0/8"),
    "too wide": ({"greenCidrs": ["10.0.0.0/7"]}, "canary:edge.greenCidrs[0]: got '10.0.0.0/7'", "wider than /8"),
    "too wide, IPv6": ({"greenCidrs": ["2000::/15"]}, "canary:edge.greenCidrs[0]: got '2000::/15'", "wider than /16"),
    "too wide, mapped": ({"greenCidrs": ["::ffff:0:0/96"]}, "canary:edge.greenCidrs[0]: got", "wider than /8"),
    "overlap": (
        {"greenCidrs": ["192.0.2.0/24", "203.0.113.0/24"], "blueCidrs": ["203.0.113.64/26"]},
        "canary:edge.greenCidrs[1]: got '203.0.113.0/24'",
        "overlaps 203.0.113.64/26 of blueCidrs",
    ),
    "certificate elsewhere": (
        {"certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1"},
        "canary:edge.certificateArn: got 'arn:aws:acm:eu-west-1:123456789012:certificate/1'",
        "us-east-1",
    ),
    "firewall elsewhere": (
        {"wafArn": "arn:aws:wafv2:eu-west-1:123456789012:global/webacl/a/1"},
        "canary:edge.wafArn: got",
        "us-east-1",
    ),
    "an alias without a service": (
        {"aliases": ["shop.lab.test", "other.lab.test"]},
        "canary:edge.aliases[1]: got 'other.lab.test'",
        "services.<name>.hosts",
    ),
    "unknown key": ({"greenCidr": []}, "canary:edge.greenCidr: got []", "did you mean greenCidrs?"),
    "no alias": ({"aliases": []}, "canary:edge.aliases: got []", "at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_refused_with_key_value_and_fix(kind: str) -> None:
    part, where, fix = BAD[kind]
    line = refused(raw(5, **part))
    assert line.startswith(where)
    assert fix in line
    assert "\n" not in line


@pytest.mark.parametrize("stop", [{"weight": 0}, {"halted": True}])
@pytest.mark.parametrize("kind", [kind for kind, (part, *_) in BAD.items() if {"greenCidrs", "blueCidrs"} & set(part)])
def test_a_list_that_is_wrong_does_not_stop_a_revert(kind: str, stop: dict[str, Any]) -> None:
    settings, warnings = checks.parse(changed(raw(5, **BAD[kind][0]), **stop))
    assert settings.effective_weight == 0
    assert len(warnings) == 1
    assert BAD[kind][1] in warnings[0]


def test_rules_that_make_the_function_too_big_are_refused_in_preview_and_do_not_stop_a_revert() -> None:
    config = raw(5)
    rules = [{"name": f"r{n}", "headers": {f"x-a-rather-long-name-of-a-header-{n}": "1"}} for n in range(150)]
    config["services"]["web"]["rules"] = rules
    line = refused(config)
    assert line.startswith("canary:services.web.rules: got '150 headers to remove': make the function of the edge ")
    assert "10240 fit; use fewer" in line
    settings, (warning,) = checks.parse(changed(config, weight=0))
    assert settings.services["web"].rules == []
    assert "make the function of the edge" in warning
    config["services"]["web"]["rules"] = rules[:50]
    assert checks.parse(config)[1] == []


@pytest.mark.parametrize("weight", ["2.5", 2.5, 101, -1])
def test_a_weight_that_is_no_whole_number_is_refused(weight: Any) -> None:
    assert f"canary:weight: got {weight!r}" in refused(changed(raw(5), weight=weight))


@pytest.mark.parametrize("secret", [None, "short", "with spaces in it, and so on", "*aaaaaaaaaaaaaaaaaaaaaaa"])
def test_the_origin_secret_has_to_be_there_and_strong_and_is_never_shown(secret: str | None) -> None:
    config = changed(raw(5), originSecret=secret)
    if secret is None:
        del config["originSecret"]
    line = refused(config)
    shown = "nothing" if secret is None else "'(secret)'"
    assert line.startswith(f"canary:originSecret: got {shown}: ")
    assert secret is None or secret not in line
    assert program.ORIGIN_SECRET not in repr(parsed(changed(raw(5), originSecret=program.ORIGIN_SECRET)))


def test_a_host_past_the_edge_is_refused_unless_the_gateway_takes_it() -> None:
    config = raw(5)
    config["services"]["web"]["hosts"].append("other.lab.test")
    assert "canary:services.web.hosts[1]: got 'other.lab.test'" in refused(config)
    config["edge"]["requireSecret"] = False
    assert parsed(config)


def test_a_rule_on_a_header_that_no_function_can_remove_has_to_be_trusted() -> None:
    config = raw(5)
    config["services"]["web"]["rules"] = [{"name": "via", "headers": {"via": {"prefix": "2.0"}}}]
    assert "canary:services.web.rules[0].headers: got 'via'" in refused(config)
    config["edge"]["trustHeaders"] = ["Via"]
    assert parsed(config)


def test_a_list_that_outgrows_a_value_is_refused_and_the_line_says_how_many_fit() -> None:
    networks = [str(IPv4Network((0xCB000000 + 2 * 256 * number, 24))) for number in range(200)]
    line = refused(raw(5, greenCidrs=networks))
    assert line.startswith("canary:edge.greenCidrs: got '200 CIDRs'")
    fit = int(line.partition("the first ")[2].partition(" fit")[0])
    assert 100 < fit < 200
    settings = parsed(raw(5, greenCidrs=networks[:fit]))
    assert settings.edge is not None
    size = len(edge.values(settings, settings.edge)["green_cidrs"])
    assert edge.LONGEST_VALUE - 8 < size <= edge.LONGEST_VALUE
    assert f"the first {fit} fit" in refused(raw(5, greenCidrs=networks[: fit + 1]))


def test_rule_headers_that_are_not_trusted_are_those_that_the_function_removes() -> None:
    settings = parsed(raw(5, trustHeaders=["X-CANARY", "x-unused"]))
    assert settings.edge is not None
    assert 'const REMOVED = ["user-id"];' in edge.code("viewer-request", settings, settings.edge)


# --- the store ---


def values(**config: Any) -> dict[str, str]:
    settings = parsed(changed(raw(5, greenCidrs=["203.0.113.0/24"]), **config))
    assert settings.edge is not None
    return edge.values(settings, settings.edge)


def test_the_store_has_the_three_keys_and_one_value_says_how_many_are_green() -> None:
    found = values(weight=25)
    assert set(found) == {"blue_cidrs", "green_cidrs", "green_percentage"}
    state = json.loads(found["green_percentage"])
    assert (state["buckets"], state["halted"]) == (2500, False)
    assert found["green_cidrs"] == f"4cb0071 @{state['generation']}"
    assert found["blue_cidrs"] == f"@{state['generation']}"


def test_another_content_is_another_generation_and_the_same_is_the_same() -> None:
    assert values(weight=25) == values(weight=25)
    several = [values(weight=5), values(weight=10), values(halted=True), values(edge=raw(5)["edge"])]
    assert len({json.loads(one["green_percentage"])["generation"] for one in several}) == 4


def test_halted_and_weight_0_have_no_green_bucket() -> None:
    for found in (values(halted=True), values(weight=0)):
        assert json.loads(found["green_percentage"])["buckets"] == 0


# --- transition rules ---


def transition(before: dict[str, Any], after: dict[str, Any]) -> tuple[weights.Route, weights.Route]:
    """(recorded, wanted): what was written is read back from its annotations, as the program does."""
    old = parsed(before)
    first = record.wanted("web", old)
    notes = record.notes(None, first, configured=old.weight, now=NOW, cluster=None) | record.edge_notes("web", old)
    spec = routes.virtual_service_spec("web", old)
    entry = record.read({"metadata": {"annotations": notes}, "spec": spec}, None)
    assert entry is not None
    return entry.route, record.wanted("web", parsed(after), entry.route)


def lists(
    weight: int = 5, green: list[str] | None = None, blue: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    return raw(weight, greenCidrs=green or [], blueCidrs=blue or [], **more)


def bare(weight: int = 5, **edge: Any) -> dict[str, Any]:
    """Without rules, so that nothing but the weight and the lists leads to canary."""
    config = lists(weight, **edge)
    del config["services"]["web"]["rules"]
    return config


CASES: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("the same", lists(green=["203.0.113.0/24"]), lists(green=["203.0.113.0/24"]), False),
    ("added", lists(), lists(green=["203.0.113.0/24"]), True),
    ("widened", lists(green=["203.0.113.0/25"]), lists(green=["203.0.113.0/24"]), True),
    ("narrowed", lists(green=["203.0.113.0/24"]), lists(green=["203.0.113.0/25"]), False),
    ("taken away", lists(green=["203.0.113.0/24"]), lists(), False),
    ("widened at weight 0", lists(0, green=["203.0.113.0/25"]), lists(0, green=["203.0.113.0/24"]), True),
    ("reverted and widened", lists(5, green=["203.0.113.0/25"]), lists(0, green=["203.0.113.0/24"]), False),
    ("halted and widened", lists(5), changed(lists(5, green=["203.0.113.0/24"]), halted=True), False),
    ("fewer are kept away", lists(blue=["198.51.100.0/24"]), lists(blue=["198.51.100.0/25"]), True),
    ("fewer, beside the weight alone", bare(blue=["198.51.100.0/24"]), bare(), True),
    ("fewer, with no way to canary", bare(0, blue=["198.51.100.0/24"]), bare(0), False),
    ("reverted, and fewer", bare(blue=["198.51.100.0/24"]), bare(0), False),
    ("more are kept away", lists(blue=["198.51.100.0/25"]), lists(blue=["198.51.100.0/24"]), False),
    ("a header is trusted", lists(), lists(trustHeaders=["x-canary"]), True),
    ("one that no rule reads is", lists(), lists(trustHeaders=["x-other"]), False),
    ("one is trusted no more", lists(trustHeaders=["x-canary"]), lists(), False),
]


@pytest.mark.parametrize(("before", "after", "rise"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_green_list_that_is_wider_is_a_rise_and_a_narrower_one_is_none(
    before: dict[str, Any], after: dict[str, Any], rise: bool
) -> None:
    old, new = transition(before, after)
    assert weights.rises(old, new) is rise
    assert bool(weights.refusals(old, new, now=NOW, hold="lunch")) is rise


def test_a_stack_without_an_edge_writes_nothing_of_it() -> None:
    config = raw(5)
    del config["edge"]
    settings = parsed(config)
    assert record.edge_notes("web", settings) == {}
    assert not edge.opened("web", settings)


# --- the program ---


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    return {f"canary:{key}": value for key, value in config.items()}


def ran(config: dict[str, Any], recorded: program.Run | None = None) -> program.Run:
    known = program.recorded_from(recorded) if recorded else None
    return program.run(settings_of(config), recorded=known)


EVEN = {"steps": [{"weight": 5, "hold": "0s"}, {"weight": 10, "hold": "0s"}, {"weight": 100, "hold": "0s"}]}


def test_a_step_changes_the_route_and_the_keys_and_nothing_else() -> None:
    first = ran(changed(raw(5), **EVEN))
    second = ran(changed(raw(10), **EVEN), first)
    before = {(one.type, one.name): one.inputs for one in first.resources}
    different = {name for (kind, name), inputs in before.items() for one in second.resources
                 if (one.type, one.name) == (kind, name) and one.inputs != inputs}  # fmt: skip
    assert different == {"web-vs", "edge-keys"}
    assert before.keys() == {(one.type, one.name) for one in second.resources}


@pytest.mark.parametrize("weight", [0, 5, 10])
def test_keys_are_written_after_the_route_on_the_way_up_and_on_the_way_down(weight: int) -> None:
    first = ran(changed(raw(5), **EVEN))
    run = ran(changed(raw(weight), **EVEN), first)
    keys = run.of("KeyvaluestoreKeysExclusive")["edge-keys"]
    assert "web-vs" in keys.depends_on
    route = run.of("VirtualService")["web-vs"]
    assert not any(name.startswith("edge-keys") for name in route.depends_on)
    waits = "edge-viewer-request" in route.depends_on
    assert waits == (weight > 5), "only a rise waits for the functions: nothing comes between an operator and weight 0"
    canary = run.of("Deployment")["web-canary"]
    assert ("edge-keys" in canary.depends_on) == (weight < 5)


def test_all_keys_are_one_resource_and_so_one_request() -> None:
    run = ran(raw(5))
    assert len(run.of("KeyvaluestoreKeysExclusive")) == 1
    assert not run.of("KeyvaluestoreKey")


def test_both_functions_are_published_and_on_every_behavior() -> None:
    run = ran(raw(5))
    assert all(one.inputs["publish"] is True for one in run.of("Function").values())
    inputs = run.of("Distribution")["edge-distribution"].inputs
    for behavior in [inputs["defaultCacheBehavior"], *inputs.get("orderedCacheBehaviors", [])]:
        assert [one["eventType"] for one in behavior["functionAssociations"]] == ["viewer-request", "viewer-response"]


def test_the_cache_tells_apart_whatever_routes_read() -> None:
    config = raw(5, trustHeaders=["x-canary", "user-id"])
    settings = parsed(config)
    policy = ran(config).of("CachePolicy")["edge-cache"].inputs["parametersInCacheKeyAndForwardedToOrigin"]
    key = set(policy["headersConfig"]["headers"]["items"])
    read = {name for one in routes.virtual_service_spec("web", settings)["http"] for match in one.get("match", [])
            for name in match.get("headers", {})}  # fmt: skip
    assert {"x-deployment", "x-deployment-reason", "x-canary", "user-id"} == read
    assert read < key
    assert policy["cookiesConfig"] == {"cookieBehavior": "allExcept", "cookies": {"items": [edge.COOKIE]}}
    assert policy["queryStringsConfig"] == {"queryStringBehavior": "all"}


def test_the_gateway_turns_away_who_does_not_show_the_secret_and_takes_two_while_one_is_replaced() -> None:
    config = changed(raw(5), originSecretBefore="origin-secret-of-yesterday")
    settings = parsed(config)
    spec = edge.door_spec(settings, [settings.origin_secret, settings.origin_secret_before])
    assert spec["action"] == "DENY"
    assert spec["rules"] == [{"when": [{
        "key": "request.headers[x-origin-secret]",
        "notValues": ["origin-secret-of-the-tests", "origin-secret-of-yesterday"],
    }]}]  # fmt: skip
    run = ran(config)
    door = run.of("AuthorizationPolicy")["edge-door"]
    assert door.inputs["metadata"] == {"name": "edge-only", "namespace": "istio-ingress"}
    distribution = run.of("Distribution")["edge-distribution"]
    assert "edge-door" in distribution.depends_on, "a new secret is sent when the gateway takes it"
    assert "origin-secret" not in json.dumps([one.inputs for one in run.resources]).replace("x-origin-secret", "")
    config["edge"]["requireSecret"] = False
    assert "edge-door" not in ran(config).of("AuthorizationPolicy")


def test_services_never_see_the_secret() -> None:
    for one in routes.virtual_service_spec("web", parsed(raw(5)))["http"]:
        assert one["headers"] == {"request": {"remove": [routes.ORIGIN_SECRET]}}


def test_the_origin_is_the_name_of_the_gateways_load_balancer_or_the_one_given() -> None:
    def origin(**part: Any) -> Any:
        return ran(raw(5, **part)).of("Distribution")["edge-distribution"].inputs["origins"][0]["domainName"]

    assert origin() == program.GATEWAY
    assert origin(origin="gateway.lab.test") == "gateway.lab.test"


def test_logs_have_what_the_function_says_of_a_request() -> None:
    run = ran(raw(5, logArn="arn:aws:s3:::logs"))
    assert "viewer-request-log-data" in run.of("LogDelivery")["edge-log"].inputs["recordFields"]
    assert not ran(raw(5)).of("LogDelivery")


def test_outputs_show_the_lists_as_written() -> None:
    run = ran(raw(5, greenCidrs=["203.0.113.0/25", "203.0.113.128/25"], blueCidrs=["::ffff:198.51.100.0/120"]))
    assert run.outputs["edge"]["greenCidrs"] == ["203.0.113.0/25", "203.0.113.128/25"]
    assert run.outputs["edge"]["blueCidrs"] == ["::ffff:198.51.100.0/120"]
    assert (run.outputs["edge"]["buckets"], run.outputs["edgeDomain"]) == (500, "d1.cloudfront.net")


def test_types_and_inputs_are_those_of_the_sdk() -> None:
    """The program does not import the SDK's classes, so this compares: every type, every input, at every depth."""
    run = ran(raw(5, logArn="arn:aws:s3:::logs", wafArn="arn:aws:wafv2:us-east-1:1:global/webacl/a/1"))
    kinds, seen = set(), set()
    for one in run.resources:
        if not one.type.startswith("aws:"):
            continue
        _, module, kind = one.type.split(":")
        cls = getattr(importlib.import_module(f"pulumi_aws.{module.partition('/')[0]}"), kind)
        assert inspect.getsource(cls).count(f"'{one.type}'"), one.type
        seen |= _compare(one.inputs, importlib.import_module(cls.__module__).__dict__[f"{kind}Args"], one.type)
        kinds.add(kind)
    assert kinds == {
        "KeyValueStore", "KeyvaluestoreKeysExclusive", "Function", "CachePolicy", "OriginRequestPolicy",
        "ResponseHeadersPolicy", "Distribution", "LogDeliverySource", "LogDeliveryDestination", "LogDelivery",
    }  # fmt: skip
    assert "aws:cloudfront/distribution:Distribution.defaultCacheBehavior.functionAssociations" in seen
    assert len(seen) > 25


def _compare(inputs: dict[str, Any], args: Any, where: str) -> set[str]:
    """Where it has looked; fails at an input that the SDK does not know, and at one that it wants and is not there."""
    getters = [getter.fget for _, getter in inspect.getmembers(args) if isinstance(getter, property)]
    known = {vars(getter)["_pulumi_name"]: getter.__name__ for getter in getters if getter is not None}
    parameters = dict(list(inspect.signature(args.__init__).parameters.items())[1:])
    required = {name for name, one in parameters.items() if one.default is one.empty}
    assert set(inputs) <= set(known), where
    assert required <= {known[name] for name in inputs}, where
    seen = {where}
    for name, value in inputs.items():
        inner = _inner(str(parameters[known[name]].annotation), args)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and inner is not None:
                seen |= _compare(one, inner, f"{where}.{name}")
    return seen


def _inner(annotation: str, args: Any) -> type | None:
    names = [word for word in annotation.replace("'", " ").replace('"', " ").replace("(", " ").replace(")", " ").split()
             if word.endswith("Args")]  # fmt: skip
    module = importlib.import_module(args.__module__)
    found = next((module.__dict__.get(name) for name in names), None)
    return found if isinstance(found, type) else None


def test_what_the_edge_stamps_is_what_the_routes_read() -> None:
    """Who the function calls green goes to canary, who it calls blue does not, at every weight."""
    for weight in (0, 5, 100):
        settings = parsed(raw(weight))
        for arm in ("green", "blue"):
            for reason in ("cidr", "bucket", "halted", "error"):
                sent = evaluate.Request(headers={"x-deployment": arm, "x-deployment-reason": reason})
                decision = evaluate.route(routes.virtual_service_spec("web", settings), sent)
                late = weight == 0 and reason == "bucket"
                assert decision.shares == {"canary" if arm == "green" and not late else "stable": 1.0}


def test_another_strategy_has_no_edge() -> None:
    config = changed(raw(5), strategy="flagger")
    assert "canary:edge: got 'flagger'" in refused(config)


def test_a_load_balancer_without_a_name_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GATEWAY", "")
    with pytest.raises(pulumi.RunError, match=r"canary:edge.origin: got nothing: .* make a DNS name"):
        ran(raw(5))
