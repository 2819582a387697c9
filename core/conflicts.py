"""What Istio would ignore without a word: keys that would make such an object, and what others have put beside ours.

Plain objects in, lines out; `live` reads the objects, `transition` refuses a rise for them and warns otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core import routes, specs, split
from core.model import Settings
from policies.facts import resolved

Object = Mapping[str, Any]

_DROPPED = "is dropped by a waypoint, with all that stands beside it; tell callers apart by a header"
_DOORS = "is fixed: a route holds for the public gateway and for the mesh, or callers inside would meet no weights"
_CAPTURED = "is not offered: the mesh does not capture such pods, so their routes would not hold"
_ADDRESS = "is not offered: a waypoint serves a Service by its address, and a headless one has none"

SILENT = {
    "sourceLabels": _DROPPED,
    "sourceNamespace": _DROPPED,
    "gateways": _DOORS,
    "exportTo": _DOORS,
    "hostNetwork": _CAPTURED,
    "dataplaneMode": _CAPTURED,
    "clusterIP": _ADDRESS,
    "headless": _ADDRESS,
    "selector": "is fixed: with a version in it the Service would never reach the other track",
    "portName": "is the protocol: http or grpc; by a name such as tcp-web Istio would not read headers",
    "ingressUseWaypoint": "is not offered: the gateway's choice of a track would be thrown away and made again",
    "waypointFor": "is fixed: a waypoint for workloads knows no routes of Services",
    "httpRoute": "is not offered: beside a VirtualService for the same host the outcome is undefined",
}
"""Why a key that somebody may look for is none."""


@dataclass(frozen=True)
class Around:
    """What stands in the cluster beside our objects, as the API server shows it; empty where it could not be read."""

    namespace: Object | None = None
    services: Mapping[str, Object] = field(default_factory=dict)
    """By name, of our namespace."""
    routes: Sequence[Object] = ()
    """VirtualServices of all namespaces."""
    rules: Sequence[Object] = ()
    """DestinationRules of all namespaces."""
    parents: Sequence[Object] = ()
    """HTTPRoutes and GRPCRoutes of all namespaces."""


def found(name: str, settings: Settings, around: Around) -> Iterator[str]:
    """What keeps the weight of the service `name` from being in force; each line says what, why and the fix."""
    service, space = around.services.get(name), around.namespace
    if service is not None:
        yield from _of_labels(service, space or {})
        if service.get("spec", {}).get("clusterIP") == "None":
            yield f"Service {name} is headless, and a waypoint serves a Service by its address; delete it and refresh"
    own, host = settings.namespace, routes.service_host(name, settings.namespace)
    public = set(settings.services[name].hosts)
    for other in around.routes:
        place, spec = _place(other), other.get("spec") or {}
        hosts = {resolved(one, place[0]) for one in spec.get("hosts") or []}
        doors = set(spec.get("gateways") or ["mesh"])
        taken = sorted((hosts & public if doors - {"mesh"} else set()) | (hosts & {host} if place[0] == own else set()))
        if place != (own, name) and taken:
            yield f"VirtualService {'/'.join(place)} also names {taken[0]}, and one hides the other; delete it"
    for other in around.rules:
        place = _place(other)
        near = place[0] in (own, routes.INGRESS_NAMESPACE) and place != (own, name)
        if near and resolved((other.get("spec") or {}).get("host", ""), place[0]) == host:
            yield f"DestinationRule {'/'.join(place)} also names {host}, and its subsets may win; delete it"
    for other in around.parents:
        place = _place(other)
        for parent in (other.get("spec") or {}).get("parentRefs") or []:
            if (parent.get("kind"), parent.get("name"), parent.get("namespace", place[0])) == ("Service", name, own):
                title = f"{other.get('kind', 'HTTPRoute')} {'/'.join(place)}"
                yield f"{title} is bound to Service {name} and overrules the VirtualService; delete it"


def _of_labels(service: Object, space: Object) -> Iterator[str]:
    title = f"Service {service['metadata']['name']}"
    if reason := split.unbound(service, space):
        fix = "`pulumi refresh`, then `pulumi up` at the present weight writes the label again"
        yield f"{title} is not bound to its waypoint, so calls inside the mesh meet no weight: {reason}; {fix}"
    labels = _labels(space)
    for one, place in ((service, title), (space, "its namespace")):
        if _labels(one).get("istio.io/ingress-use-waypoint") == "true":
            why = "makes the waypoint choose again what the gateway chose"
            yield f"{title}: istio.io/ingress-use-waypoint on {place} {why}; remove that label"
    if labels.get("istio-injection") == "enabled" or "istio.io/rev" in labels:
        yield f"{title}: its namespace injects sidecars, which go round the waypoint; remove istio-injection and rev"
    if space and labels.get(specs.AMBIENT_LABEL) != "ambient":
        yield f"{title}: its namespace is not {specs.AMBIENT_LABEL}=ambient, so new pods are outside the mesh; label it"


def _labels(item: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = item.get("metadata", {}).get("labels") or {}
    return found


def _place(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
