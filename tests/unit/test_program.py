"""The program as a whole: what it declares, in which order, and what one step changes."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pulumi
import pytest

import live
from tests import program
from tests.program import Run

VS = "VirtualService"


def lab(
    weight: int | None = None, *, canary: str | None = None, stable: str | None = None, **more: Any
) -> dict[str, Any]:
    """The lab's configuration with a few keys changed."""
    config = copy.deepcopy(program.stack_config("lab", edge=False))
    web = config["canary:services"]["web"]
    if canary is not None:
        web["canary"] = {"image": canary}
    if stable is not None:
        web["stable"] = {"image": stable}
    if weight is not None:
        config["canary:weight"] = weight
    return config | {f"canary:{key}": value for key, value in more.items()}


def after(*configs: dict[str, Any], seen: live.Live | None = None) -> Run:
    """The last of several updates, each over what the one before recorded."""
    run = program.run(configs[0])
    for config in configs[1:-1]:
        run = program.run(config, recorded=program.recorded_from(run))
    return program.run(configs[-1], recorded=program.recorded_from(run), seen=seen)


def changed(before: Run, now: Run) -> list[str]:
    """Names of resources whose inputs differ, or that appear or go."""
    old = {one.name: (one.type, program.without_times(str(one.inputs))) for one in before.resources}
    new = {one.name: (one.type, program.without_times(str(one.inputs))) for one in now.resources}
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


@pytest.fixture(scope="module")
def first() -> Run:
    return program.run(lab())


def test_every_resource_has_a_component_above_it(first: Run) -> None:
    components = {one.name for one in first.resources if not one.custom}
    roots = [one.name for one in first.resources if one.parent == "canary-test"]
    assert sorted(roots) == ["mesh", "train"]
    assert all(one.parent in components for one in first.resources if one.custom)


def test_every_component_registered_its_outputs(first: Run) -> None:
    assert {one.name for one in first.resources if not one.custom} <= first.completed


def test_component_types_are_the_ones_users_rely_on(first: Run) -> None:
    types = {one.type for one in first.resources if not one.custom}
    assert {f"canary:index:{name}" for name in ("AmbientMesh", "Workload", "Traffic")} <= types


def test_istio_is_installed_in_order_and_traffic_waits_for_all_of_it(first: Run) -> None:
    releases = first.of("Release")
    assert sorted(one.inputs["name"] for one in releases.values()) == [
        "istio-base", "istio-cni", "istio-ingressgateway", "istiod", "ztunnel",
    ]  # fmt: skip
    assert "mesh-istio-base" in releases["mesh-istiod"].depends_on
    for name in ("mesh-istio-cni", "mesh-ztunnel", "mesh-istio-ingressgateway"):
        assert "mesh-istiod" in releases[name].depends_on
    for kind, name in ((VS, "web-vs"), ("DestinationRule", "web-dr"), ("Gateway", "public-gateway")):
        assert releases.keys() <= set(first.of(kind)[name].depends_on), "a destroy would hang without its webhook"


def test_a_cluster_that_has_istio_gets_no_release() -> None:
    run = program.run(lab(istio={"install": False}))
    assert run.of("Release") == {}
    assert run.of(VS).keys() == {"web-vs"}


def test_a_stack_may_hold_the_mesh_alone() -> None:
    run = program.run({"canary:istio": {"chartSource": ".lab/charts"}})
    assert len(run.of("Release")) == 5
    assert run.of("Deployment") == {}


def test_a_remote_chart_source_is_a_repository_and_a_folder_is_a_path() -> None:
    remote = program.run({}).of("Release")["mesh-istiod"].inputs
    assert (remote["chart"], remote["repositoryOpts"]["repo"][:8]) == ("istiod", "https://")
    folder = program.run({"canary:istio": {"chartSource": ".lab/charts"}}).of("Release")["mesh-istiod"].inputs
    assert folder["chart"] == ".lab/charts/istiod"
    assert "repositoryOpts" not in folder


