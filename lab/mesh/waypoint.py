"""What istiod does for a waypoint Gateway: the objects it deploys and the conditions it reports; no I/O."""

from __future__ import annotations

from lab.mesh.model import (
    GATEWAY_NAME_LABEL,
    MANAGED_LABEL,
    WAYPOINT_CLASS,
    Json,
    World,
    has_labels,
    is_http,
    labels_of,
    name_of,
    namespace_of,
)

GATEWAY_API = "gateway.networking.k8s.io/v1"
CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
BOUND = "istio.io/WaypointBound"


def objects(gateway: Json, proxy_version: str) -> list[tuple[str, Json]]:
    """(path of the collection, manifest) of the ServiceAccount, Deployment and Service of a waypoint."""
    name, namespace = name_of(gateway), namespace_of(gateway)
    selector = {GATEWAY_NAME_LABEL: name}
    labels = {**selector, CLASS_LABEL: WAYPOINT_CLASS, MANAGED_LABEL: "istio.io-mesh-controller"}
    owner = {"apiVersion": GATEWAY_API, "kind": "Gateway", "name": name, "uid": gateway["metadata"]["uid"]}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner]}
    ready = {"httpGet": {"path": "/healthz/ready", "port": 15021}, "periodSeconds": 1, "failureThreshold": 4}
    container = {
        "name": "istio-proxy",
        "image": f"istio/proxyv2:{proxy_version}",
        "args": ["proxy", "waypoint"],
        "ports": [{"name": "status-port", "containerPort": 15021}],
        "readinessProbe": ready,
    }
    pod_labels = {**labels, "service.istio.io/canonical-name": name, "istio.io/dataplane-mode": "none"}
    pod = {"serviceAccountName": name, "terminationGracePeriodSeconds": 30, "containers": [container]}
    deployment = {
        "selector": {"matchLabels": selector},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": pod_labels}, "spec": pod},
    }
    ports = [
        {"name": "status-port", "port": 15021, "appProtocol": "tcp"},
        {"name": "mesh", "port": 15008, "appProtocol": "all"},
    ]
    wanted: list[tuple[str, str, str, Json]] = [
        ("api", "v1", "ServiceAccount", {}),
        ("apis", "apps/v1", "Deployment", {"spec": deployment}),
        ("api", "v1", "Service", {"spec": {"selector": selector, "ports": ports}}),
    ]
    out = []
    for root, version, kind, more in wanted:
        manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
        out.append((f"/{root}/{version}/namespaces/{namespace}/{kind.lower()}s", manifest))
    return out


def pods(world: World, gateway: Json) -> list[Json]:
    near = [p for p in world.all("Pod") if namespace_of(p) == namespace_of(gateway)]
    return [p for p in near if has_labels(labels_of(p), {GATEWAY_NAME_LABEL: name_of(gateway)})]


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def programmed(world: World, gateway: Json) -> bool:
    return any(is_ready(p) for p in pods(world, gateway))


def gateway_status(world: World, gateway: Json, now: str) -> Json:
    """Accepted at once; Programmed once a pod serves, otherwise with the reason why not."""
    name, namespace = name_of(gateway), namespace_of(gateway)
    host = f"{name}.{namespace}.svc.cluster.local"
    answer = ("True", "Programmed", f"Resource programmed, assigned to service(s) {host}:15008")
    if not programmed(world, gateway):
        states = ", ".join(f"{name_of(p)} not Ready" for p in pods(world, gateway)) or "none exists yet"
        answer = ("False", "Pending", f"Waypoint {namespace}/{name} has no pod that serves: {states}")
    conditions = [
        _condition("Accepted", ("True", "Accepted", "Resource accepted"), gateway, now),
        _condition("Programmed", answer, gateway, now),
    ]
    return {"addresses": [{"type": "Hostname", "value": host}], "conditions": conditions}


def bound_condition(world: World, service: Json, now: str) -> Json | None:
    """The Service's WaypointBound condition, or None where it asks for no waypoint."""
    place = world.waypoint_of(service)
    if place is None or labels_of(service).get(MANAGED_LABEL):
        return None
    name = f"{place[0]}/{place[1]}"
    if world.waypoint(place) is not None:
        answer = ("True", "WaypointAccepted", f"Successfully attached to waypoint {name}")
    else:
        answer = ("False", "WaypointIsMissing", f"associated waypoint {name!r} doesn't exist")
    return _condition(BOUND, answer, service, now)


def was_bound(service: Json) -> bool:
    conditions = (service.get("status") or {}).get("conditions") or []
    return any(c.get("type") == BOUND and c.get("status") == "True" for c in conditions)


def bound_services(world: World, gateway: Json) -> list[Json]:
    place = (namespace_of(gateway), name_of(gateway))
    wanted = [s for s in world.services.values() if world.waypoint_of(s) == place]
    foreign = [s for s in wanted if not labels_of(s).get(MANAGED_LABEL)]
    return [s for s in foreign if any(is_http(p) for p in s["spec"].get("ports") or [])]


def _condition(kind: str, answer: tuple[str, str, str], obj: Json, now: str) -> Json:
    """As before where nothing changed, so that an unchanged status is not written again."""
    status, reason, message = answer
    known = (obj.get("status") or {}).get("conditions") or []
    old: Json = next((c for c in known if c.get("type") == kind), {})
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": int(obj["metadata"].get("generation", 1)),
        "lastTransitionTime": old.get("lastTransitionTime", now) if old.get("status") == status else now,
    }
