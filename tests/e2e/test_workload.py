"""Production workloads with the real engine: configuration, secrets and autoscalers come and go without a gap."""

from __future__ import annotations

import base64
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.bench import ensure
from lab.paths import LAB, ROOT
from lab.stack import Stack, Update, api

pytestmark = pytest.mark.lab

CORE, APPS = "/api/v1/namespaces/shop", "/apis/apps/v1/namespaces/shop"
SECRET = "hunter2-hunter2"


@contextmanager
def watched(look: Callable[[], list[str]]) -> Iterator[list[str]]:
    """What `look` finds wrong, over and over again while the body runs; it looks at least once."""
    found: list[str] = []
    looks = 0
    done = threading.Event()

    def run() -> None:
        nonlocal looks
        while not done.is_set():
            found.extend(look())
            looks += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
    assert looks > 0, "the look itself failed"


def names(kind: str, prefix: str) -> list[str]:
    listed = [one["metadata"]["name"] for one in api("GET", f"{CORE}/{kind}")["items"]]
    return sorted(name for name in listed if name.startswith(prefix))


def sources(pod: dict[str, Any]) -> set[tuple[str, str]]:
    """(kind, name) of what a pod's variables come from."""
    listed = pod["spec"]["containers"][0].get("envFrom") or []
    return {("configmaps" if "configMapRef" in one else "secrets", next(iter(one.values()))["name"]) for one in listed}


def running() -> dict[str, dict[str, Any]]:
    """Pods of `api` that nobody has told to stop, by UID."""
    found = [one for one in api("GET", f"{CORE}/pods")["items"] if one["metadata"]["labels"].get("app") == "api"]
    return {one["metadata"]["uid"]: one for one in found if not one["metadata"].get("deletionTimestamp")}


def orphans() -> list[str]:
    """Pods that run while what they read is gone; only those count that ran before and after the look."""
    before = running()
    there = {(kind, name) for kind in ("configmaps", "secrets") for name in names(kind, "api-")}
    after = running()
    return [f"{uid} reads {one}" for uid in before.keys() & after for one in sources(before[uid]) - there]


@pytest.fixture
def configured(stack: Stack) -> Stack:
    """A second service `api` with configuration and a secret, and a canary that differs in both."""
    stack.edit(**{"secret-token": SECRET, "secret-other": f"{SECRET}-2", "readyTimeout": "8s"})
    stack.service(
        "api",
        stable={"image": "sample-web:1.0", "config": {"data": {"LEVEL": "info"}}, "secrets": {"TOKEN": "token"}},
        replicas=2,
        probe={"path": "/healthz", "periodSeconds": 1},
        drain="1s",
    )
    stack.up().check()
    return stack


def canary(level: str, secret: str, tag: str = "2.0") -> dict[str, Any]:
    return {"image": f"sample-web:{tag}", "config": {"data": {"LEVEL": level}}, "secrets": {"TOKEN": secret}}


def test_configuration_and_secrets_roll_out_and_back_with_the_pods_that_read_them(configured: Stack) -> None:
    stack = configured

    def roll(level: str, secret: str, tag: str = "2.0") -> tuple[Update, set[str]]:
        """The update, and what there is of canary's after it."""
        stack.service("api", canary=canary(level, secret, tag))
        update = stack.up()
        return update, {*names("configmaps", "api-canary-"), *names("secrets", "api-canary-")}

    with watched(orphans) as found:
        update, first = roll("debug", "other")
        assert (update.code, len(first)) == (0, 2)
        update, second = roll("trace", "token")
        assert (update.code, len(second)) == (0, 2), "the old ones went"
        assert not first & second
        pod, *_ = [one for one in running().values() if one["metadata"]["labels"]["version"] == "canary"]
        assert {name for _, name in sources(pod)} == second
        update, both = roll("debug", "other", tag="2.0-unready")
        assert update.code != 0
        assert both == first | second, "pods that still run keep what they read"
        update, back = roll("trace", "token")
        assert (update.code, back) == (0, second)
    assert found == []
    assert stack.planned() == {}