def test_a_weight_step_changes_the_virtual_service_and_nothing_else() -> None:
    at_five = after(lab(), lab(5, canary="sample-web:2.0"))
    at_ten = program.run(lab(10, canary="sample-web:2.0"), recorded=program.recorded_from(at_five))
    assert changed(at_five, at_ten) == ["web-vs"]


def test_running_again_changes_nothing() -> None:
    at_five = after(lab(), lab(5, canary="sample-web:2.0"))
    again = program.run(lab(5, canary="sample-web:2.0"), recorded=program.recorded_from(at_five))
    old = at_five.of(VS)["web-vs"].inputs
    assert again.of(VS)["web-vs"].inputs == old, "not even the time in the record"


def test_a_new_canary_adds_its_deployment_and_the_route_waits_for_it() -> None:
    run = after(lab(), lab(5, canary="sample-web:2.0"))
    assert {"web-stable", "web-canary"} == run.of("Deployment").keys()
    assert "web-canary" in run.of(VS)["web-vs"].depends_on


def test_the_first_route_waits_for_stable(first: Run) -> None:
    assert "web-stable" in first.of(VS)["web-vs"].depends_on


def test_a_revert_waits_for_no_pod_and_pods_wait_for_it() -> None:
    run = after(lab(), lab(5, canary="sample-web:2.0"), lab(0, canary="sample-web:2.0"))
    assert not {"web-stable", "web-canary"} & set(run.of(VS)["web-vs"].depends_on)
    for name in ("web-stable", "web-canary"):
        assert "web-vs" in run.of("Deployment")[name].depends_on


def test_a_halt_leaves_canary_running_and_takes_every_request_from_it() -> None:
    run = after(lab(), lab(5, canary="sample-web:2.0"), lab(5, canary="sample-web:2.0", halted=True))
    assert "web-canary" in run.of("Deployment")
    assert [route["name"] for route in run.spec(VS, "web-vs")["http"]] == ["default"]
    assert (run.outputs["weight"], run.outputs["effectiveWeight"], run.outputs["phase"]) == (5, 0, "halted")


def test_promotion_waits_for_the_new_stable_and_takes_canary_away() -> None:
    ladder = [lab(weight, canary="sample-web:2.0") for weight in (5, 10, 25, 50, 100)]
    run = after(lab(), *ladder, lab(0, stable="sample-web:2.0"))
    assert run.of("Deployment").keys() == {"web-stable"}
    assert "web-stable" in run.of(VS)["web-vs"].depends_on
    assert run.outputs["phase"] == "stable"


def test_the_way_back_after_promotion_is_one_edit() -> None:
    ladder = [lab(weight, canary="sample-web:2.0") for weight in (5, 10, 25, 50, 100)]
    run = after(lab(), *ladder, lab(0, stable="sample-web:2.0"), lab(0, stable="sample-web:1.0"))
    assert run.outputs["services"]["web"]["stable"] == "sample-web:1.0"


def test_a_refused_change_registers_nothing() -> None:
    before = program.recorded_from(after(lab(), lab(5, canary="sample-web:2.0")))
    with pytest.raises(pulumi.RunError, match="set canary:weight to 10 first"):
        program.run(lab(50, canary="sample-web:2.0"), recorded=before)


def test_one_refused_service_of_two_stops_the_train() -> None:
    def pair(weight: int, image: str) -> dict[str, Any]:
        config = lab(weight, canary="sample-web:2.0")
        api = {"stable": {"image": "api:1"}, "canary": {"image": image}}
        config["canary:services"]["api"] = api
        return config

    before = program.recorded_from(after(pair(0, "api:2"), pair(5, "api:2")))
    with pytest.raises(pulumi.RunError, match=r"^api: canary's template changes"):
        program.run(pair(10, "api:3"), recorded=before)


def _seen(run: Run, **changes: Any) -> live.Live:
    base: dict[str, Any] = {
        "cluster": "one",
        "routes": {"web": run.spec(VS, "web-vs")},
        "rules": {"web": run.spec("DestinationRule", "web-dr")},
    }
    return live.Live(**(base | changes))


