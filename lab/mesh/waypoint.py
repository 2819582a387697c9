"""What istiod does for a waypoint Gateway: the objects it deploys and the conditions it reports; no I/O."""

from __future__ import annotations

import yaml

from lab.mesh.model import (
    GATEWAY_NAME_LABEL,
    MANAGED_LABEL,
    WAYPOINT_CLASS,
    Json,
    Unsupported,
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
_PARAMETERS = "spec.infrastructure.parametersRef"


def objects(world: World, gateway: Json, proxy_version: str) -> list[tuple[str, Json]]:
    """(path of the collection, manifest) of all that a waypoint consists of; raises Unsupported.

    The ConfigMap of `infrastructure.parametersRef` is laid over it, and only it brings autoscaler and budget.
    """
    overlays = _overlays(world, gateway)
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
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    scaler = {"scaleTargetRef": target, "maxReplicas": 1}
    wanted: dict[str, tuple[str, str, Json]] = {
        "serviceAccount": ("api/v1", "ServiceAccount", {}),
        "deployment": ("apis/apps/v1", "Deployment", {"spec": deployment}),
        "service": ("api/v1", "Service", {"spec": {"selector": selector, "ports": ports}}),
        "horizontalPodAutoscaler": ("apis/autoscaling/v2", "HorizontalPodAutoscaler", {"spec": scaler}),
        "podDisruptionBudget": (
            "apis/policy/v1",
            "PodDisruptionBudget",
            {"spec": {"selector": {"matchLabels": selector}}},
        ),
    }
    if unknown := set(overlays) - set(wanted):
        raise Unsupported(_PARAMETERS, f"unsupported overlay {sorted(unknown)[0]!r}")
    out = []
    for key, (version, kind, more) in wanted.items():
        if key not in overlays and key in ("horizontalPodAutoscaler", "podDisruptionBudget"):
            continue
        api_version = version.split("/", 1)[1]
        manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}
        out.append(
            (f"/{version}/namespaces/{namespace}/{kind.lower()}s", _over(manifest, overlays.get(key) or {}, key))
        )
    return out


def _overlays(world: World, gateway: Json) -> Json:
    given = gateway["spec"].get("infrastructure") or {}
    reference = given.get("parametersRef")
    if set(given) - {"parametersRef"}:
        raise Unsupported("spec.infrastructure", "only parametersRef is supported by the routing stand-in")
    if not reference:
        return {}
    found = world.find("ConfigMap", namespace_of(gateway), str(reference["name"]))
    if reference.get("kind") != "ConfigMap" or found is None:
        told = f"{reference.get('kind')} {reference['name']} does not exist: the waypoint is not changed"
        raise Unsupported(_PARAMETERS, told)
    return {key: yaml.safe_load(text) or {} for key, text in (found.get("data") or {}).items()}


def _over(base: Json, overlay: Json, path: str) -> Json:
    """A merge of mappings; lists are only added, because Kubernetes merges each kind of list by a rule of its own."""
    out = dict(base)
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            out[key] = _over(base[key], value, f"{path}.{key}")
        elif isinstance(value, list) and base.get(key):
            raise Unsupported(_PARAMETERS, f"{path}.{key}: a list over a list is not supported by the routing stand-in")
        else:
            out[key] = value
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


def attachable(world: World, gateway: Json) -> bool:
    """Once a pod served, for good: a waypoint that breaks later is not gone round."""
    return bool((gateway.get("status") or {}).get("addresses")) or programmed(world, gateway)


def gateway_status(world: World, gateway: Json, now: str) -> Json:
    """Accepted at once; Programmed while a pod serves. Addresses come with the first pod and stay."""
    name, namespace = name_of(gateway), namespace_of(gateway)
    host = f"{name}.{namespace}.svc.cluster.local"
    answer = ("True", "Programmed", f"Resource programmed, assigned to service(s) {host}:15008")
    out: Json = {}
    if programmed(world, gateway):
        service = world.find("Service", namespace, name)
        cluster = str((service or {"spec": {}})["spec"].get("clusterIP", ""))
        values = ([{"type": "IPAddress", "value": cluster}] if cluster else []) + [{"type": "Hostname", "value": host}]
        out["addresses"] = values
    else:
        # istiod's words; why there is none, it leaves to the reader.
        why = "; ".join(f"pod {name_of(p)} {trouble(p)}" for p in pods(world, gateway)) or "no pod exists"
        told = f'Failed to assign to any requested addresses: no instances found for hostname "{host}" ({why})'
        answer = ("False", "AddressNotAssigned", told)
    accepted = _condition("Accepted", ("True", "Accepted", "Resource accepted"), gateway, now)
    generation = {"observedGeneration": int(gateway["metadata"].get("generation", 1))}
    return out | {"conditions": [accepted | generation, _condition("Programmed", answer, gateway, now) | generation]}


def trouble(pod: Json) -> str:
    """Why a pod does not serve, as its containers' states tell."""
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (status.get("state") or {}).get("waiting") or {}
        ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated")
        if waiting.get("message") or ended:
            exit_code = f"last exit code {ended.get('exitCode')}" if ended else ""
            parts = [waiting.get("reason", "is not ready"), waiting.get("message", ""), exit_code]
            return ", ".join(part for part in parts if part)
    return "is not ready"


def binding(world: World, service: Json) -> tuple[str, str, str] | None:
    """(status, reason, message) of a Service's WaypointBound as istiod has it; None where no waypoint is asked for."""
    place = world.waypoint_of(service)
    if place is None or labels_of(service).get(MANAGED_LABEL):
        return None
    name = "/".join(place)
    gateway = world.find("KubernetesGateway", *place)
    if gateway is None or not attachable(world, gateway):
        return "False", "WaypointIsNotReady", f'waypoint "{name}" is not ready'
    if not admits(gateway, service):
        denied = f'we are not permitted to attach to waypoint "{name}" (missing allowedRoutes?)'
        return "False", "AttachmentDenied", denied
    if world.waypoint(place) is None:
        told = f'attempting to bind to traffic type "service" which the waypoint "{name}" does not support'
        return "False", "UnsupportedTrafficType", told
    return "True", "WaypointAccepted", f"Successfully attached to waypoint {name}"


def admits(gateway: Json, service: Json) -> bool:
    """Services of other namespaces need `allowedRoutes.namespaces.from: All`; selectors are not served."""
    if namespace_of(gateway) == namespace_of(service):
        return True
    allowed = [(x.get("allowedRoutes") or {}).get("namespaces") or {} for x in gateway["spec"].get("listeners") or []]
    return any(a.get("from") == "All" for a in allowed)


def bound_condition(world: World, service: Json, now: str) -> Json | None:
    answer = binding(world, service)
    return answer and _condition(BOUND, answer, service, now)


def is_bound(service: Json) -> bool:
    """As last reported."""
    conditions = (service.get("status") or {}).get("conditions") or []
    return any(c.get("type") == BOUND and c.get("status") == "True" for c in conditions)


def bound_services(world: World, gateway: Json) -> list[Json]:
    """HTTP Services that ask for this waypoint, whether or not it serves yet."""
    place = (namespace_of(gateway), name_of(gateway))
    wanted = [s for s in world.services.values() if world.waypoint_of(s) == place and admits(gateway, s)]
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
        "lastTransitionTime": old.get("lastTransitionTime", now) if old.get("status") == status else now,
    }
