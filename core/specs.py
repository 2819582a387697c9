"""Service, waypoint and Helm values as plain data, as `kubectl get -o yaml` shows them."""

from __future__ import annotations

import json
from typing import Any

from core import routes
from core.model import Service, Settings

WAYPOINT_LABEL = "istio.io/use-waypoint"
AMBIENT_LABEL = "istio.io/dataplane-mode"

DISRUPTION = {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
"""How many pods may be moved at once.  Unlike a least number of ready ones it never keeps a node from being drained;
and pods that serve nobody, such as a broken canary's, may go at any time."""


def labels(service: str) -> dict[str, str]:
    """Labels of everything that belongs to a service."""
    return {
        "app": service,
        "app.kubernetes.io/name": service,
        "app.kubernetes.io/part-of": service,
        "app.kubernetes.io/managed-by": "pulumi",
    }


def service_spec(name: str, service: Service) -> dict[str, Any]:
    """One Service over both tracks: the selector must not name a version."""
    port = {"name": service.protocol, "port": service.port, "targetPort": service.target_port}
    return {"selector": {"app": name}, "ports": [port | {"appProtocol": service.protocol}]}


def spread(selector: dict[str, str]) -> list[dict[str, Any]]:
    """Pods over nodes and zones, as far as there is room; those that a rollout is about to take away do not count."""
    keys = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    how = {"whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["pod-template-hash"]}
    return [{"maxSkew": 1, "topologyKey": key, **how, "labelSelector": {"matchLabels": selector}} for key in keys]


def waypoint_spec(parameters: str) -> dict[str, Any]:
    """The proxy that routes calls from inside the mesh; without it ztunnel knows no weights.

    `parameters` names the ConfigMap of `waypoint_parameters`.
    """
    return {
        "gatewayClassName": "istio-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        "infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": parameters}},
    }


def waypoint_parameters(settings: Settings) -> dict[str, str]:
    """What istiod lays over the objects that it makes for the waypoint.

    For one pod too: istiod takes no autoscaler away that it once made.
    """
    pods = {"topologySpreadConstraints": spread({"gateway.networking.k8s.io/gateway-name": routes.WAYPOINT})}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    overlays: dict[str, Any] = {
        "deployment": {"template": {"spec": pods}},
        "horizontalPodAutoscaler": _bounds(settings.waypoint.replicas)
        | {"metrics": [{"type": "Resource", "resource": cpu}]},
        "podDisruptionBudget": DISRUPTION,
    }
    return {kind: json.dumps({"spec": spec}, sort_keys=True) for kind, spec in overlays.items()}


def _bounds(least: int) -> dict[str, int]:
    return {"minReplicas": least, "maxReplicas": max(5, least)}


def chart_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """Helm values by chart.

    istiod itself sets `failurePolicy: Fail` on its webhooks; saying so here keeps Helm from seeing that as drift.
    """
    ambient: dict[str, Any] = {"profile": "ambient"}
    if settings.istio.platform is not None:
        ambient["global"] = {"platform": settings.istio.platform}
    fail = {"base": {"validationFailurePolicy": "Fail"}}
    door = routes.INGRESS.removeprefix("istio-")
    return {
        "base": fail | {"defaultRevision": "default"},
        "istiod": ambient | fail | {"meshConfig": {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}},
        "cni": ambient,
        "ztunnel": {"istioNamespace": "istio-system"},
        "gateway": {
            "service": {"type": settings.gateway.service_type},
            "autoscaling": _bounds(settings.gateway.replicas),
            "podDisruptionBudget": DISRUPTION,  # which the chart leaves out where there is one pod
            "topologySpreadConstraints": spread({"app": routes.INGRESS, "istio": door}),
            "labels": {"istio": door},
        },
    }