@pytest.mark.parametrize(("kind", "name", "field"), [(VS, "web-vs", "routes"), ("DestinationRule", "web-dr", "rules")])
def test_an_edited_object_is_written_again_although_the_settings_did_not_change(
    kind: str, name: str, field: str
) -> None:
    config = lab(0, canary="sample-web:2.0")
    before = after(lab(), config)
    recorded = program.recorded_from(before)
    seen = _seen(before, **{field: {"web": {"edited": "by hand"}}}, cluster=None)
    repaired = program.run(config, recorded=recorded, seen=seen)
    assert changed(before, repaired) == [name]
    again = program.run(config, recorded=program.recorded_from(repaired), seen=_seen(repaired, cluster=None))
    assert changed(repaired, again) == []


@pytest.mark.parametrize(("kind", "name", "field"), [(VS, "web-vs", "routes"), ("DestinationRule", "web-dr", "rules")])
def test_an_object_that_somebody_deleted_is_named_and_made_again(
    kind: str, name: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = lab(0, canary="sample-web:2.0")
    before = after(lab(), config)
    seen = _seen(before, **{field: {}}, cluster=None)
    run = program.run(config, recorded=program.recorded_from(before), seen=seen)
    assert changed(before, run) == [name]
    assert f"{kind} web is gone from the cluster; this update makes it again" in caplog.text
    # An update of it would fail; the engine replaces it when this annotation changes, without a second one in between.
    made = run.of(kind)[name]
    assert made.inputs["metadata"]["annotations"]["canary/restored"] == "1"
    assert made.replaced_on == ['metadata.annotations["canary/restored"]']
    assert made.deleted_first


def test_what_nobody_edited_is_not_written_again() -> None:
    before = after(lab(), lab(5, canary="sample-web:2.0"))
    again = program.run(
        lab(5, canary="sample-web:2.0"),
        recorded=program.recorded_from(before),
        seen=_seen(before, cluster=None),
    )
    assert changed(before, again) == []


def test_another_cluster_than_the_last_one_is_refused() -> None:
    run = after(lab(), lab(5, canary="sample-web:2.0"), seen=live.Live(cluster="one"))
    with pytest.raises(pulumi.RunError, match="kubernetes:context leads to cluster two"):
        program.run(
            lab(0, canary="sample-web:2.0"),
            recorded=program.recorded_from(run),
            seen=live.Live(cluster="two"),
        )


def test_a_canary_that_the_cluster_calls_unready_stops_the_rise() -> None:
    before = after(lab(), lab(5, canary="sample-web:2.0"))
    seen = _seen(before, cluster=None, ready={"web-canary": False})
    with pytest.raises(pulumi.RunError, match="needs a ready canary"):
        program.run(lab(10, canary="sample-web:2.0"), recorded=program.recorded_from(before), seen=seen)


def test_an_override_lets_its_change_pass_and_shows_in_the_outputs() -> None:
    from datetime import UTC, datetime, timedelta

    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    override = {"reason": "black friday", "until": until, "from": 5, "to": 50}
    run = after(lab(), lab(5, canary="sample-web:2.0"), lab(50, canary="sample-web:2.0", override=override))
    assert run.outputs["weight"] == 50
    assert run.outputs["override"]["reason"] == "black friday"


def test_the_record_is_read_after_the_stack_itself_is_registered() -> None:
    """The engine writes the checkpoint for that registration; a reader beside it found a half-written file."""
    calls = program.run(program.stack_config("dev")).calls
    assert calls == ["registered the stack", "asked pulumi:pulumi:readStackResourceOutputs"]


def test_an_update_does_not_pay_for_the_typed_modules_of_the_kubernetes_sdk() -> None:
    """They take about a second of computing, and a revert would wait for it."""
    code = "from tests import program; program.run(program.stack_config('prod')); import sys; print([*sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=program.ROOT, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"'([\w.]+)'", told.stdout))
    assert "pulumi_kubernetes.apiextensions" in loaded
    assert not loaded & {"pulumi_kubernetes.core.v1", "pulumi_kubernetes.apps.v1", "pulumi_kubernetes.helm.v3"}
