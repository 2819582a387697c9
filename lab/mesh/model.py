"""What the translation reads (one snapshot of the cluster) and what it returns; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    """A field of a resource that the stand-in cannot put into force; `field` is a path such as spec.http[0].timeout."""

    resource: str
    field: str
    message: str

    def as_json(self) -> Json:
        return {"resource": self.resource, "field": self.field, "message": self.message}


class Unsupported(ValueError):
    """Raised while translating one field; the caller adds the resource."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass
class ProxyConfig:
    """Everything one Envoy gets; endpoints are kept apart because they change most often."""

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
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    if other.startswith("*"):
        return one.endswith(other[1:])
    return one == other


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in wanted.items())


def is_http(port: Json) -> bool:
    """Declared HTTP by appProtocol or by the prefix of the port's name; undeclared ports are sniffed by
    Istio, so count too."""
    protocol = str(port.get("appProtocol") or port.get("name") or "").lower()
    return (
        not re.match(r"(tcp|tls|https|mongo|redis|mysql|udp|postgres)(-|$)", protocol)
        and str(port.get("protocol", "TCP")) == "TCP"
    )


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

    @cached_property
    def _slices(self) -> dict[tuple[str, str], list[Json]]:
        out: dict[tuple[str, str], list[Json]] = {}
        for part in self.all("EndpointSlice"):
            owner = labels_of(part).get("kubernetes.io/service-name", "")
            out.setdefault((namespace_of(part), owner), []).append(part)
        return out

    def endpoints(self, service: Json, port: Json) -> list[Endpoint]:
        """Addresses that may get requests: ready, and the pod is not on its way out."""
        out: dict[tuple[str, int], Endpoint] = {}
        for part in self._slices.get((namespace_of(service), name_of(service)), []):
            number = next(
                (p.get("port") for p in part.get("ports") or [] if (p.get("name") or "") == (port.get("name") or "")),
                None,
            )
            if number is None:
                continue
            for endpoint in part.get("endpoints") or []:
                conditions = endpoint.get("conditions") or {}
                ready = conditions.get("ready", True) or (
                    conditions.get("serving", False) and not conditions.get("terminating", False)
                )
                target = endpoint.get("targetRef") or {}
                pod = self.find("Pod", namespace_of(service), str(target.get("name", "")))
                # The pod's own deletion mark arrives before the controller manager has rewritten the slice.
                if not ready or (pod is not None and pod["metadata"].get("deletionTimestamp")):
                    continue
                for address in endpoint.get("addresses") or []:
                    out[(address, number)] = Endpoint(address, int(number), labels_of(pod) if pod else {})
        return [out[k] for k in sorted(out)]

    def destination_rules(self, host: str, proxy_namespace: str) -> list[Json]:
        """The rules in force for a host: proxy's namespace (unless root), then the service's, then the root
        namespace."""
        service = self.services.get(host)
        order = [proxy_namespace] if proxy_namespace != ROOT_NAMESPACE else []
        order += [namespace_of(service)] if service else []
        for namespace in [*order, ROOT_NAMESPACE]:
            found = [
                rule
                for rule in self.all("DestinationRule")
                if namespace_of(rule) == namespace and resolve_host(str(rule["spec"]["host"]), namespace) == host
            ]
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
