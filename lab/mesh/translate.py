"""A snapshot of the cluster -> the configuration of each Envoy: gateways, waypoints and the node's plain TCP doors.

Pure: same snapshot, same result. A resource that cannot be translated is left out and named as a problem;
`accept` lets the caller fall back to the resource's last good form before that happens.
"""

from __future__ import annotations

from collections.abc import Iterable

from lab.mesh.authz import policies_for, rbac_filters
from lab.mesh.clusters import add_service_clusters, inbound_cluster, outbound_cluster
from lab.mesh.fields import unsupported
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
    service_host,
    title,
)
from lab.mesh.routes import Door, applies_to, catch_all_last, hosts_of, virtual_service_routes

TRANSLATED = ("Gateway", "VirtualService", "DestinationRule", "AuthorizationPolicy")


def check(obj: Json) -> list[Problem]:
    """Everything that is wrong with one resource on its own: unsupported fields and values that cannot be
    translated."""
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
        gateways = frozenset([MESH, *(obj["spec"].get("gateways") or [])])
        virtual_service_routes(obj, Door(gateways, 80, lambda d, ns: f"{d['host']}"))
        if "*" in hosts_of(obj) and applies_to(obj, MESH):
            raise Unsupported("spec.hosts", "host * is not allowed for the mesh gateway")
    elif kind(obj) == "DestinationRule":
        if str(obj["spec"]["host"]).startswith("*"):
            raise Unsupported("spec.host", "wildcard hosts are not supported by the routing stand-in")
        service = {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80, "name": "http"}]}}
        world = World([service | {"kind": "Service"}, _at_x(obj)])
        add_service_clusters(ProxyConfig(), world, service, "default")
    elif kind(obj) == "AuthorizationPolicy":
        rbac_filters([obj])
    elif kind(obj) == "Gateway":
        for server in obj["spec"].get("servers") or []:
            int(server["port"]["number"])


def _at_x(rule: Json) -> Json:
    """The rule as if it were for the Service x, so that its policies can be tried without its Service."""
    return rule | {"spec": rule["spec"] | {"host": "x"}, "metadata": {"name": "x", "namespace": "default"}}


def accept(objects: Iterable[Json], good: dict[tuple[str, str, str], Json]) -> tuple[list[Json], list[Problem]]:
    """Replace each bad resource by its last good form (or leave it out); `good` is updated with what is in force."""
    out: list[Json] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str, str]] = set()
    for obj in objects:
        if kind(obj) not in TRANSLATED:
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
    rbac = rbac_filters(policies_for(world, namespace, labels))
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
                    chain = with_tls(chain, world, namespace, server, f"spec.servers[{i}]")
                except Unsupported as error:
                    problems.append(Problem(title(gateway), error.path, error.message))
                    continue
                tls_ports.add(number)
            elif number in tls_ports:
                problems.append(Problem(title(gateway), f"spec.servers[{i}].port", "HTTP and HTTPS on one port"))
                continue
            routes.setdefault(route, (number, []))[1].append((gateway, server))
            if first:
                doors.setdefault(number, []).append(chain)
    for route, (number, servers) in routes.items():
        config.routes.append(_gateway_routes(world, route, number, servers))
    for number, chains in sorted(doors.items()):
        addresses = (addresses_of(service) if service else []) or ["0.0.0.0"]
        config.listeners.append(
            listener(f"{addresses[0]}_{number}", addresses, number, chains, tls=number in tls_ports)
        )
    for service in _destinations(world):
        add_service_clusters(config, world, service, namespace)
    return config, problems


def _gateway_routes(world: World, route: str, number: int, servers: list[tuple[Json, Json]]) -> Json:
    hosts: dict[str, Json] = {}
    for gateway, server in servers:
        name = f"{namespace_of(gateway)}/{name_of(gateway)}"
        redirect = bool((server.get("tls") or {}).get("httpsRedirect"))
        secure = server["port"].get("protocol") == "HTTPS"
        for service in world.all("VirtualService"):
            if not applies_to(service, name):
                continue
            namespace = namespace_of(service)
            wanted = _common_hosts(_server_hosts(gateway, server, namespace), hosts_of(service))
            if not wanted:
                continue
            door = Door(
                frozenset([name, *([name_of(gateway)] if namespace == namespace_of(gateway) else [])]),
                number,
                lambda d, ns: outbound_cluster(world, d, ns, number),
                tls=secure,
            )
            found = virtual_service_routes(service, door)
            if not found:
                continue
            for host in wanted:
                hosts.setdefault(host, _virtual_host(host, number))["routes"] += found
                if redirect:
                    hosts[host]["require_tls"] = "ALL"
        if redirect:
            for pattern in server.get("hosts") or []:
                host = str(pattern).rsplit("/", 1)[-1].lower()
                hosts.setdefault(host, _virtual_host(host, number))["require_tls"] = "ALL"
    merged: list[Json] = []
    for host in sorted(hosts):
        virtual = hosts[host]
        virtual["routes"] = catch_all_last(virtual["routes"])
        same = next((m for m in merged if _alike(m, virtual)), None)
        if same is not None:
            same["domains"] += virtual["domains"]
        else:
            merged.append(virtual)
    if not merged:
        merged = [{"name": f"blackhole:{number}", "domains": ["*"]}]
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": route,
        "virtual_hosts": merged,
        "validate_clusters": False,
        "ignore_port_in_host_matching": True,
        "max_direct_response_body_size_bytes": 1048576,
    }


