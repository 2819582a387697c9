"""Service + DestinationRule + EndpointSlices -> Envoy clusters and their endpoints."""

from __future__ import annotations

from typing import Any

from lab.mesh.model import (
    Endpoint,
    Json,
    ProxyConfig,
    Unsupported,
    World,
    has_labels,
    is_http,
    resolve_host,
    service_host,
)
from lab.mesh.values import duration

_UNLIMITED = 4294967295
_LB = {"LEAST_REQUEST": "LEAST_REQUEST", "LEAST_CONN": "LEAST_REQUEST", "ROUND_ROBIN": "", "RANDOM": "RANDOM"}
_LB_DEFAULT = {"": "LEAST_REQUEST", "UNSPECIFIED": "LEAST_REQUEST"}
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def outbound_cluster(world: World, destination: Json, namespace: str, listen_port: int) -> str:
    """`outbound|80|canary|host`: the name of a destination as a gateway sees it."""
    host, port = _host_port(world, destination, namespace, listen_port)
    return f"outbound|{port}|{destination.get('subset') or ''}|{host}"


def inbound_cluster(
    world: World, destination: Json, namespace: str, listen_port: int, own_hosts: frozenset[str]
) -> str:
    """`inbound-vip|80|http/canary|host` for the waypoint's own Services, else as a gateway names it."""
    host, port = _host_port(world, destination, namespace, listen_port)
    subset = destination.get("subset") or ""
    if host in world.services and host not in own_hosts:
        return f"outbound|{port}|{subset}|{host}"
    return f"inbound-vip|{port}|{'http/' + subset if subset else 'http'}|{host}"


def _host_port(world: World, destination: Json, namespace: str, listen_port: int) -> tuple[str, int]:
    host = resolve_host(str(destination["host"]), namespace)
    number = (destination.get("port") or {}).get("number")
    if number is None:
        ports = world.services[host]["spec"].get("ports") or [] if host in world.services else []
        number = ports[0]["port"] if len(ports) == 1 else listen_port
    return host, int(number)


def add_service_clusters(
    config: ProxyConfig, world: World, service: Json, proxy_namespace: str, *, inbound: bool = False
) -> None:
    """One cluster for each port and one for each port and subset of the DestinationRules in force."""
    host = service_host(service)
    rules = world.destination_rules(host, proxy_namespace)
    policy = rules[0]["spec"].get("trafficPolicy") or {} if rules else {}
    subsets: dict[str, Json] = {}
    for rule in rules:
        for subset in rule["spec"].get("subsets") or []:
            subsets.setdefault(str(subset["name"]), subset)
    for port in service["spec"].get("ports") or []:
        if str(port.get("protocol", "TCP")) != "TCP":
            continue
        endpoints = world.endpoints(service, port)
        number = int(port["port"])
        protocol = "http" if is_http(port) else "tcp"
        for name, subset in [("", {}), *subsets.items()]:
            if inbound:
                cluster = f"inbound-vip|{number}|{protocol + '/' + name if name else protocol}|{host}"
            else:
                cluster = f"outbound|{number}|{name}|{host}"
            merged = _policy(policy, subset.get("trafficPolicy") or {}, number)
            config.clusters.append(_cluster(cluster, merged, port))
            chosen = [e for e in endpoints if has_labels(e.labels, subset.get("labels") or {})]
            config.endpoints[cluster] = load_assignment(cluster, chosen)


def _policy(service_level: Json, subset_level: Json, port: int) -> Json:
    """A subset's settings replace the rule's block by block; port level settings replace both for their port."""
    merged = {**service_level, **subset_level}
    for level in merged.pop("portLevelSettings", None) or []:
        if int((level.get("port") or {}).get("number", 0)) == port:
            merged.update({k: v for k, v in level.items() if k != "port"})
    return merged


def _cluster(name: str, policy: Json, port: Json) -> Json:
    pool = policy.get("connectionPool") or {}
    tcp, http = pool.get("tcp") or {}, pool.get("http") or {}
    out: Json = {
        "@type": _CLUSTER,
        "name": name,
        "type": "EDS",
        "alt_stat_name": f"{name};",
        "common_lb_config": {},
        "connect_timeout": duration(tcp.get("connectTimeout", "10s"), "spec.trafficPolicy.connectionPool.tcp"),
        "eds_cluster_config": {"service_name": name},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": tcp.get("maxConnections", _UNLIMITED),
                    "max_pending_requests": http.get("http1MaxPendingRequests", _UNLIMITED),
                    "max_requests": http.get("http2MaxRequests", _UNLIMITED),
                    "max_retries": http.get("maxRetries", _UNLIMITED),
                }
            ]
        },
    }
    simple = str((policy.get("loadBalancer") or {}).get("simple") or "")
    balancer = _LB_DEFAULT.get(simple, _LB.get(simple))
    if balancer is None:
        raise Unsupported("spec.trafficPolicy.loadBalancer.simple", f"{simple!r} is not supported")
    if balancer:
        out["lb_policy"] = balancer
    common: Json = {}
    if http.get("maxRequestsPerConnection"):
        common["max_requests_per_connection"] = int(http["maxRequestsPerConnection"])
    if http.get("idleTimeout"):
        common["idle_timeout"] = duration(http["idleTimeout"], "spec.trafficPolicy.connectionPool.http.idleTimeout")
    http2 = str(port.get("appProtocol") or port.get("name") or "").lower().startswith(("http2", "grpc"))
    if common or http2:
        options: Json = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}"}
        kind = "http2_protocol_options" if http2 else "http_protocol_options"
        options["explicit_http_config"] = {kind: {}}
        if common:
            options["common_http_protocol_options"] = common
        out["typed_extension_protocol_options"] = {_HTTP_OPTIONS: options}
    if policy.get("outlierDetection"):
        out["outlier_detection"] = _outlier(policy["outlierDetection"])
        # istiod switches Envoy's panic mode off for services with outlier detection.
        minimum = float(policy["outlierDetection"].get("minHealthPercent", 0))
        out["common_lb_config"] = {"healthy_panic_threshold": {"value": minimum} if minimum else {}}
    return out


def _outlier(outlier: Json) -> Json:
    out: Json = {"enforcing_success_rate": 0}
    for field, target in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if outlier.get(field) is not None:
            out[target] = int(outlier[field])
            out[f"enforcing_{target}"] = 100 if outlier[field] else 0
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
