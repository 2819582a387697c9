"""The lab's cluster carries what production pods bring: autoscalers, disruption budgets, configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.stack import api
from tests.e2e.waiting import until

pytestmark = pytest.mark.lab

SPACE = "/api/v1/namespaces/pods"
WEB = "/apis/apps/v1/namespaces/pods/deployments"
SCALERS = "/apis/autoscaling/v2/namespaces/pods/horizontalpodautoscalers"
BUDGETS = "/apis/policy/v1/namespaces/pods/poddisruptionbudgets"
LABELS = {"app": "web"}


@pytest.fixture
def space(lab: None) -> Iterator[None]:
    """A namespace of its own."""
    api("POST", "/api/v1/namespaces", {"metadata": {"name": "pods"}})
    until(lambda: api("GET", f"{SPACE}/serviceaccounts")["items"], "the namespace's account")
    yield
    api("DELETE", SPACE)

    def left() -> bool:
        return any(item["metadata"]["name"] == "pods" for item in api("GET", "/api/v1/namespaces")["items"])

    until(lambda: not left(), "the end of the namespace")


def deployment(replicas: int, **container: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "web", "image": "sample-web:1.0", **container}], "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": LABELS}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def ready() -> int:
    return int(api("GET", f"{WEB}/web")["status"].get("readyReplicas", 0))


def test_an_autoscaler_without_metrics_keeps_to_its_limits_and_scales_nothing_else(space: None) -> None:
    api("POST", WEB, deployment(3))
    api(
        "POST",
        BUDGETS,
        {"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": LABELS}}},
    )
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 6, "metrics": [cpu]}
    until(lambda: ready() == 3, "three pods")
    api("POST", SCALERS, {"metadata": {"name": "web"}, "spec": spec})

    def told() -> list[str]:
        found = api("GET", f"{SCALERS}/web").get("status", {}).get("conditions") or []
        return [condition["reason"] for condition in found]

    until(lambda: "FailedGetResourceMetric" in told(), "a look of the autoscaler")
    assert api("GET", f"{WEB}/web")["spec"]["replicas"] == 3
    until(lambda: api("GET", f"{BUDGETS}/web").get("status", {}).get("disruptionsAllowed") == 1, "a budget")
    api("PATCH", f"{SCALERS}/web", {"spec": {"minReplicas": 4}})
    until(lambda: ready() == 4, "a fourth pod")


def test_a_pod_without_its_configuration_says_so_and_starts_when_it_comes(space: None) -> None:
    api("POST", WEB, deployment(1, envFrom=[{"configMapRef": {"name": "settings"}}]))

    def reasons() -> list[Any]:
        found = [pod.get("status", {}) for pod in api("GET", f"{SPACE}/pods")["items"]]
        return [c["state"].get("waiting", {}).get("message") for s in found for c in s.get("containerStatuses") or []]

    until(lambda: reasons() == ['configmap "settings" not found'], "the reason")
    api("POST", f"{SPACE}/configmaps", {"metadata": {"name": "settings"}, "data": {"MODE": "fast"}})
    until(lambda: ready() == 1, "a pod")