def _virtual_host(host: str, number: int) -> Json:
    return {"name": f"{host}:{number}", "domains": [host], "include_request_attempt_count": True, "routes": []}


def _alike(one: Json, other: Json) -> bool:
    return bool(one["routes"] == other["routes"] and one.get("require_tls") == other.get("require_tls"))


def _server_hosts(gateway: Json, server: Json, namespace: str) -> list[str]:
    """Hosts that a server offers to VirtualServices of one namespace (`ns/host`, `./host`, `*/host`)."""
    out = []
    for pattern in server.get("hosts") or []:
        place, _, host = str(pattern).rpartition("/")
        place = namespace_of(gateway) if place == "." else place
        if place in ("", "*", namespace):
            out.append(host.lower())
    return out


def _common_hosts(offered: list[str], wanted: list[str]) -> list[str]:
    """The narrower name of every matching pair."""
    out: list[str] = []
    for one in offered:
        for other in wanted:
            if host_matches(one, other):
                exact = [h for h in (one, other) if not h.startswith("*")]
                narrow = exact[0] if exact else max(one, other, key=len)
                if narrow not in out:
                    out.append(narrow)
    return out


def waypoint_config(world: World, gateway: Json, bound: list[Json], access_log: str) -> ProxyConfig:
    """The configuration of a waypoint's pods: one door for each port of each Service bound to it."""
    config = ProxyConfig()
    own = frozenset(service_host(s) for s in bound)
    namespace = namespace_of(gateway)
    for service in sorted(bound, key=service_host):
        host = service_host(service)
        for port in service["spec"].get("ports") or []:
            number = int(port["port"])
            name = f"inbound-vip|{number}|{'http' if is_http(port) else 'tcp'}|{host}"
            if not addresses_of(service) or port.get("protocol", "TCP") != "TCP":
                continue
            if is_http(port):
                config.routes.append(_waypoint_routes(world, service, number, name, namespace, own))
                chain = http_chain(f"inbound-vip_{number}", name, "waypoint", access_log)
            else:
                chain = tcp_chain(name)
            config.listeners.append(listener(name, addresses_of(service), number, [chain]))
        add_service_clusters(config, world, service, namespace, inbound=True)
    for service in _destinations(world):
        if service_host(service) not in own:
            add_service_clusters(config, world, service, namespace)
    return config


def _waypoint_routes(world: World, service: Json, number: int, name: str, namespace: str, own: frozenset[str]) -> Json:
    """Host names do not matter here: whoever called the Service's address gets these routes."""
    door = Door(
        frozenset([MESH]), number, lambda d, ns: inbound_cluster(world, d, ns, number, own), drops_source_labels=True
    )
    routes: list[Json] = []
    for virtual in world.all("VirtualService"):
        near = namespace_of(virtual) in (namespace, namespace_of(service))
        if (
            near
            and applies_to(virtual, MESH)
            and any(host_matches(h, service_host(service)) for h in hosts_of(virtual))
        ):
            routes += virtual_service_routes(virtual, door)
    if not routes:
        plain = {
            "metadata": {"name": "default"},
            "spec": {"http": [{"name": "default", "route": [_all_of(service, number)]}]},
        }
        routes = virtual_service_routes(plain, door)
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [{"name": f"inbound|http|{number}", "domains": ["*"], "routes": routes}],
        "validate_clusters": False,
    }


def _all_of(service: Json, number: int) -> Json:
    return {"destination": {"host": service_host(service), "port": {"number": number}}}


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


def is_proxy_service(world: World, service: Json) -> bool:
    """Services of gateways and waypoints: their own Envoys listen on their addresses."""
    if labels_of(service).get(MANAGED_LABEL) or labels_of(service).get(GATEWAY_NAME_LABEL):
        return True
    selector = service["spec"].get("selector") or {}
    return any(
        is_proxy_pod(pod) and namespace_of(pod) == namespace_of(service) and has_labels(labels_of(pod), selector)
        for pod in world.all("Pod")
        if selector
    )


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
    for service in world.all("Service"):
        selector = service["spec"].get("selector")
        if namespace_of(service) == namespace and selector and has_labels(labels, selector):
            return service
    return None


def _target_port(service: Json | None, number: int) -> int:
    for port in service["spec"].get("ports") or [] if service else []:
        target = port.get("targetPort", port["port"])
        if port["port"] == number and isinstance(target, int):
            return target
    return number
