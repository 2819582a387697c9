"""Alert rules: what fires, when, and with which words, judged by Prometheus' own promtool; rendering without it."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import alerts, checks, dashboard, promql
from core.model import Settings
from lab import parts
from tests import program

Json = dict[str, Any]
STACK = "prod"
needs_promtool = pytest.mark.lab  # the set-up of the lab brings promtool and amtool


def stack(**changes: Any) -> Settings:
    raw = checks.raw(program.stack_config(STACK), "canary")
    raw |= {"gate": {"errorRate": "1%", "p95": "500ms"}, "alerts": {"webhook": "http://rollout:9094/webhook"}}
    found, _ = checks.parse(raw | changes)
    return found


def tool(name: str) -> str:
    found = parts.find(name)
    assert found, f"{name} is not installed; `make setup` brings it"
    return str(found)


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DOORS = {
    "gateway": {
        "reporter": "source",
        "source_workload": "istio-ingressgateway",
        "source_workload_namespace": "istio-ingress",
    },
    "waypoint": {"reporter": "waypoint", "source_workload": "caller", "source_workload_namespace": "shop"},
}


def counter(metric: str, labels: Json, per_step: str) -> Json:
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return {"series": f"{metric}{{{text}}}", "values": per_step}


def requests(
    track: str,
    per_step: int | str,
    code: int = 200,
    *,
    door: str = "gateway",
    service: str = "web",
    namespace: str = "shop",
    **more: str,
) -> Json:
    """So many more requests at each sample; a text is promtool's own notation."""
    values = per_step if isinstance(per_step, str) else f"0+{per_step}x2000"
    labels = DOORS[door] | {
        "destination_service_name": service,
        "destination_service_namespace": namespace,
        "destination_workload": track if track == "unknown" else f"{service}-{track}",
        "response_code": str(code),
    }
    return counter("istio_requests_total", labels | more, values)


def durations(track: str, per_step: int, milliseconds: int) -> list[Json]:
    """That many requests at each sample, all of which took so long."""
    labels = json.loads(json.dumps(DOORS["gateway"])) | {
        "destination_service_name": "web",
        "destination_service_namespace": "shop",
        "destination_workload": f"web-{track}",
        "response_code": "200",
    }
    bounds = ["100", "250", "500", "1000", "+Inf"]
    return [
        counter(
            "istio_request_duration_milliseconds_bucket",
            labels | {"le": le},
            f"0+{per_step if float(le) >= milliseconds else 0}x2000",
        )
        for le in bounds
    ]