def test_a_secrets_value_is_in_no_preview_and_not_in_clear_in_the_state(configured: Stack) -> None:
    stack = configured
    stack.service("api", canary=canary("debug", "other"))
    shown = stack.preview("--diff").check().text
    assert "api-canary-" in shown
    shown += stack.up().check().text + stack.run("stack", "export").check().text
    for value in (SECRET, f"{SECRET}-2"):
        assert value not in shown
        assert base64.b64encode(value.encode()).decode() not in shown
    (name,) = names("secrets", "api-canary-")
    held = api("GET", f"{CORE}/secrets/{name}")
    assert base64.b64decode(held["data"]["TOKEN"]).decode() == f"{SECRET}-2"
    assert held["immutable"] is True


def test_a_live_service_gets_an_autoscaler_without_losing_a_pod(stack: Stack) -> None:
    sizes: list[int] = []

    def look() -> list[str]:
        found = api("GET", f"{APPS}/deployments/api-stable")
        sizes.append(found["spec"]["replicas"])
        serving = found["status"].get("availableReplicas", 0)
        return [f"{sizes[-1]} declared, {serving} serve"] if min(sizes[-1], serving) < 3 else []

    stack.service(
        "api", stable={"image": "sample-web:1.0"}, replicas=3, resources={"requests": {"cpu": "100m"}}, drain="1s"
    )
    stack.up().check()
    stack.service("api", autoscale={"min": 2, "max": 5})
    with watched(look) as lost:
        stack.up().check()
        scaler = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/api-stable"
        assert api("GET", scaler)["spec"]["minReplicas"] == 2
        assert stack.planned() == {}
        # The autoscaler writes the number now: an update leaves it alone.
        stack.service("api", autoscale={"min": 4, "max": 5})
        stack.up().check()
        while sizes[-1] < 4:
            assert not lost
        stack.service("api", autoscale={"min": 2, "max": 5}, canary={"image": "sample-web:2.0"})
        stack.up().check()
    assert lost == []
    assert sizes[-1] == 4
    kept = api("GET", scaler)["spec"]["behavior"]["scaleDown"]["selectPolicy"]
    assert kept == "Disabled", "a revert needs what is there"


def test_promotion_takes_over_as_many_pods_as_canary_had_from_its_autoscaler(stack: Stack) -> None:
    stack.edit(steps=[{"weight": 100, "hold": "0s"}])
    old: dict[str, Any] = {"image": "sample-web:1.0", "autoscale": {"min": 1, "max": 3}}
    stack.service("api", stable=old, resources={"requests": {"cpu": "100m"}}, drain="1s")
    stack.service("api", canary={"image": "sample-web:2.0", "autoscale": {"min": 3, "max": 4}})
    stack.service("web", canary={"image": "sample-web:2.0"})
    stack.up().check()
    stack.edit(weight=100)
    stack.up().check()
    stack.service("api", stable=old | {"image": "sample-web:2.0"}, canary=None)
    stack.service("web", stable={"image": "sample-web:2.0"}, canary=None)
    stack.edit(weight=0)
    stack.up().check()
    scaler = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/api-stable"
    deployment = f"{APPS}/deployments/api-stable"
    assert api("GET", scaler)["spec"]["minReplicas"] == 3, "it may not shrink before the load has come over"
    assert api("GET", deployment)["status"]["availableReplicas"] == 3
    assert stack.planned() == {"update": ["api-stable"]}, "the next update gives the autoscaler its bounds back"
    stack.up().check()
    assert api("GET", scaler)["spec"]["minReplicas"] == 1
    assert api("GET", deployment)["spec"]["replicas"] == 3
    assert stack.planned() == {}


