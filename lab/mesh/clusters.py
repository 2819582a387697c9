"""Service + DestinationRule + EndpointSlices -> Envoy clusters and their endpoints."""

from __future__ import annotations

from typing import Any

from lab.mesh.model import Endpoint, Json, ProxyConfig, World, has_labels, is_http, resolve_host, service_host
from lab.mesh.values import duration

_UNLIMITED = 4294967295
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster_name(number: int, subset: str, host: str, inbound: str = "") -> str:
    """`outbound|80|canary|host`; a waypoint calls clusters of its own Services `inbound-vip|80|http/canary|host`."""
    if inbound:
        return f"inbound-vip|{number}|{inbound + '/' + subset if subset else inbound}|{host}"
    return f"outbound|{number}|{subset}|{host}"


def destination_cluster(
    world: World, destination: Json, namespace: str, listen_port: int, own_hosts: frozenset[str] = frozenset()
) -> str:
    """The cluster that a route's destination means; `own_hosts` are the Services of the waypoint that asks."""
    host = resolve_host(str(destination["host"]), namespace)
    number = (destination.get("port") or {}).get("number")
    if number is None:
        ports = world.services[host]["spec"].get("ports") or [] if host in world.services else []
        number = ports[0]["port"] if len(ports) == 1 else listen_port
    return cluster_name(int(number), destination.get("subset") or "", host, "http" if host in own_hosts else "")


def add_service_clusters(
    config: ProxyConfig, world: World, service: Json, proxy_namespace: str, *, inbound: bool = False
) -> None:
    """One cluster for each port and one for each port and subset of the DestinationRules in force."""
    host = service_host(service)
    rules = world.destination_rules(service, proxy_namespace)
    policy = rules[0]["spec"].get("trafficPolicy") or {} if rules else {}
    subsets: dict[str, Json] = {"": {}}
    for rule in rules:
        for subset in rule["spec"].get("subsets") or []:
            subsets.setdefault(str(subset["name"]), subset.get("labels") or {})
    for port in service["spec"].get("ports") or []:
        if port.get("protocol", "TCP") != "TCP":
            continue
        endpoints = world.endpoints(service, port)
        protocol = "http" if is_http(port) else "tcp"
        for subset, labels in subsets.items():
            name = cluster_name(int(port["port"]), subset, host, protocol if inbound else "")
            config.clusters.append(service_cluster(name, policy, port))
            chosen = [e for e in endpoints if has_labels(e.labels, labels)]
            config.endpoints[name] = load_assignment(name, chosen)


def service_cluster(name: str, policy: Json, port: Json) -> Json:
    http = (policy.get("connectionPool") or {}).get("http") or {}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _UNLIMITED)
    limits["max_pending_requests"] = http.get("http1MaxPendingRequests", _UNLIMITED)
    out: Json = {
        "@type": _CLUSTER,
        "name": name,
        "type": "EDS",
        "alt_stat_name": f"{name};",
        "common_lb_config": {},
        "connect_timeout": "10s",
        "eds_cluster_config": {"service_name": name},
        "circuit_breakers": {"thresholds": [limits]},
    }
    balancer = (policy.get("loadBalancer") or {}).get("simple") or "LEAST_REQUEST"
    if balancer != "ROUND_ROBIN":  # Envoy's default
        out["lb_policy"] = balancer
    per_connection = http.get("maxRequestsPerConnection")
    protocol = str(port.get("appProtocol") or port.get("name") or "").lower()
    http2 = protocol.startswith(("http2", "grpc", "kubernetes.io/h2c"))
    if per_connection or http2:
        kind = "http2_protocol_options" if http2 else "http_protocol_options"
        options: Json = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", "explicit_http_config": {kind: {}}}
        if per_connection:
            options["common_http_protocol_options"] = {"max_requests_per_connection": int(per_connection)}
        out["typed_extension_protocol_options"] = {_HTTP_OPTIONS: options}
    if policy.get("outlierDetection"):
        out["outlier_detection"] = _outlier(policy["outlierDetection"])
        # istiod switches Envoy's panic mode off for services with outlier detection.
        out["common_lb_config"] = {"healthy_panic_threshold": {}}
    return out


def _outlier(outlier: Json) -> Json:
    out: Json = {"enforcing_success_rate": 0}
    errors = outlier.get("consecutive5xxErrors")
    if errors is not None:
        out |= {"consecutive_5xx": int(errors), "enforcing_consecutive_5xx": 100 if errors else 0}
    for field, target in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if outlier.get(field):
            out[target] = duration(outlier[field], f"spec.trafficPolicy.outlierDetection.{field}")
    if outlier.get("maxEjectionPercent"):
        out["max_ejection_percent"] = int(outlier["maxEjectionPercent"])
    return out


def load_assignment(cluster: str, endpoints: list[Endpoint]) -> Json:
    """The endpoints of a cluster; an empty list is said explicitly, so that Envoy answers 503 at once."""
    members: list[Any] = [
        {"endpoint": {"address": {"socket_address": {"address": e.address, "port_value": e.port}}}} for e in endpoints
    ]
    return {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": members}] if members else [],
    }