class Alarms:
    """Runs promtool over the rules of some settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(
        self,
        series: Iterable[Json],
        expected: dict[tuple[str, str], str | None],
        *,
        of: Settings | None = None,
        interval: str = "15s",
        evaluated: str = "15s",
    ) -> None:
        """`expected`: (time, alert) → its description, or None where it must not fire."""
        rules = alerts.rules(of or stack(), STACK)
        (self.folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        known = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
        moments = []
        for (when, name), description in expected.items():
            rule = known[name]
            labels = rule["labels"] | {"service": "web"} | ({"track": "canary"} if name in OF_A_TRACK else {})
            summary = rule["annotations"]["summary"].replace("{{ $labels.service }}", "web")
            fires = {"exp_labels": labels, "exp_annotations": {"summary": summary, "description": description}}
            moments.append({"eval_time": when, "alertname": name, "exp_alerts": [fires] if description else []})
        case = {"interval": interval, "input_series": [*series], "alert_rule_test": moments}
        path = self.folder / "cases.yaml"
        path.write_text(
            yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": evaluated, "tests": [case]})
        )
        run(tool("promtool"), "test", "rules", path)


OF_A_TRACK = {"CanaryBroken", "CanaryHighErrorRate", "CanaryWorseThanStable", "CanaryHighLatency"}
CRITICAL = {*OF_A_TRACK, "CanaryNoEndpoint"}


@pytest.fixture
def alarms(tmp_path: Path) -> Alarms:
    return Alarms(tmp_path)


def fails(share: str) -> str:
    return f"{share} of canary's requests to web fail; 1% may."


def quiet(*names: str, at: str = "15m") -> dict[tuple[str, str], str | None]:
    return {(at, name): None for name in names or CRITICAL}


@needs_promtool
def test_an_error_share_above_the_gate_fires_after_two_minutes_says_its_value_and_ends(alarms: Alarms) -> None:
    alarms.check(
        [requests("canary", 98), requests("canary", "0+2x20 40+0x80", 503), requests("stable", 2000)],
        {
            ("2m", "CanaryHighErrorRate"): None,
            ("3m", "CanaryHighErrorRate"): fails("2%"),
            ("15m", "CanaryHighErrorRate"): None,
        },
    )


@needs_promtool
def test_a_canary_that_is_broken_fires_within_a_minute_and_not_where_stable_fails_too(alarms: Alarms) -> None:
    text = "50% of canary's requests to web fail, and stable's do not: it is broken."
    broken = [requests("canary", 5), requests("canary", 5, 500)]
    fine, poor = requests("stable", 190), requests("stable", 10, 500)
    alarms.check([*broken, fine], {("30s", "CanaryBroken"): None, ("1m", "CanaryBroken"): text})
    alarms.check(broken, {("1m", "CanaryBroken"): text})
    alarms.check([*broken, fine, poor], quiet("CanaryBroken"))
    alarms.check([requests("canary", 85), requests("canary", 15, 500), fine], quiet("CanaryBroken"))
    alarms.check([requests("canary", "0 1 2 3 4x200", 500), fine], quiet("CanaryBroken", at="4m"))


@needs_promtool
def test_half_the_allowed_share_does_not_fire(alarms: Alarms) -> None:
    alarms.check([requests("canary", 995), requests("canary", 5, 500)], quiet("CanaryHighErrorRate"))


@needs_promtool
def test_both_doors_are_added_up_and_a_client_that_went_away_counts_for_nothing(alarms: Alarms) -> None:
    alarms.check(
        [
            requests("canary", 70),
            requests("canary", 5, 500, door="waypoint"),
            requests("canary", 25, door="waypoint"),
            requests("canary", 900, 0),
        ],
        {("5m", "CanaryHighErrorRate"): fails("5%")},
    )


@needs_promtool
def test_stables_errors_and_those_of_other_namespaces_and_reporters_are_not_canarys(alarms: Alarms) -> None:
    twice = requests("canary", 50, 500)
    twice["series"] = twice["series"].replace("istio-ingressgateway", "another-gateway")
    alarms.check(
        [
            requests("canary", 100),
            requests("stable", 900, 500),
            requests("canary", 50, 500, namespace="other"),
            twice,
        ],
        quiet(),
    )


@needs_promtool
def test_a_quiet_service_does_not_fire_even_when_everything_fails(alarms: Alarms) -> None:
    alarms.check([requests("canary", "0 1 2 3 4x200", 500), requests("stable", "0+1x5 5x200")], quiet(at="4m"))


@needs_promtool
def test_no_data_does_not_fire(alarms: Alarms) -> None:
    alarms.check([], quiet() | quiet("CanaryStale"))


@needs_promtool
def test_a_canary_that_fails_more_than_chance_explains_is_worse_than_stable_though_the_gate_would_allow_it(
    alarms: Alarms,
) -> None:
    text = "0.8% of canary's requests to web fail, more than stable's failures explain."
    series = [requests("canary", 992), requests("canary", 8, 500), requests("stable", 9995), requests("stable", 5, 500)]
    alarms.check(series, {("8m", "CanaryWorseThanStable"): text, ("8m", "CanaryHighErrorRate"): None})


@needs_promtool
@pytest.mark.parametrize(
    "series",
    [
        pytest.param(
            [requests("canary", 97), requests("canary", 3, 500), requests("stable", 970), requests("stable", 30, 500)],
            id="a shared outage",
        ),
        pytest.param(
            [
                requests("canary", 96),
                requests("canary", "0+3.9x200", 500),
                *(requests("stable", number, code) for number, code in ((970, 200), (30, 500))),
            ],
            id="bad luck",
        ),
        pytest.param(
            [requests("canary", 999), requests("canary", 1, 500), requests("stable", 10000)],
            id="a tenth of what the gate allows",
        ),
        pytest.param([requests("canary", 90), requests("canary", 10, 500)], id="nobody is left at stable"),
        pytest.param(
            [requests("canary", 20), requests("canary", "0 1 2 3 4 5x200", 500), requests("stable", 400)],
            id="a handful of failures",
        ),
    ],
)
def test_what_stable_or_chance_explains_is_not_worse(alarms: Alarms, series: list[Json]) -> None:
    alarms.check(series, quiet("CanaryWorseThanStable", at="4m"))


@needs_promtool
def test_a_slow_canary_fires_with_its_p95_and_a_slow_stable_does_not(alarms: Alarms) -> None:
    text = "Canary's p95 for web is 975 ms; 500 ms is allowed."
    slow = [*durations("canary", 20, 800), requests("canary", 20)]
    alarms.check(slow, {("2m", "CanaryHighLatency"): None, ("6m", "CanaryHighLatency"): text})
    alarms.check(
        [*durations("stable", 20, 800), *durations("canary", 20, 200), requests("canary", 20)],
        quiet("CanaryHighLatency"),
    )
    alarms.check([*durations("canary", 1, 800), requests("canary", 1)], quiet("CanaryHighLatency"))


@needs_promtool
def test_requests_without_an_endpoint_fire_while_canary_has_been_serving(alarms: Alarms) -> None:
    text = "50% of the requests to web that may be canary's find no endpoint."
    lost = [requests("unknown", 5, 503, response_flags="UH"), requests("stable", 95)]
    alarms.check([*lost, requests("canary", 5)], {("2m", "CanaryNoEndpoint"): None, ("5m", "CanaryNoEndpoint"): text})
    alarms.check(lost, quiet("CanaryNoEndpoint"))
    few = requests("unknown", "0 1 2 3 4x200", 503)
    alarms.check([few, requests("canary", 5), requests("stable", 95)], quiet("CanaryNoEndpoint", at="4m"))


@needs_promtool
def test_a_canary_that_stays_a_day_at_one_share_is_stale_and_one_that_climbs_is_not(alarms: Alarms) -> None:
    text = "Canary of web has had the same share of requests for 24 h: raise it or end it."
    rest = requests("stable", 950)
    at_five = [requests("canary", 50), rest]
    alarms.check(at_five, {("23h", "CanaryStale"): None, ("26h", "CanaryStale"): text}, interval="1m", evaluated="5m")
    climbs = [requests("canary", "0+50x780 39000+105x1200"), rest]
    alarms.check(climbs, quiet("CanaryStale", at="26h"), interval="1m", evaluated="5m")
    testers = [requests("canary", 1), rest]
    alarms.check(testers, quiet("CanaryStale", at="26h"), interval="1m", evaluated="5m")
    ended = [requests("canary", "0+50x1500 75000x500"), rest]
    alarms.check(ended, quiet("CanaryStale", at="27h"), interval="1m", evaluated="5m")


@needs_promtool
def test_grpc_failures_count_although_their_http_status_is_200(alarms: Alarms) -> None:
    services = copy.deepcopy(program.stack_config(STACK)["canary:services"])
    services["web"]["protocol"] = "grpc"
    series = [
        requests("canary", 90, grpc_response_status="0"),
        requests("canary", 6, grpc_response_status="14"),
        requests("canary", 4, grpc_response_status="5"),
    ]
    alarms.check(series, {("5m", "CanaryHighErrorRate"): fails("6%")}, of=stack(services=services))


@needs_promtool
def test_a_service_that_counts_itself_is_judged_by_its_own_metrics(alarms: Alarms) -> None:
    own = {"app": "web", "version": "canary"}
    series = [
        counter("http_requests_total", own | {"status": "200"}, "0+97x100"),
        counter("http_requests_total", own | {"status": "500"}, "0+3x100"),
        *(
            counter("http_request_duration_seconds_bucket", own | {"le": le}, f"0+{n}x100")
            for le, n in (("0.5", 0), ("1", 100), ("+Inf", 100))
        ),
    ]
    found = stack(gate={"errorRate": "1%", "p95": "500ms", "metrics": "app"})
    slow = "Canary's p95 for web is 975 ms; 500 ms is allowed."
    alarms.check(series, {("5m", "CanaryHighErrorRate"): fails("3%"), ("5m", "CanaryHighLatency"): slow}, of=found)


@needs_promtool
def test_promtool_and_amtool_accept_what_is_rendered(tmp_path: Path) -> None:
    for number, found in enumerate((stack(), stack(gate={"metrics": "app"}), stack(steps=[50, 60]))):
        rules, route = tmp_path / f"{number}-rules.yaml", tmp_path / f"{number}-route.yaml"
        rules.write_text(yaml.safe_dump(alerts.rules(found, STACK)))
        route.write_text(yaml.safe_dump(alerts.alertmanager(found, STACK)))
        run(tool("promtool"), "check", "rules", rules)
        run(tool("amtool"), "check-config", route)


@needs_promtool
def test_the_raw_queries_of_a_judge_and_the_recorded_series_say_the_same(tmp_path: Path) -> None:
    """Same functions, same answers: here as numbers, door by door and added up."""
    found = stack()
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alerts.rules(found, STACK)))
    series = [
        requests("canary", 96), requests("canary", 4, 500), requests("stable", 300),
        requests("canary", 10, door="waypoint"), requests("stable", 40, door="waypoint"),
        requests("unknown", 11, 503), requests("stable", 1000, service="other"),
        *durations("canary", 100, 200),
    ]  # fmt: skip
    recorded = promql.Recorded(alerts.labels(found, STACK))
    gateway, waypoint = promql.Raw(found, ("web",), "gateway"), promql.Raw(found, ("web",), "waypoint")
    own = ',namespace="shop",stack="prod"'
    wanted: list[tuple[str, str, float]] = [
        (promql.split(of), '{service="web"}', share)
        for of, share in ((promql.Raw(found), 110 / 450), (recorded, 110 / 450), (gateway, 0.25), (waypoint, 0.2))
    ]
    for of, extra in ((promql.Raw(found), ""), (recorded, own)):
        canary = f'{{service="web",track="canary"{extra}}}'
        wanted += [(promql.error_share(of), canary, 4 / 110), (of.p95("canary"), canary, 242.5)]
        wanted += [(promql.error_share(of, "stable"), f'{{service="web",track="stable"{extra}}}', 0)]
        wanted += [(promql.no_endpoint(of), '{service="web"}', 11 / 121)]
        wanted += [(promql.worse_than_stable(of, 0.01), canary, 4 / 110)]
    tests = []
    for expr, labels, value in wanted:
        # Rounded, because promtool compares floats exactly.
        sample = {"labels": labels, "value": round(value, 6)}
        tests.append({"expr": f"round({expr}, 0.000001)", "eval_time": "10m", "exp_samples": [sample]})
    case = {"interval": "15s", "input_series": series, "promql_expr_test": tests}
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [case]}))
    run(tool("promtool"), "test", "rules", path)


def test_every_rule_carries_the_stack_and_no_query_mixes_reporters() -> None:
    rules = [rule for group in alerts.rules(stack(), STACK)["groups"] for rule in group["rules"]]
    assert all(rule["labels"]["stack"] == STACK and rule["labels"]["namespace"] == "shop" for rule in rules)
    exprs = "".join(rule["expr"] for rule in rules)
    assert 'reporter="destination"' not in exprs, "ambient has no such series"
    assert "reporter=~" not in exprs
    assert {rule["alert"] for rule in rules if rule["labels"].get("severity") == "critical"} == CRITICAL


def test_rules_follow_the_thresholds_of_the_gate() -> None:
    text = json.dumps(alerts.rules(stack(gate={"errorRate": "0.5%", "maxHold": "12h"}), STACK))
    assert " > 0.005 and" in text and "[43200s]" in text
    assert "CanaryHighLatency" not in text, "without gate.p95 there is no limit"


def test_a_weight_step_changes_neither_rules_nor_dashboard() -> None:
    for render in (alerts.rules, dashboard.dashboard, alerts.alertmanager):
        assert render(stack(weight=10), STACK) == render(stack(weight=5), STACK)


def test_the_webhook_is_called_at_once_once_per_service_and_its_token_is_never_in_clear() -> None:
    found = alerts.alertmanager(stack(), STACK)
    (route,) = found["route"]["routes"]
    assert (route["group_wait"], route["group_by"]) == ("0s", ["alertname", "stack", "service"])
    assert route["continue"] is True, "people are told too"
    (hook,) = found["receivers"][1]["webhook_configs"]
    assert (hook["url"], hook["send_resolved"]) == ("http://rollout:9094/webhook", False)
    assert hook["http_config"]["authorization"].keys() == {"type", "credentials_file"}
    operator = alerts.alertmanager_spec(stack(), STACK)["receivers"][0]["webhookConfigs"][0]
    assert operator["httpConfig"]["authorization"]["credentials"] == {"name": "canary-webhook", "key": "token"}


def test_the_dashboard_has_the_gates_thresholds_and_only_queries_that_are_recorded() -> None:
    found = dashboard.dashboard(stack(), STACK)
    limits = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        for panel in found["panels"]
        if "thresholds" in panel["fieldConfig"]["defaults"]
    }
    assert limits == {"Error share": 0.01, "95th percentile": 500}
    exprs = [target["expr"] for panel in found["panels"] for target in panel["targets"]]
    assert all(any(name in expr for name in (*promql.RECORDS.values(), promql.WEIGHT)) for expr in exprs)
    assert all('stack="prod"' in expr for expr in exprs)


def declared(**changes: Any) -> program.Run:
    """The production stack with other settings; None takes one out."""
    config = program.stack_config(STACK) | {"canary:weight": 0} | {f"canary:{key}": it for key, it in changes.items()}
    return program.run({key: it for key, it in config.items() if it is not None and key != "kubernetes:context"})


def test_alerts_are_config_maps_unless_the_operator_is_asked_for() -> None:
    hook = {"webhook": "http://rollout:9094/webhook"}
    maps = declared(alerts=hook).of("ConfigMap")
    assert set(yaml.safe_load(maps["shop-canary-alerts"].inputs["data"]["rules.yaml"])) == {"groups"}
    assert set(yaml.safe_load(maps["shop-canary-alertmanager"].inputs["data"]["alertmanager.yaml"])) == {
        "route",
        "receivers",
    }
    board = maps["shop-canary-dashboard"].inputs
    assert board["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(board["data"]["canary.json"])["title"] == "Canary: test"
    run = declared(alerts=hook | {"form": "operator"})
    assert run.of("PrometheusRule").keys() == {"shop-canary-alerts"}
    assert run.of("AlertmanagerConfig").keys() == {"shop-canary-alertmanager"}
    assert "shop-canary-alerts" not in run.of("ConfigMap")


def test_without_alerts_in_the_settings_there_are_none_and_without_a_webhook_nobody_is_called() -> None:
    names = {one.name for one in declared(alerts=None).resources}
    assert not {name for name in names if name.startswith("shop-canary-a") and "access" not in name}
    assert "shop-canary-alertmanager" not in declared(alerts={}).of("ConfigMap")


def test_access_logs_are_on_at_both_doors_and_in_a_form_that_names_route_and_track() -> None:
    run = declared()
    logs = {one.inputs["metadata"]["namespace"]: one.inputs["spec"] for one in run.of("Telemetry").values()}
    assert logs["shop"]["targetRefs"][0]["name"] == "waypoint"
    assert logs["istio-ingress"]["selector"]["matchLabels"] == run.spec("Gateway", "public-gateway")["selector"]
    values = run.of("Release")["mesh-istiod"].inputs["values"]
    assert values["meshConfig"] == {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}


def test_no_two_resources_have_one_name_and_type() -> None:
    named = [(one.type, one.name) for one in declared(alerts={"webhook": "http://rollout:9094/webhook"}).resources]
    assert len(named) == len(set(named)), "the engine refuses them"
