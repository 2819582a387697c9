"""The cluster in which the cases were recorded: Service web in shop, two stable pods and one canary pod, one
gateway."""

from __future__ import annotations

from typing import Any

from lab.mesh.model import World

Json = dict[str, Any]
GATEWAY_NAMESPACE = "istio-ingress"
GATEWAY_LABELS = {"istio": "ingress"}
# The recorded gateway's Service sent port 80 to 8088, which names the route configuration.
ROUTE_NAME = "http.8088"
SERVICE_ADDRESS = "127.0.2.1"
GATEWAY_ADDRESS = "127.0.1.1"
POD_PORT = 8080
PODS = {"web-stable-a": "stable", "web-stable-b": "stable", "web-canary-a": "canary"}


def pod_address(name: str) -> str:
    return f"127.0.3.{list(PODS).index(name) + 1}"


def recorded_world(manifests: list[Json]) -> World:
    service = _named("Service", "web", "shop") | {
        "spec": {
            "clusterIP": SERVICE_ADDRESS,
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": POD_PORT, "protocol": "TCP"}],
        }
    }
    gateway = _named("Service", "istio-ingressgateway", GATEWAY_NAMESPACE) | {
        "spec": {
            "clusterIP": GATEWAY_ADDRESS,
            "selector": GATEWAY_LABELS,
            "ports": [{"name": "http", "port": 80, "targetPort": 8088, "protocol": "TCP"}],
        }
    }
    slices = _named("EndpointSlice", "web-1", "shop", {"kubernetes.io/service-name": "web"}) | {
        "ports": [{"name": "http", "port": POD_PORT}],
        "endpoints": [
            {"addresses": [pod_address(n)], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": n}}
            for n in PODS
        ],
    }
    pods = [_named("Pod", n, "shop", {"app": "web", "version": v}) | {"spec": {}} for n, v in PODS.items()]
    return World([*manifests, service, gateway, slices, *pods])


def waypoint_gateway() -> Json:
    spec = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
    return _named("Gateway", "waypoint", "shop") | {"apiVersion": "gateway.networking.k8s.io/v1", "spec": spec}


def _named(kind: str, name: str, namespace: str, labels: dict[str, str] | None = None) -> Json:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": labels or {}}}
