"""A snapshot of the cluster -> the configuration of each Envoy: gateways, waypoints and the node's plain TCP doors.

Pure: same snapshot, same result. A resource that cannot be translated is left out and named as a problem;
`accept` lets the caller fall back to the resource's last good form before that happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from lab.mesh.authz import rbac_filters, selects
from lab.mesh.clusters import add_service_clusters, cluster_name, destination_cluster, service_cluster
from lab.mesh.fields import SUPPORTED, unsupported
from lab.mesh.listeners import http_chain, listener, tcp_chain, with_tls
from lab.mesh.model import (
    GATEWAY_NAME_LABEL,
    MANAGED_LABEL,
    MESH,
    Json,
    Problem,
    ProxyConfig,
    Unsupported,
    World,
    has_labels,
    host_matches,
    is_http,
    key_of,
    kind,
    labels_of,
    name_of,
    namespace_of,
    resolve_host,
    service_host,
    title,
)
from lab.mesh.routes import applies_to, catch_all_last, hosts_of, virtual_service_routes


def check(obj: Json) -> list[Problem]:
    """All that is wrong with one resource on its own: unsupported fields, values that cannot be translated."""
    found = unsupported(obj)
    if found:
        return found
    try:
        _try(obj)
    except Unsupported as error:
        found.append(Problem(title(obj), error.path, error.message))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found.append(Problem(title(obj), "spec", f"has not the expected form: {type(error).__name__} {error}"))
    return found


def _try(obj: Json) -> None:
    if kind(obj) == "VirtualService":
        virtual_service_routes(obj, lambda d, _: str(d["host"]))
        if "*" in hosts_of(obj) and applies_to(obj, MESH):
            raise Unsupported("spec.hosts", "host * is not allowed for the mesh gateway")
    elif kind(obj) == "DestinationRule":
        if str(obj["spec"]["host"]).startswith("*"):
            raise Unsupported("spec.host", "wildcard hosts are not supported by the routing stand-in")
        service_cluster("tried", obj["spec"].get("trafficPolicy") or {}, {})
    elif kind(obj) == "AuthorizationPolicy":
        rbac_filters([obj])


def accept(objects: Iterable[Json], good: dict[tuple[str, str, str], Json]) -> tuple[list[Json], list[Problem]]:
    """Replace each bad resource by its last good form (or leave it out); `good` is updated with what is in force."""
    out: list[Json] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str, str]] = set()
    for obj in objects:
        if kind(obj) not in SUPPORTED:
            out.append(obj)
            continue
        key = key_of(obj)
        seen.add(key)
        before = good.get(key)
        if before is not None and before["metadata"].get("uid") != obj["metadata"].get("uid"):
            del good[key]  # a new object of the same name does not inherit
            before = None
        found = [] if before is not None and before.get("spec") == obj.get("spec") else check(obj)
        if not found:
            good[key] = obj
        elif before is not None:
            note = "the last good configuration keeps serving"
            found = [Problem(p.resource, p.field, f"{p.message}; {note}") for p in found]
        problems += found
        if key in good:
            out.append(good[key])
    for key in set(good) - seen:
        del good[key]
    return out, problems


def gateway_config(
    world: World, namespace: str, labels: dict[str, str], access_log: str
) -> tuple[ProxyConfig, list[Problem]]:
    """The configuration of ingress gateway pods with these labels."""
    config, problems = ProxyConfig(), list[Problem]()
    service = _own_service(world, namespace, labels)
    rbac = rbac_filters([p for p in world.all("AuthorizationPolicy") if selects(p, namespace, labels)])
    routes: dict[str, tuple[int, list[tuple[Json, Json]]]] = {}
    doors: dict[int, list[Json]] = {}
    tls_ports: set[int] = set()
    for gateway in world.all("Gateway"):
        if not has_labels(labels, gateway["spec"].get("selector") or {}):
            continue
        for i, server in enumerate(gateway["spec"].get("servers") or []):
            number = int(server["port"]["number"])
            secure = server["port"].get("protocol") == "HTTPS"
            if secure:
                route = f"https.{number}.{server['port'].get('name', '')}.{name_of(gateway)}.{namespace_of(gateway)}"
            else:
                route = f"http.{_target_port(service, number)}"
            first = route not in routes
            chain = http_chain(f"outbound_0.0.0.0_{number}", route, "gateway", access_log, rbac)
            if secure:
                try:
                    chain, secret = with_tls(chain, world, namespace, server, f"spec.servers[{i}]")
                except Unsupported as error:
                    problems.append(Problem(title(gateway), error.path, error.message))
                    continue
                tls_ports.add(number)
                config.secrets += [secret] if secret not in config.secrets else []
            elif number in tls_ports:
                problems.append(Problem(title(gateway), f"spec.servers[{i}].port", "HTTP and HTTPS on one port"))
                continue
            routes.setdefault(route, (number, []))[1].append((gateway, server))
            if first:
                doors.setdefault(number, []).append(chain)
    for route, (number, servers) in routes.items():
        config.routes.append(_gateway_routes(world, route, number, servers))
    addresses = (addresses_of(service) if service else []) or ["0.0.0.0"]
    for number, chains in sorted(doors.items()):
        name = f"{addresses[0]}_{number}"
        config.listeners.append(listener(name, addresses, number, chains, tls=number in tls_ports))
    for service in _routed(world):
        add_service_clusters(config, world, service, namespace)
    return config, problems


def _gateway_routes(world: World, route: str, number: int, servers: list[tuple[Json, Json]]) -> Json:
    hosts: dict[str, Json] = {}
    redirected: set[str] = set()
    for gateway, server in servers:
        name = f"{namespace_of(gateway)}/{name_of(gateway)}"
        redirect = bool((server.get("tls") or {}).get("httpsRedirect"))
        for service in world.all("VirtualService"):
            wanted = _common_hosts(_server_hosts(gateway, server, namespace_of(service)), hosts_of(service))
            if not wanted or not applies_to(service, name):
                continue
            found = virtual_service_routes(service, lambda d, ns: destination_cluster(world, d, ns, number))
            for host in wanted if found else []:
                hosts.setdefault(host, _virtual_host(host, number))["routes"] += found
                redirected |= {host} if redirect else set()
        for pattern in server.get("hosts") or [] if redirect else []:
            redirected.add(str(pattern).rsplit("/", 1)[-1].lower())
    for host in redirected:
        hosts.setdefault(host, _virtual_host(host, number))["require_tls"] = "ALL"
    merged: list[Json] = []
    for _, virtual in sorted(hosts.items()):
        virtual["routes"] = catch_all_last(virtual["routes"])
        alike = (m for m in merged if all(m.get(k) == virtual.get(k) for k in ("routes", "require_tls")))
        same = next(alike, None)
        if same is not None:
            same["domains"] += virtual["domains"]
        else:
            merged.append(virtual)
    return _route_configuration(route, merged or [{"name": f"blackhole:{number}", "domains": ["*"]}]) | {
        "ignore_port_in_host_matching": True,
        "max_direct_response_body_size_bytes": 1048576,
    }


def _route_configuration(name: str, virtual_hosts: list[Json]) -> Json:
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": virtual_hosts,
        "validate_clusters": False,
    }


def _virtual_host(host: str, number: int) -> Json:
    return {"name": f"{host}:{number}", "domains": [host], "include_request_attempt_count": True, "routes": []}


def _server_hosts(gateway: Json, server: Json, namespace: str) -> list[str]:
    """Hosts that a server offers to VirtualServices of one namespace (`ns/host`, `./host`, `*/host`)."""
    places = {"", "*", namespace} | ({"."} if namespace == namespace_of(gateway) else set())
    split = [str(pattern).rpartition("/") for pattern in server.get("hosts") or []]
    return [host.lower() for place, _, host in split if place in places]


def _common_hosts(offered: list[str], wanted: list[str]) -> list[str]:
    """The narrower name of every matching pair."""
    pairs = [(one, other) for one in offered for other in wanted if host_matches(one, other)]
    return list(dict.fromkeys(one if fnmatchcase(one, other) else other for one, other in pairs))


def waypoint_config(world: World, gateway: Json, bound: list[Json], access_log: str) -> ProxyConfig:
    """The configuration of a waypoint's pods: one door for each port of each Service bound to it."""
    config = ProxyConfig()
    own = frozenset(service_host(s) for s in bound)
    namespace = namespace_of(gateway)
    for service in sorted(bound, key=service_host):
        host = service_host(service)
        for port in service["spec"].get("ports") or []:
            number = int(port["port"])
            name = cluster_name(number, "", host, "http" if is_http(port) else "tcp")
            if not addresses_of(service) or port.get("protocol", "TCP") != "TCP":
                continue
            if is_http(port):
                config.routes.append(_waypoint_routes(world, service, number, name, namespace, own))
                chain = http_chain(f"inbound-vip_{number}", name, "waypoint", access_log)
            else:
                chain = tcp_chain(name)
            config.listeners.append(listener(name, addresses_of(service), number, [chain]))
        add_service_clusters(config, world, service, namespace, inbound=True)
    for service in _routed(world):
        if service_host(service) not in own:
            add_service_clusters(config, world, service, namespace)
    return config


