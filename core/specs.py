"""Deployments, Service, waypoint and Helm values as plain data, as `kubectl get -o yaml` shows them."""

from __future__ import annotations

from typing import Any

from core import routes
from core.model import Service, Settings, Track

WAYPOINT_LABEL = "istio.io/use-waypoint"
AMBIENT_LABEL = "istio.io/dataplane-mode"

SHUTDOWN_SECONDS = 25
"""What a pod gets after its drain to finish what it has begun; with the default drain Kubernetes' own 30 s."""


def labels(service: str) -> dict[str, str]:
    """Labels of everything that belongs to a service."""
    return {
        "app": service,
        "app.kubernetes.io/name": service,
        "app.kubernetes.io/part-of": service,
        "app.kubernetes.io/managed-by": "pulumi",
    }


def deployment_spec(name: str, version: str, track: Track, ready_timeout: int) -> dict[str, Any]:
    """One track.  `version` is `stable` or `canary`: what the subsets of the DestinationRule select."""
    own = labels(name) | {"version": version}
    drain = track.drain or 0
    container: dict[str, Any] = {
        "name": name,
        "image": track.image,
        "ports": [{"name": "http", "containerPort": track.target_port}],
        "readinessProbe": _probe(track, failures=1),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if track.env:
        container["env"] = [{"name": key, "value": value} for key, value in sorted(track.env.items())]
    if track.probe is not None:
        container["livenessProbe"] = _probe(track, failures=5)
    if track.resources:
        container["resources"] = track.resources
    if drain:
        # Endpoints leave the proxies a moment after a pod is told to stop; it must answer until then.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    return {
        "replicas": track.replicas,
        "progressDeadlineSeconds": ready_timeout,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "selector": {"matchLabels": {"app": name, "version": version}},
        "template": {
            "metadata": {"labels": own},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "terminationGracePeriodSeconds": drain + SHUTDOWN_SECONDS,
                "containers": [container],
            },
        },
    }


def _probe(track: Track, failures: int) -> dict[str, Any]:
    period = 2 if track.probe is None else track.probe.period_seconds
    if track.probe is None:
        how: dict[str, Any] = {"tcpSocket": {"port": track.target_port}}
    else:
        how = {"httpGet": {"path": track.probe.path, "port": track.target_port}}
    return how | {"periodSeconds": period, "failureThreshold": failures}


def service_spec(name: str, service: Service) -> dict[str, Any]:
    """One Service over both tracks: the selector must not name a version."""
    protocol = {"name": service.protocol, "appProtocol": service.protocol}
    port = protocol | {"port": service.port, "targetPort": service.target_port}
    return {"selector": {"app": name}, "ports": [port]}


def waypoint_spec() -> dict[str, Any]:
    """The proxy that routes calls from inside the mesh; without it ztunnel knows no weights."""
    return {
        "gatewayClassName": "istio-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
    }


def chart_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """Helm values by chart.

    istiod itself sets `failurePolicy: Fail` on its webhooks; saying so here keeps Helm from seeing that as drift.
    """
    ambient: dict[str, Any] = {"profile": "ambient"}
    if settings.istio.platform is not None:
        ambient["global"] = {"platform": settings.istio.platform}
    fail = {"base": {"validationFailurePolicy": "Fail"}}
    replicas = settings.gateway.replicas
    return {
        "base": fail | {"defaultRevision": "default"},
        "istiod": ambient | fail | {"meshConfig": {"accessLogFile": "/dev/stdout"}},
        "cni": ambient,
        "ztunnel": {"istioNamespace": "istio-system"},
        "gateway": {
            "service": {"type": settings.gateway.service_type},
            "autoscaling": {"minReplicas": replicas, "maxReplicas": max(5, replicas)},
            "labels": {"istio": routes.INGRESS.removeprefix("istio-")},
        },
    }
