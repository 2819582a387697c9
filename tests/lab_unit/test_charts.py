"""The lab's charts: what they hold, the few values that count, and that other template expressions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import charts
from lab.plugins.helm import load_chart, parse

CRD = """# by a generator
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: virtualservices.networking.istio.io
  annotations: {"helm.sh/resource-policy": keep}
spec:
  names: {kind: VirtualService}
  description: 'a brace pair {{ like this }}'
"""


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "crds.yaml"
    source.write_text(CRD)
    charts.write(tmp_path / "charts", source)
    return tmp_path / "charts"


def objects(folder: Path, chart: str, **values: Any) -> dict[str, Any]:
    loaded = load_chart({"chart": str(folder / chart), "values": values})
    return {item["kind"]: item for item in parse(loaded.manifest)}


def test_five_charts_of_the_istio_version(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["base", "cni", "gateway", "istiod", "ztunnel"]
    for path in folder.iterdir():
        about = yaml.safe_load((path / "Chart.yaml").read_text())
        assert (about["apiVersion"], about["name"], about["version"]) == ("v2", path.name, "1.30.3")
        assert (path / "values.yaml").is_file()


def test_braces_in_a_crd_reach_the_cluster_as_they_are(folder: Path) -> None:
    written = (folder / "base" / "templates" / "crds.yaml").read_text()
    assert "{{ like" not in written, "Helm would evaluate it"
    crd = objects(folder, "base")["CustomResourceDefinition"]
    assert crd["spec"]["description"] == "a brace pair {{ like this }}"


def test_the_gateway_has_the_names_and_labels_that_istio_selects_by(folder: Path) -> None:
    found = objects(folder, "gateway")
    service, deployment = found["Service"], found["Deployment"]
    labels = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    assert service["metadata"]["name"] == deployment["metadata"]["name"] == "istio-ingressgateway"
    assert service["spec"]["type"] == "LoadBalancer"
    assert [(p["port"], p["targetPort"]) for p in service["spec"]["ports"]] == [(80, 80), (443, 443)]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/healthz/ready", "port": 15021}


@pytest.mark.parametrize(("chart", "image"), [("istiod", "pilot"), ("cni", "install-cni"), ("ztunnel", "ztunnel")])
def test_images_name_the_processes_of_the_lab(folder: Path, chart: str, image: str) -> None:
    found = objects(folder, chart)
    workload = found.get("Deployment") or found["DaemonSet"]
    assert workload["spec"]["template"]["spec"]["containers"][0]["image"] == f"docker.io/istio/{image}:1.30.3"
    assert workload["spec"]["template"]["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]


def test_accounts_and_services_are_installed_before_the_pods_that_use_them(folder: Path) -> None:
    assert [item["kind"] for item in parse(load_chart({"chart": str(folder / "gateway")}).manifest)] == [
        "ServiceAccount",
        "Service",
        "Deployment",
        "HorizontalPodAutoscaler",
    ]


def test_the_gateway_has_as_many_replicas_as_its_autoscaler_wants_and_a_budget_if_asked_for(folder: Path) -> None:
    plain = objects(folder, "gateway")
    assert "replicas" not in plain["Deployment"]["spec"], "an upgrade would take them from the autoscaler"
    assert plain["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 1
    found = objects(folder, "gateway", autoscaling={"minReplicas": 2}, podDisruptionBudget={"maxUnavailable": 1})
    limits = found["HorizontalPodAutoscaler"]["spec"]
    assert (limits["minReplicas"], limits["maxReplicas"]) == (2, 5)
    budget = found["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == found["Deployment"]["spec"]["selector"]


@pytest.mark.parametrize("expression", ["a: {{ .Values.none }}\n", 'a: {{ include "b" . }}\n'])
def test_another_template_expression_is_refused(folder: Path, expression: str) -> None:
    (folder / "cni" / "templates" / "extra.yaml").write_text(expression)
    with pytest.raises(ValueError, match=r"extra\.yaml"):
        load_chart({"chart": str(folder / "cni")})


def test_another_version_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has version 1\.30\.3, not 1\.29\.0"):
        load_chart({"chart": str(folder / "cni"), "version": "1.29.0"})


def test_a_file_without_crds_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "wrong.yaml"
    source.write_text("kind: Service\n")
    with pytest.raises(ValueError, match="holds no CustomResourceDefinition"):
        charts.write(tmp_path / "charts", source)
