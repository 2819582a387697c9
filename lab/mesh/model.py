"""What the translation reads (one snapshot of the cluster) and what it returns; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

Json = dict[str, Any]

ROOT_NAMESPACE = "istio-system"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
MANAGED_LABEL = "gateway.istio.io/managed"
WAYPOINT_CLASS = "istio-waypoint"
MESH = "mesh"


@dataclass(frozen=True, order=True)
class Problem:
    """A field of a resource that the stand-in cannot put into force; `field` is a path such as spec.http[0].timeout.

    A `known` one is a limit of the lab that every run of the product meets: listed, but no fault of the resource.
    """

    resource: str
    field: str
    message: str
    known: bool = False


class Unsupported(ValueError):
    """Raised while translating one field; the caller adds the resource."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass
class ProxyConfig:
    """Everything one Envoy gets; endpoints are kept apart because they change most often, secrets because a new
    certificate must not end connections."""

    secrets: list[Json] = field(default_factory=list)
    listeners: list[Json] = field(default_factory=list)
    routes: list[Json] = field(default_factory=list)
    clusters: list[Json] = field(default_factory=list)
    endpoints: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """One address that may serve, with its pod's labels for the choice of subset."""

    address: str
    port: int
    labels: Mapping[str, str]


def kind(obj: Json) -> str:
    """Kind, with Istio's Gateway and the Gateway API's told apart by group."""
    name = str(obj.get("kind", ""))
    if name == "Gateway" and str(obj.get("apiVersion", "")).startswith("gateway.networking.k8s.io/"):
        return "KubernetesGateway"
    return name


def name_of(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Json) -> str:
    return str(obj["metadata"].get("namespace") or "default")


def labels_of(obj: Json) -> dict[str, str]:
    return dict(obj["metadata"].get("labels") or {})


def title(obj: Json) -> str:
    """`VirtualService shop/web`: how logs and `lab status` name a resource."""
    return f"{obj.get('kind')} {namespace_of(obj)}/{name_of(obj)}"


def key_of(obj: Json) -> tuple[str, str, str]:
    return kind(obj), str(obj["metadata"].get("namespace") or ""), name_of(obj)


def resolve_host(host: str, namespace: str) -> str:
    """Istio's rule: only a name without a dot is short and belongs to the namespace of the resource that names it."""
    return host if "." in host or host.startswith("*") else f"{host}.{namespace}.svc.cluster.local"


def service_host(service: Json) -> str:
    return f"{name_of(service)}.{namespace_of(service)}.svc.cluster.local"


def host_matches(one: str, other: str) -> bool:
    """Whether two host patterns (exact, `*.suffix` or `*`) have a name in common."""
    return fnmatchcase(one, other) or fnmatchcase(other, one)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in wanted.items())


def is_http(port: Json) -> bool:
    """Declared by appProtocol or by the port's name; Istio sniffs undeclared ports, so they count too."""
    protocol = str(port.get("appProtocol") or port.get("name") or "").lower()
    other = re.match(r"(tcp|tls|https|mongo|redis|mysql|udp|postgres)(-|$)", protocol)
    return not other and port.get("protocol", "TCP") == "TCP"


def created(obj: Json) -> tuple[str, str, str]:
    """Istio's order of merging: oldest first, then by name and namespace."""
    return str(obj["metadata"].get("creationTimestamp") or ""), name_of(obj), namespace_of(obj)


class World:
    """A snapshot of the watched objects with the look-ups that the translation needs."""

    def __init__(self, objects: Iterable[Json]) -> None:
        self._by_kind: dict[str, list[Json]] = {}
        for obj in objects:
            self._by_kind.setdefault(kind(obj), []).append(obj)
        for group in self._by_kind.values():
            group.sort(key=created)

    def all(self, wanted: str) -> list[Json]:
        return self._by_kind.get(wanted, [])

    def find(self, wanted: str, namespace: str, name: str) -> Json | None:
        return self._index.get((wanted, namespace, name))

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Json]:
        return {key_of(obj): obj for group in self._by_kind.values() for obj in group}

    @cached_property
    def services(self) -> dict[str, Json]:
        """Host name -> Service with a cluster address of its own."""
        return {service_host(s): s for s in self.all("Service") if s["spec"].get("type", "ClusterIP") != "ExternalName"}

    def endpoints(self, service: Json, port: Json) -> list[Endpoint]:
        """Addresses that may get requests: ready, and the pod is not on its way out."""
        out: dict[tuple[str, int], Endpoint] = {}
        namespace = namespace_of(service)
        for part in self.all("EndpointSlice"):
            owner = labels_of(part).get("kubernetes.io/service-name")
            same = [p for p in part.get("ports") or [] if (p.get("name") or "") == (port.get("name") or "")]
            if (namespace_of(part), owner) != (namespace, name_of(service)) or not same:
                continue
            for endpoint in part.get("endpoints") or []:
                pod = self.find("Pod", namespace, str((endpoint.get("targetRef") or {}).get("name", "")))
                # The pod's own deletion mark arrives before the controller manager has rewritten the slice.
                leaving = pod is not None and pod["metadata"].get("deletionTimestamp")
                if leaving or not (endpoint.get("conditions") or {}).get("ready", True):
                    continue
                for address in endpoint.get("addresses") or []:
                    found = Endpoint(address, int(same[0]["port"]), labels_of(pod) if pod else {})
                    out[(address, found.port)] = found
        return [out[k] for k in sorted(out)]

    def destination_rules(self, service: Json, proxy_namespace: str) -> list[Json]:
        """The rules in force for a Service: the proxy's namespace, then the Service's, then the root namespace."""
        host, rules = service_host(service), self.all("DestinationRule")
        rules = [r for r in rules if resolve_host(str(r["spec"]["host"]), namespace_of(r)) == host]
        order = [n for n in (proxy_namespace, namespace_of(service)) if n != ROOT_NAMESPACE]
        for namespace in [*order, ROOT_NAMESPACE]:
            found = [r for r in rules if namespace_of(r) == namespace]
            if found:
                return found
        return []

    def waypoint_of(self, service: Json) -> tuple[str, str] | None:
        """(namespace, name) of the waypoint that the Service or its namespace asks for, whether or not it exists."""
        namespace = self.find("Namespace", "", namespace_of(service))
        for labels in (labels_of(service), labels_of(namespace) if namespace else {}):
            wanted = labels.get("istio.io/use-waypoint")
            if wanted == "none":
                return None
            if wanted:
                return labels.get("istio.io/use-waypoint-namespace", namespace_of(service)), wanted
        return None

    def waypoint(self, place: tuple[str, str] | None) -> Json | None:
        """The waypoint Gateway at that place, if there is one that takes traffic for Services."""
        gateway = self.find("KubernetesGateway", *place) if place else None
        if gateway is None or gateway["spec"].get("gatewayClassName") != WAYPOINT_CLASS:
            return None
        return gateway if labels_of(gateway).get("istio.io/waypoint-for", "service") in ("service", "all") else None
