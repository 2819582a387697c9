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

CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
BOUND = "istio.io/WaypointBound"
CLASSES = {"istio": "istio.io/gateway-controller", WAYPOINT_CLASS: "istio.io/mesh-controller"}


def objects(gateway: Json, version: str) -> list[tuple[str, Json]]:
    """(path of the collection, manifest) of the ServiceAccount, Deployment and Service of a waypoint."""
    name, namespace = name_of(gateway), namespace_of(gateway)
    labels = {GATEWAY_NAME_LABEL: name, CLASS_LABEL: WAYPOINT_CLASS, MANAGED_LABEL: "istio.io-mesh-controller"}
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": name,
                "uid": gateway["metadata"]["uid"],
            }
        ],
    }
    selector = {GATEWAY_NAME_LABEL: name}
    pod_labels = {**labels, "service.istio.io/canonical-name": name, "istio.io/dataplane-mode": "none"}
    container = {
        "name": "istio-proxy",
        "image": f"istio/proxyv2:{version}",
        "args": ["proxy", "waypoint"],
        "ports": [{"name": "status-port", "containerPort": 15021}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": 1,
            "failureThreshold": 4,
        },
    }
    deployment = {
        "selector": {"matchLabels": selector},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": pod_labels},
            "spec": {"serviceAccountName": name, "terminationGracePeriodSeconds": 30, "containers": [container]},
        },
    }
    service = {
        "selector": selector,
        "ports": [
            {"name": "status-port", "port": 15021, "appProtocol": "tcp"},
            {"name": "mesh", "port": 15008, "appProtocol": "all"},
        ],
    }
    core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
    return [
        (f"{core}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        (
            f"{apps}/deployments",
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        ),
        (f"{core}/services", {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service}),
    ]


def pods(world: World, gateway: Json) -> list[Json]:
    wanted = {GATEWAY_NAME_LABEL: name_of(gateway)}
    return [
        p for p in world.all("Pod") if namespace_of(p) == namespace_of(gateway) and has_labels(labels_of(p), wanted)
    ]


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def why_not_ready(found: list[Json]) -> str:
    """The reason a person needs: no pod at all, or what its container says."""
    if not found:
        return "no pod of its Deployment exists yet"
    notes = []
    for pod in found:
        status = pod.get("status") or {}
        states = [c.get("state") or {} for c in status.get("containerStatuses") or []]
        waiting: Json = next((s["waiting"] for s in states if s.get("waiting")), {})
        reason = waiting.get("reason") or status.get("reason") or f"phase {status.get('phase', 'Pending')}, not Ready"
        message = waiting.get("message") or status.get("message")
        notes.append(f"pod {name_of(pod)}: {reason}{f' ({message})' if message else ''}")
    return "; ".join(notes)


def programmed(world: World, gateway: Json) -> bool:
    return any(is_ready(p) for p in pods(world, gateway))


def gateway_status(world: World, gateway: Json, attached: int, now: str) -> Json:
    """Accepted at once; Programmed once a pod serves, otherwise with the reason why not."""
    name, namespace = name_of(gateway), namespace_of(gateway)
    host = f"{name}.{namespace}.svc.cluster.local"
    if programmed(world, gateway):
        answer = ("True", "Programmed", f"Resource programmed, assigned to service(s) {host}:15008")
    else:
        answer = (
            "False",
            "Pending",
            f"Waypoint {namespace}/{name} is not ready: {why_not_ready(pods(world, gateway))}",
        )
    old = gateway.get("status") or {}
    generation = int(gateway["metadata"].get("generation", 1))
    conditions = [
        _condition("Accepted", ("True", "Accepted", "Resource accepted"), generation, old.get("conditions"), now),
        _condition("Programmed", answer, generation, old.get("conditions"), now),
    ]
    before = {x.get("name"): x.get("conditions") for x in old.get("listeners") or []}
    listeners = []
    for listener in gateway["spec"].get("listeners") or []:
        states = {
            "Accepted": ("True", "Accepted", "No errors found"),
            "Conflicted": ("False", "NoConflicts", "No errors found"),
            "Programmed": (answer[0], answer[1], "No errors found" if answer[0] == "True" else answer[2]),
            "ResolvedRefs": ("True", "ResolvedRefs", "No errors found"),
        }
        known = before.get(listener["name"])
        listeners.append(
            {
                "name": listener["name"],
                "attachedRoutes": attached,
                "supportedKinds": [],
                "conditions": [_condition(t, s, generation, known, now) for t, s in states.items()],
            }
        )
    return {"addresses": [{"type": "Hostname", "value": host}], "conditions": conditions, "listeners": listeners}


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
    known = (service.get("status") or {}).get("conditions")
    return _condition(BOUND, answer, int(service["metadata"].get("generation", 1)), known, now)


def bound_services(world: World, gateway: Json) -> list[Json]:
    place = (namespace_of(gateway), name_of(gateway))
    return [
        s
        for s in world.services.values()
        if not labels_of(s).get(MANAGED_LABEL)
        and any(is_http(p) for p in s["spec"].get("ports") or [])
        and world.waypoint_of(s) == place
    ]


def class_status(gateway_class: Json, now: str) -> Json:
    accepted = ("True", "Accepted", "Handled by the routing stand-in for istiod")
    known = (gateway_class.get("status") or {}).get("conditions")
    return {
        "conditions": [_condition("Accepted", accepted, gateway_class["metadata"].get("generation", 1), known, now)]
    }


def _condition(kind: str, answer: tuple[str, str, str], generation: int, known: list[Json] | None, now: str) -> Json:
    """As before where nothing changed, so that an unchanged status is not written again."""
    status, reason, message = answer
    old = next((c for c in known or [] if c.get("type") == kind), {})
    since = old.get("lastTransitionTime", now) if old.get("status") == status else now
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }
