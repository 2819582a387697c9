"""Strategy `flagger`: what Flagger is told, and what its stacks may not say."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from core import canaries, checks
from tests import program

REFUSED: list[tuple[str, Any, str]] = [
    ("weight", 5, "canary:weight: got 5: is Flagger's to decide"),
    ("halted", True, "canary:halted: got True: is Flagger's to decide"),
    ("hold", "year end", "canary:hold: got 'year end': is Flagger's to decide"),
    ("steps", [5, 50], "canary:steps: got 'settings': is Flagger's to decide"),
    ("windows", {"raise": "Mon-Thu 09:00-16:00 Europe/Berlin"}, "canary:windows: got 'settings': is Flagger's"),
    ("rejected", ["web:2.0"], "canary:rejected: got 'settings': is Flagger's to decide"),
    ("services.web.canary", {"image": "web:2.0"}, "services.web.canary: got 'web:2.0': is made by Flagger"),
    ("services.web.rules", [{"name": "qa", "users": ["1"]}], "services.web.rules: got ['qa']: would need a route"),
    ("services.web.flagger", {"interval": "5s"}, "flagger.interval: got '5s': input should be greater than or equal"),
    ("services.web.flagger", {"stepWeights": [50, 20]}, "stepWeights has to rise from 1 or more to at most 100"),
    ("services.web.flagger", {"stepWeights": [20, 50], "stepWeight": 5}, "drop stepWeight and maxWeight"),
    ("services.web.flagger", {"stepWeight": 60}, "stepWeight 60 is more than maxWeight 50"),
    ("services.web.flagger", {"successRate": 101}, "flagger.successRate: got 101"),
]


def _raw(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {"strategy": "flagger", "services": {"web": {"stable": {"image": "web:1.0"}}}}
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = raw
        for part in parents:
            at = at[part]
        at[last] = value
    return raw


def _checked(spec: Any) -> dict[str, Any]:
    """What the analysis says, in the words of its settings."""
    analysis = spec["analysis"]
    metrics = {one["templateRef"]["name"]: one for one in analysis["metrics"]}
    assert {one["interval"] for one in metrics.values()} == {"1m"}
    return {key: analysis[key] for key in ("interval", "threshold", "maxWeight", "stepWeight")} | {
        "success": metrics["request-success-rate"]["thresholdRange"],
        "duration": metrics["request-duration"]["thresholdRange"],
    }


def test_web_app_is_rolled_out_by_five_percent_a_minute_up_to_half() -> None:
    run = program.run(program.stack_config("flagger-web-app"))
    spec = run.spec("Canary", "web-app-canary")
    assert spec["targetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-app"}
    wanted = {"interval": "1m", "threshold": 5, "maxWeight": 50, "stepWeight": 5}
    assert _checked(spec) == wanted | {"success": {"min": 99}, "duration": {"max": 500}}
    assert spec["service"]["gateways"] == ["istio-ingress/public", "mesh"]
    assert spec["service"]["hosts"] == ["shop.example.com"]
    assert "webhooks" not in spec["analysis"]


def test_payment_service_is_rolled_out_under_load_of_its_own() -> None:
    run = program.run(program.stack_config("flagger-payment-service"))
    spec = run.spec("Canary", "payment-service-canary")
    wanted = {"interval": "2m", "threshold": 3, "maxWeight": 50, "stepWeight": 10}
    assert _checked(spec) == wanted | {"success": {"min": 99.5}, "duration": {"max": 1000}}
    (hook,) = spec["analysis"]["webhooks"]
    assert hook["url"] == "http://flagger-loadtester.shop/"
    assert hook["metadata"]["cmd"].startswith("hey -z 1m -q 10 -c 2 http://payment-service-canary.shop")
    assert spec["service"]["gateways"] == ["mesh"]


def test_the_load_tester_is_installed_where_a_service_asks_for_load() -> None:
    with_load = program.run(program.stack_config("flagger-payment-service")).of("Release")
    without = program.run(program.stack_config("flagger-web-app")).of("Release")
    assert set(with_load) - set(without) == {"flagger-loadtester"}
    assert with_load["flagger-loadtester"].inputs["namespace"] == "shop", "outside the mesh nobody counts"


def test_nothing_that_flagger_writes_is_written_here() -> None:
    run = program.run(program.stack_config("flagger-web-app"))
    kinds = {one.type.rpartition(":")[2] for one in run.resources}
    assert {"Deployment", "Canary", "MetricTemplate"} <= kinds
    assert not {"Service", "VirtualService", "DestinationRule"} & kinds
    assert set(run.of("Deployment")) == {"web-app"}


def test_the_queries_ask_for_what_ambient_reports() -> None:
    settings, _ = checks.parse(_raw())
    for spec in canaries.metric_templates(settings).values():
        assert 'reporter=~"source|waypoint"' in spec["query"]
        assert 'destination_workload="{{ target }}"' in spec["query"]
        assert "[{{ interval }}]" in spec["query"]
        assert spec["provider"] == {"type": "prometheus", "address": settings.gate.prometheus}


def test_no_metric_bears_a_name_under_which_flagger_would_run_its_own_query() -> None:
    settings, _ = checks.parse(_raw())
    names = {one["name"] for one in canaries.canary_spec(settings, "web")["analysis"]["metrics"]}
    assert len(names) == 2
    assert not names & {"request-success-rate", "request-duration"}


def test_the_targets_pods_are_selected_by_what_flagger_changes_for_the_primary() -> None:
    settings, _ = checks.parse(_raw())
    spec = canaries.deployment_spec(settings, "web")
    assert spec["selector"] == {"matchLabels": {"app": "web"}}
    assert spec["template"]["metadata"]["labels"]["app"] == "web"
    assert "version" not in str(spec), "the primary would carry the same"


def test_an_autoscaler_scales_the_target_and_is_named_to_flagger_which_makes_the_primarys_like_it() -> None:
    settings, _ = checks.parse(_raw(**{"services.web.autoscale": {"min": 2, "max": 6}}))
    scaler = canaries.autoscaler_spec(settings, "web")
    assert scaler and (scaler["scaleTargetRef"]["name"], scaler["minReplicas"], scaler["maxReplicas"]) == ("web", 2, 6)
    named = canaries.canary_spec(settings, "web")["autoscalerRef"]
    assert (named["kind"], named["name"]) == ("HorizontalPodAutoscaler", "web")


def test_the_budget_for_disruptions_is_the_primarys_which_serves() -> None:
    settings, _ = checks.parse(_raw())
    budget = canaries.disruption_spec(settings, "web")
    assert budget and budget["selector"] == {"matchLabels": {"app": "web-primary"}}


def test_the_lock_on_the_doors_holds_for_the_primary_too() -> None:
    run = program.run(program.stack_config("flagger-web-app"))
    (policy,) = run.of("AuthorizationPolicy").values()
    chosen = policy.inputs["spec"]["selector"]["matchLabels"]
    pods = run.spec("Deployment", "web-app")["template"]["metadata"]["labels"]
    assert chosen.items() <= pods.items()
    assert "app" not in chosen, "Flagger gives the primary's pods another"


def test_a_list_of_steps_takes_the_place_of_an_even_step() -> None:
    settings, _ = checks.parse(_raw(**{"services.web.flagger": {"stepWeights": [20, 50]}}))
    analysis = canaries.canary_spec(settings, "web")["analysis"]
    assert analysis["stepWeights"] == [20, 50]
    assert not {"stepWeight", "maxWeight"} & analysis.keys(), "Flagger would prefer the even step"


@pytest.mark.parametrize(("path", "value", "told"), REFUSED, ids=[f"{case[0]} {case[1]}" for case in REFUSED])
def test_what_is_flaggers_is_refused_with_key_value_and_fix(path: str, value: Any, told: str) -> None:
    with pytest.raises(checks.SettingsError) as caught:
        checks.parse(_raw(**{path: value}))
    assert told in str(caught.value)


def test_flaggers_settings_are_refused_with_another_strategy() -> None:
    with pytest.raises(checks.SettingsError, match=r"services\.web\.flagger: .* is for strategy flagger, not istio"):
        checks.parse(_raw(strategy="istio", **{"services.web.flagger": {"threshold": 2}}))


def test_a_stack_that_has_routes_of_its_own_does_not_change_to_flagger() -> None:
    config = program.stack_config("lab", edge=False)
    recorded = program.recorded_from(program.run(config))
    service = {key: value for key, value in config["canary:services"]["web"].items() if key != "rules"}
    wanted = {key: value for key, value in config.items() if key not in ("canary:weight", "canary:steps")}
    wanted |= {"canary:strategy": "flagger", "canary:services": {"web": service}}
    assert program.run(wanted).of("Canary"), "as a new stack it is all right"
    with pytest.raises(pulumi.RunError, match="the route of web itself"):
        program.run(wanted, recorded=recorded)