def _waypoint_routes(world: World, service: Json, number: int, name: str, namespace: str, own: frozenset[str]) -> Json:
    """Host names do not matter here: whoever called the Service's address gets these routes."""
    host = service_host(service)
    everything = {"destination": {"host": host, "port": {"number": number}}}
    plain = {"metadata": {"name": "default"}, "spec": {"http": [{"name": "default", "route": [everything]}]}}

    def cluster(destination: Json, near: str) -> str:
        return destination_cluster(world, destination, near, number, own)

    routes: list[Json] = []
    for virtual in world.all("VirtualService"):
        near = namespace_of(virtual) in (namespace, namespace_of(service))
        if near and applies_to(virtual, MESH) and any(host_matches(h, host) for h in hosts_of(virtual)):
            routes += virtual_service_routes(virtual, cluster)
    routes = routes or virtual_service_routes(plain, cluster)
    return _route_configuration(name, [{"name": f"inbound|http|{number}", "domains": ["*"], "routes": routes}])


def node_config(world: World, bound: set[str]) -> ProxyConfig:
    """Plain TCP to every ready pod for Services that no waypoint serves: no split is in force there, as in ambient."""
    config = ProxyConfig()
    for service in _destinations(world):
        host = service_host(service)
        if host in bound or not service["spec"].get("selector") or not addresses_of(service):
            continue
        add_service_clusters(config, World([*world.all("EndpointSlice"), *world.all("Pod")]), service, "")
        for port in service["spec"].get("ports") or []:
            if port.get("protocol", "TCP") == "TCP":
                name = f"outbound|{port['port']}||{host}"
                config.listeners.append(listener(name, addresses_of(service), int(port["port"]), [tcp_chain(name)]))
    return config


