"""Five small Helm charts that leave behind what Istio's own leave, for machines without Istio's charts.

Nearly plain YAML, so that real Helm and the provider stand-in install the same thing. Values are accepted and ignored
but for the gateway's `autoscaling` and `podDisruptionBudget`. The images name host processes of the lab (`lab.images`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

VERSION = "1.30.3"
_PART_OF = {"app.kubernetes.io/part-of": "istio", "app.kubernetes.io/version": VERSION}
Manifest = dict[str, Any]
_VALUES = {"gateway": {"autoscaling": {"minReplicas": 1, "maxReplicas": 5}, "podDisruptionBudget": {}}}
_AUTOSCALER = """apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: istio-ingressgateway}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: istio-ingressgateway}
  minReplicas: {{ .Values.autoscaling.minReplicas }}
  maxReplicas: {{ .Values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}
"""
_BUDGET = """{{- if .Values.podDisruptionBudget }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: istio-ingressgateway}
spec:
  selector: {matchLabels: {app: istio-ingressgateway, istio: ingressgateway}}
  {{- toYaml .Values.podDisruptionBudget | nindent 2 }}
{{- end }}
"""


def _meta(name: str, labels: dict[str, str]) -> Manifest:
    return {"name": name, "labels": {**labels, **_PART_OF}}


def _account(name: str, labels: dict[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name, labels)}


def _workload(kind: str, name: str, labels: dict[str, str], container: Manifest, **spec: Any) -> Manifest:
    pod = {"serviceAccountName": name, "terminationGracePeriodSeconds": 30, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": _meta(name, labels),
        "spec": {
            **spec,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": {**labels, **_PART_OF}}, "spec": pod},
        },
    }


def _service(name: str, labels: dict[str, str], kind: str, ports: dict[str, tuple[int, int]]) -> Manifest:
    listed = [{"name": n, "port": port, "targetPort": target, "protocol": "TCP"} for n, (port, target) in ports.items()]
    spec = {"type": kind, "selector": labels, "ports": listed}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(name, labels), "spec": spec}


def _container(name: str, image: str, ready: tuple[str, int] | None = None, **more: Any) -> Manifest:
    container: Manifest = {"name": name, "image": f"docker.io/istio/{image}:{VERSION}", **more}
    if ready:
        path, port = ready
        probe = {"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "timeoutSeconds": 3}
        container["readinessProbe"] = {**probe, "failureThreshold": 3}
    return container


def manifests() -> dict[str, dict[str, Manifest | str]]:
    """Chart → template file → object or text, for all charts but `base`."""
    istiod = {"app": "istiod", "istio": "pilot"}
    gateway = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    cni = {"k8s-app": "istio-cni-node"}
    ztunnel = {"app": "ztunnel"}
    pilot = _container("discovery", "pilot", ("/ready", 8080), args=["discovery"])
    proxy = _container("istio-proxy", "proxyv2", ("/healthz/ready", 15021), args=["proxy", "router"])
    proxy["ports"] = [{"containerPort": port, "protocol": "TCP"} for port in (80, 443, 15021)]
    control_ports = {"grpc-xds": (15010, 15010), "https-dns": (15012, 15012), "http-monitoring": (15014, 15014)}
    public_ports = {"http2": (80, 80), "https": (443, 443)}
    rolling = {"strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}}}  # replicas: one, or autoscaled
    entry = "istio-ingressgateway"
    return {
        "istiod": {
            "serviceaccount": _account("istiod", istiod),
            "service": _service("istiod", istiod, "ClusterIP", control_ports),
            "deployment": _workload("Deployment", "istiod", istiod, pilot, **rolling),
        },
        "cni": {
            "serviceaccount": _account("istio-cni-node", cni),
            "daemonset": _workload("DaemonSet", "istio-cni-node", cni, _container("install-cni", "install-cni")),
        },
        "ztunnel": {
            "serviceaccount": _account("ztunnel", ztunnel),
            "daemonset": _workload("DaemonSet", "ztunnel", ztunnel, _container("istio-proxy", "ztunnel")),
        },
        "gateway": {
            "serviceaccount": _account(entry, gateway),
            "service": _service(entry, gateway, "LoadBalancer", public_ports),
            "deployment": _workload("Deployment", entry, gateway, proxy, **rolling),
            "hpa": _AUTOSCALER,
            "poddisruptionbudget": _BUDGET,
        },
    }


def write(folder: Path, istio_crds: Path) -> None:
    """Write the charts to `folder/<name>`; `istio_crds` is the file of Istio's API module that holds its CRDs."""
    import yaml

    crds = istio_crds.read_text()
    if "kind: CustomResourceDefinition" not in crds:
        raise ValueError(
            f"{istio_crds} holds no CustomResourceDefinition: it should be Istio's customresourcedefinitions.gen.yaml"
        )
    charts = {"base": {"crds": crds.replace("{{", '{{ "{{" }}')}} | manifests()
    for chart, files in charts.items():
        (folder / chart / "templates").mkdir(parents=True, exist_ok=True)
        about = {"apiVersion": "v2", "name": chart, "version": VERSION, "appVersion": VERSION, "type": "application"}
        about["description"] = f"The canary lab's stand-in for Istio's chart {chart}"
        (folder / chart / "Chart.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        (folder / chart / "values.yaml").write_text(yaml.safe_dump(_VALUES.get(chart, {})))
        for name, item in files.items():
            text = item if isinstance(item, str) else yaml.safe_dump(item, sort_keys=False)
            (folder / chart / "templates" / f"{name}.yaml").write_text(text)
