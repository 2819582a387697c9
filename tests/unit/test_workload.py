"""What a track is made of: pods, their configuration, how many there are, how many may go at once."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from core import capacity, checks, specs, workload
from core.model import Settings
from tests import program
from tests.unit.test_program import after, changed, lab


def settings(weight: int = 0, canary: dict[str, Any] | None = None, **more: Any) -> Settings:
    """One service `web` with more keys; a canary where keys of its own are given."""
    service = {"stable": {"image": "sample-web:1.0"}, **more}
    if canary is not None:
        service["canary"] = {"image": "sample-web:2.0", **canary}
    raw = {"weight": weight, "services": {"web": service}, "secret-token": "hunter2", "secret-other": "swordfish"}
    return checks.parse(raw)[0]


def pod(found: Settings, version: str = "stable") -> dict[str, Any]:
    spec: dict[str, Any] = workload.deployment_spec(found, "web", version)["template"]["spec"]
    return spec


def container(found: Settings, version: str = "stable") -> dict[str, Any]:
    only: dict[str, Any] = pod(found, version)["containers"][0]
    return only


def test_pods_may_do_nothing_they_need_not() -> None:
    found = pod(settings())
    assert found["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True}
    assert found["automountServiceAccountToken"] is False
    assert found["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_read_only_root_leaves_a_place_for_temporary_files() -> None:
    assert container(settings())["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert pod(settings())["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_an_image_that_needs_root_or_writes_to_its_own_files_can_say_so() -> None:
    found = settings(security={"nonRoot": False, "readOnlyRoot": False})
    assert "runAsNonRoot" not in pod(found)["securityContext"]
    assert "readOnlyRootFilesystem" not in container(found)["securityContext"]
    assert "volumes" not in pod(found)


def test_one_track_may_differ_in_what_it_may_do() -> None:
    found = settings(canary={"security": {"readOnlyRoot": False}})
    assert container(found)["securityContext"]["readOnlyRootFilesystem"] is True
    assert "readOnlyRootFilesystem" not in container(found, "canary")["securityContext"]


def test_a_rollout_never_takes_a_pod_before_its_successor_serves() -> None:
    strategy = workload.deployment_spec(settings(), "web", "stable")["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0


def test_pods_drain_before_they_stop_and_get_time_for_both() -> None:
    found = settings(drain="7s")
    assert container(found)["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert pod(found)["terminationGracePeriodSeconds"] == 7 + workload.SHUTDOWN_SECONDS
    assert "lifecycle" not in container(settings(drain=0))


def test_pods_of_each_track_spread_over_nodes_and_zones_by_themselves() -> None:
    for version in ("stable", "canary"):
        spread = pod(settings(canary={}), version)["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        for one in spread:
            assert one["whenUnsatisfiable"] == "ScheduleAnyway"
            assert one["labelSelector"] == {"matchLabels": {"app": "web", "version": version}}


def test_pull_secrets_and_the_account_of_the_service_are_the_pods() -> None:
    found = settings(pullSecrets=["registry"], serviceAccount={"annotations": {"eks.amazonaws.com/role-arn": "arn:x"}})
    assert pod(found)["imagePullSecrets"] == [{"name": "registry"}]
    assert pod(found)["serviceAccountName"] == "web"
    account = workload.account(found, "web")
    assert account["metadata"]["name"] == "web"
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:x"}
    assert account["body"] == {"automountServiceAccountToken": False}


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({}, {"tcpSocket": {"port": 3000}}),
        ({"probe": {"path": "/healthz"}}, {"httpGet": {"path": "/healthz", "port": 3000}}),
        ({"protocol": "grpc"}, {"tcpSocket": {"port": 3000}}),
        ({"protocol": "grpc", "probe": {"path": "/"}}, {"grpc": {"port": 3000}}),
        ({"protocol": "grpc", "probe": {"path": "/shop.Cart"}}, {"grpc": {"port": 3000, "service": "shop.Cart"}}),
    ],
)
def test_readiness_asks_in_the_protocol_of_the_service(service: dict[str, Any], expected: dict[str, Any]) -> None:
    found = container(settings(**service))
    assert expected.items() <= found["readinessProbe"].items()
    assert ("livenessProbe" in found) == ("probe" in service), "an open port alone kills nobody"


def test_a_grpc_service_says_so_at_its_port() -> None:
    found = settings(protocol="grpc").services["web"]
    (port,) = specs.service_spec("web", found)["ports"]
    assert (port["name"], port["appProtocol"]) == ("grpc", "grpc")


# -- configuration and secrets


def names(found: Settings, version: str = "stable") -> list[str]:
    return [content.name for content in workload.contents(found, "web", version)]


def test_configuration_is_variables_or_files() -> None:
    data = {"LEVEL": "info"}
    (name,) = names(settings(config={"data": data}))
    assert container(settings(config={"data": data}))["envFrom"] == [{"configMapRef": {"name": name}}]
    mounted = settings(config={"data": data, "mount": "/etc/web"})
    assert {"name": "config", "mountPath": "/etc/web", "readOnly": True} in container(mounted)["volumeMounts"]
    assert {"name": "config", "configMap": {"name": name}} in pod(mounted)["volumes"]
    assert "envFrom" not in container(mounted)


def test_other_content_has_another_name_and_the_same_content_the_same() -> None:
    one, same, other = (names(settings(config={"data": {"LEVEL": level}})) for level in ("info", "info", "debug"))
    assert one == same != other
    assert one[0].startswith("web-stable-")


def test_tracks_never_share_an_object_even_with_equal_content() -> None:
    found = settings(config={"data": {"LEVEL": "info"}}, canary={})
    assert not set(names(found)) & set(names(found, "canary"))


def test_a_secret_is_variables_and_its_value_is_in_no_name_and_no_spec() -> None:
    found = settings(secrets={"TOKEN": "token"})
    (content,) = workload.contents(found, "web", "stable")
    assert base64.b64decode(content.data["TOKEN"]).decode() == "hunter2"
    assert container(found)["envFrom"] == [{"secretRef": {"name": content.name}}]
    shown = json.dumps(workload.deployment_spec(found, "web", "stable")) + content.name
    assert "hunter2" not in shown
    assert content.data["TOKEN"] not in shown


def test_the_name_of_a_secret_follows_its_value() -> None:
    assert names(settings(secrets={"TOKEN": "token"})) != names(settings(secrets={"TOKEN": "other"}))


def test_equal_secrets_of_two_tracks_do_not_show_as_equal() -> None:
    found = settings(secrets={"TOKEN": "token"}, canary={})
    assert names(found)[0][-workload.HASH_DIGITS :] != names(found, "canary")[0][-workload.HASH_DIGITS :]


def maps(run: program.Run) -> dict[str, program.Registration]:
    """ConfigMaps of the service."""
    return {name: one for name, one in run.of("ConfigMap").items() if name.startswith("web-")}


def configured(config: dict[str, Any], **data: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["canary:services"]["web"] |= {"config": {"data": data}, "secrets": {"TOKEN": "token"}}
    return config | {"canary:secret-token": "hunter2"}


def test_a_changed_configuration_is_a_new_object_beside_the_old_one_in_the_engines_eyes_too() -> None:
    def at(level: str) -> dict[str, Any]:
        config = lab(0, canary="sample-web:2.0")
        config["canary:services"]["web"]["canary"]["config"] = {"data": {"LEVEL": level}}
        return config

    before, now = after(lab(), at("info")), after(lab(), at("info"), at("debug"))
    (old,), (new,) = maps(before), maps(now)
    # Another resource name: the engine creates the new one first, and deletes the old one when all else is done.
    assert old != new
    assert new in now.of("Deployment")["web-canary"].depends_on
    assert new == now.of("ConfigMap")[new].inputs["metadata"]["name"]
    assert now.of("ConfigMap")[new].inputs["immutable"] is True
    assert changed(before, now) == sorted([old, new, "web-canary", "web-vs"])


def test_the_engine_is_told_what_is_secret() -> None:
    run = program.run(configured(lab(), LEVEL="info"))
    (secret,) = run.of("Secret").values()
    assert secret.inputs["data"] == "(secret)"
    text = str([one.inputs for one in run.resources])
    assert "hunter2" not in text
    assert base64.b64encode(b"hunter2").decode() not in text


def test_at_promotion_stable_gets_an_object_of_its_own_with_what_canary_had() -> None:
    rolling = [configured(lab(weight, canary="sample-web:2.0"), LEVEL="info") for weight in (5, 10, 25, 50, 100)]
    for config in rolling:
        config["canary:services"]["web"]["canary"]["config"] = {"data": {"LEVEL": "debug"}}
    promoted = configured(lab(0, stable="sample-web:2.0"), LEVEL="debug")
    before = after(configured(lab(), LEVEL="info"), *rolling)
    now = after(configured(lab(), LEVEL="info"), *rolling, promoted)
    held = {name: one.inputs["data"]["LEVEL"] for name, one in maps(before).items()}
    assert {name.rpartition("-")[0]: level for name, level in held.items()} == {
        "web-stable": "info",
        "web-canary": "debug",
    }
    (name,) = maps(now)
    assert name.startswith("web-stable-")
    assert maps(now)[name].inputs["data"] == {"LEVEL": "debug"}


# -- how many


@pytest.mark.parametrize(
    ("weight", "service", "canary", "expected"),
    [
        (5, {"replicas": 20}, {"replicas": 3}, 3),
        (5, {"replicas": 20}, {"replicas": "auto"}, 1),
        (25, {"replicas": 6}, {"replicas": "auto"}, 2),
        (100, {"replicas": 6}, {"replicas": "auto"}, 6),
        (0, {"replicas": 6}, {"replicas": "auto"}, 1),
        (50, {"autoscale": {"min": 4, "max": 10}}, {"replicas": "auto"}, 4),
        (100, {"autoscale": {"min": 2, "max": 10}}, {"autoscale": {"min": 3, "max": 10}}, 3),
        (50, {"stable": {"image": "a:1", "autoscale": {"min": 4, "max": 10}}}, {"replicas": "auto"}, 5),
    ],
)
def test_canary_has_the_pods_that_are_declared_or_that_its_share_needs(
    weight: int, service: dict[str, Any], canary: dict[str, Any], expected: int
) -> None:
    assert capacity.replicas(settings(weight, canary, **service), "web", "canary") == expected


def test_an_update_may_ask_for_more_pods_than_are_declared_and_never_for_fewer() -> None:
    found = settings(replicas=3)
    assert workload.deployment_spec(found, "web", "stable", at_least=5)["replicas"] == 5
    assert workload.deployment_spec(found, "web", "stable", at_least=2)["replicas"] == 3


def test_an_autoscaler_keeps_to_its_bounds_and_rises_to_what_an_update_needs() -> None:
    found = settings(autoscale={"min": 2, "max": 6, "cpu": 60})
    spec = workload.autoscaler_spec(found, "web", "stable")
    assert spec is not None
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 60}
    assert spec["scaleTargetRef"]["name"] == "web-stable"
    raised = workload.autoscaler_spec(found, "web", "stable", at_least=8)
    assert raised is not None
    assert (raised["minReplicas"], raised["maxReplicas"]) == (8, 8)


def test_stable_does_not_shrink_while_a_canary_may_still_be_reverted() -> None:
    scaled: dict[str, Any] = {"autoscale": {"min": 2, "max": 6}}
    with_canary = settings(canary={}, **scaled)
    kept = workload.autoscaler_spec(with_canary, "web", "stable")
    assert kept is not None
    assert kept["behavior"] == {"scaleDown": {"selectPolicy": "Disabled"}}
    for free in (
        workload.autoscaler_spec(with_canary, "web", "canary"),
        workload.autoscaler_spec(settings(**scaled), "web", "stable"),
    ):
        assert free is not None
        assert "behavior" not in free


def test_without_autoscale_there_is_no_autoscaler() -> None:
    assert workload.autoscaler_spec(settings(), "web", "stable") is None


def scaled(config: dict[str, Any], **bounds: int) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["canary:services"]["web"]["autoscale"] = bounds
    return config


def test_the_number_of_pods_is_the_autoscalers_where_there_is_one() -> None:
    fixed, moving = program.run(lab()), program.run(scaled(lab(), min=2, max=4))
    assert fixed.of("Deployment")["web-stable"].ignored == []
    assert moving.of("Deployment")["web-stable"].ignored == ["spec.replicas"]
    assert moving.spec("Deployment", "web-stable")["replicas"] == 2, "declared all the same: a first update needs it"
    assert moving.spec("HorizontalPodAutoscaler", "web-stable")["minReplicas"] == 2


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"replicas": 2}, True),
        ({"replicas": 1}, False),
        ({"autoscale": {"min": 1, "max": 3}}, True),
        ({"autoscale": {"min": 1, "max": 1}}, False),
    ],
)
def test_pods_that_are_more_than_one_leave_one_at_a_time(service: dict[str, Any], expected: bool) -> None:
    found = workload.disruption_spec(settings(**service), "web", "stable")
    assert (found is not None) == expected
    if found is not None:
        assert found["maxUnavailable"] == 1
        assert found["selector"] == {"matchLabels": {"app": "web", "version": "stable"}}


def test_a_canary_that_grows_with_its_share_has_its_budget_from_the_start() -> None:
    """A rung changes as few objects as it can."""
    assert workload.disruption_spec(settings(5, {"replicas": "auto"}, replicas=4), "web", "canary") is not None


def test_a_weight_step_of_a_service_with_everything_changes_one_resource() -> None:
    def everything(weight: int) -> dict[str, Any]:
        return configured(scaled(lab(weight, canary="sample-web:2.0"), min=2, max=4), LEVEL="info")

    at_five = after(configured(scaled(lab(), min=2, max=4), LEVEL="info"), everything(5))
    at_ten = program.run(everything(10), recorded=program.recorded_from(at_five))
    assert changed(at_five, at_ten) == ["web-vs"]


# -- the proxies


def test_the_doors_have_as_many_pods_as_they_are_told_a_budget_and_room_between_them() -> None:
    found = checks.parse({"gateway": {"replicas": 3}, "waypoint": {"replicas": 2}})[0]
    gateway = specs.chart_values(found)["gateway"]
    assert gateway["autoscaling"] == {"minReplicas": 3, "maxReplicas": 5}
    assert gateway["podDisruptionBudget"] == specs.DISRUPTION
    assert gateway["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == {
        "app": "istio-ingressgateway",
        "istio": "ingressgateway",
    }
    overlays = {key: json.loads(text)["spec"] for key, text in specs.waypoint_parameters(found).items()}
    # The keys that istiod takes; any other one makes it give up on the whole waypoint.
    assert overlays.keys() == {"deployment", "horizontalPodAutoscaler", "podDisruptionBudget"}
    assert overlays["horizontalPodAutoscaler"]["minReplicas"] == 2
    assert overlays["podDisruptionBudget"] == specs.DISRUPTION
    assert "replicas" not in overlays["deployment"], "an autoscaler has a say in it"


def test_a_waypoint_of_one_pod_says_so_because_istiod_takes_no_autoscaler_away() -> None:
    overlays = specs.waypoint_parameters(checks.parse({"waypoint": {"replicas": 1}})[0])
    assert json.loads(overlays["horizontalPodAutoscaler"])["spec"]["minReplicas"] == 1


def test_the_waypoint_is_written_after_its_parameters_and_names_them() -> None:
    run = program.run(lab(waypoint={"replicas": 3}))
    (name,) = [one for one in run.of("ConfigMap") if one.startswith("waypoint-")]
    waypoint = run.of("Gateway")["shop-waypoint"]
    assert waypoint.inputs["spec"]["infrastructure"]["parametersRef"] == {
        "group": "",
        "kind": "ConfigMap",
        "name": name,
    }
    assert name in waypoint.depends_on