def test_the_doors_get_more_pods_with_a_budget_and_fewer_again(stack: Stack) -> None:
    doors = {"waypoint": "shop", "istio-ingressgateway": "istio-ingress"}

    def number(key: str) -> dict[str, int]:
        """`minReplicas` of the autoscalers, or `replicas` of the Deployments."""
        kind, group = (
            ("horizontalpodautoscalers", "autoscaling/v2") if key == "minReplicas" else ("deployments", "apps/v1")
        )
        return {
            name: api("GET", f"/apis/{group}/namespaces/{space}/{kind}/{name}")["spec"][key]
            for name, space in doors.items()
        }

    for replicas in (2, 1):
        stack.edit(gateway={"replicas": replicas}, waypoint={"replicas": replicas})
        stack.up().check()
        for _ in range(100):
            if number("minReplicas") == dict.fromkeys(doors, replicas) and min(number("replicas").values()) >= replicas:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"{number('minReplicas')}, {number('replicas')}, not {replicas}")
        if replicas > 1:
            for name, space in doors.items():
                budget = api("GET", f"/apis/policy/v1/namespaces/{space}/poddisruptionbudgets/{name}")["spec"]
                assert budget["maxUnavailable"] == 1
    assert stack.planned() == {}


def project(folder: Path, transforms: str) -> Path:
    """The checkout with other transforms."""
    for path in [*ROOT.glob("*.py"), *(ROOT / part for part in (".lab", "components", "core", "policies"))]:
        if path.name != "transforms.py":
            (folder / path.name).symlink_to(path)
    about = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    about["runtime"]["options"]["virtualenv"] = str(ROOT / ".venv")
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump(about))
    (folder / "transforms.py").write_text(transforms)
    return folder


IMPORTANT = """
from pulumi import ResourceTransformArgs, ResourceTransformResult

def important(args: ResourceTransformArgs) -> ResourceTransformResult | None:
    if args.type_ != "kubernetes:apps/v1:Deployment":
        return None
    args.props["spec"]["template"]["spec"]["priorityClassName"] = "business"
    return ResourceTransformResult(args.props, args.opts)

TRANSFORMS = [important]
"""


def test_a_transform_changes_a_deployment_and_nothing_else(stack: Stack, tmp_path: Path) -> None:
    assert stack.planned() == {}
    changed = Stack(stack.file, project=project(tmp_path, IMPORTANT))
    assert changed.planned() == {"update": ["web-stable"]}
    assert "priorityClassName" in changed.preview("--diff").check().text


STRANGE = """
from pulumi import CustomTimeouts, ResourceTransformArgs, ResourceTransformResult

def strange(args: ResourceTransformArgs) -> ResourceTransformResult | None:
    if args.type_ != "kubernetes:gateway.networking.k8s.io/v1:Gateway":
        return None
    args.props["spec"]["gatewayClassName"] = "nobodys"
    args.opts.custom_timeouts = CustomTimeouts(create="3s")
    return ResourceTransformResult(args.props, args.opts)

TRANSFORMS = [strange]
"""


def test_a_waypoint_that_does_not_get_ready_says_why(stack: Stack, tmp_path: Path) -> None:
    other = Stack(LAB / "strange.yaml", name="strange", project=project(tmp_path, STRANGE))
    other.reset()
    other.edit(namespace="strange", istio={"install": False})
    other.service(hosts=None)
    ensure(other)
    try:
        failed = other.up()
        assert failed.code != 0
        assert "strange-waypoint did not get ready; the cluster says:" in failed.text
        assert "Gateway waypoint: Programmed is Unknown: Pending: Waiting for controller" in failed.text, failed.text
    finally:
        other.destroy().check()
        other.run("stack", "rm", "--yes").check()


def test_an_ingress_gateway_that_does_not_get_ready_says_why(stack: Stack) -> None:
    broken = LAB / "broken-charts"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(LAB / "charts", broken)
    template = broken / "gateway" / "templates" / "deployment.yaml"
    template.write_text(re.sub(r"image: .*", "image: nobodys/proxy:1", template.read_text()))
    wanted = yaml.safe_load(stack.file.read_text())["config"]["canary:istio"]
    stack.edit(istio=wanted | {"chartSource": f".lab/{broken.name}", "timeout": "6s"})
    failed = stack.up()
    assert failed.code != 0
    assert "mesh-istio-ingressgateway did not get ready; the cluster says:" in failed.text
    assert re.search(r"Pod istio-ingressgateway-\S+: container istio-proxy waiting: ImagePullBackOff", failed.text)
    stack.edit(istio=wanted)
    stack.up().check()