def _destinations(world: World) -> list[Json]:
    """Services that routes may lead to: all but the API server's and those of the proxies themselves."""
    hosts = sorted(set(world.services) - {"kubernetes.default.svc.cluster.local"})
    return [world.services[h] for h in hosts if not is_proxy_service(world, world.services[h])]


def _routed(world: World) -> list[Json]:
    """Destinations that some route names, whatever its weight. Envoy takes one of the machine's few inotify instances
    for each cluster whose endpoints it watches, so clusters that nothing can lead to are left out."""
    named: set[str] = set()
    for virtual in world.all("VirtualService"):
        for http in virtual["spec"].get("http") or []:
            legs = [leg["destination"] for leg in [*(http.get("route") or []), *(http.get("mirrors") or [])]]
            named |= {resolve_host(str(leg["host"]), namespace_of(virtual)) for leg in legs}
    return [service for service in _destinations(world) if service_host(service) in named]


def is_proxy_service(world: World, service: Json) -> bool:
    """Services of gateways and waypoints: their own Envoys listen on their addresses."""
    if labels_of(service).get(MANAGED_LABEL) or labels_of(service).get(GATEWAY_NAME_LABEL):
        return True
    selector = service["spec"].get("selector")
    near = [p for p in world.all("Pod") if namespace_of(p) == namespace_of(service) and is_proxy_pod(p)]
    return bool(selector) and any(has_labels(labels_of(p), selector) for p in near)


def is_proxy_pod(pod: Json) -> bool:
    """Pods that run Istio's proxy image; `auto` is what the gateway chart writes for the injector to replace."""
    images = [str(c.get("image", "")) for c in pod["spec"].get("containers") or []]
    return any(i == "auto" or i.split("@")[0].rsplit("/", 1)[-1].split(":")[0] == "proxyv2" for i in images)


def addresses_of(service: Json) -> list[str]:
    """Every address that clients use for a Service: load balancer's first, then the cluster's."""
    status = (service.get("status") or {}).get("loadBalancer") or {}
    found = [str(i["ip"]) for i in status.get("ingress") or [] if i.get("ip")]
    cluster = str(service["spec"].get("clusterIP") or "")
    return found + ([cluster] if cluster and cluster != "None" else [])


def _own_service(world: World, namespace: str, labels: dict[str, str]) -> Json | None:
    near = (s for s in world.all("Service") if namespace_of(s) == namespace and s["spec"].get("selector"))
    return next((s for s in near if has_labels(labels, s["spec"]["selector"])), None)


def _target_port(service: Json | None, number: int) -> int:
    for port in service["spec"].get("ports") or [] if service else []:
        target = port.get("targetPort", port["port"])
        if port["port"] == number and isinstance(target, int):
            return target
    return number
