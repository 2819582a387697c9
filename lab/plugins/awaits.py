"""Waiting: when an object counts as ready or gone, followed by watches, and what to say when it does not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.plugins.cluster import ApiError, Cancelled, Cluster
from lab.plugins.objects import annotation, flag, meta
from lab.plugins.protos import JSON

DEFAULT_TIMEOUT = 600.0
# A Service without any pod counts as ready once nothing has happened for a while (10 s in pulumi-kubernetes,
# which lets ready endpoints settle that long too; the lab's do not flap, so ready ones count at once).
SETTLE_SECONDS = 2.0
_SKIPS_ON_DELETE = {"Namespace", "Pod", "DaemonSet", "Deployment", "StatefulSet", "Job"}
_UNKNOWN_HERE = {"PersistentVolume", "PersistentVolumeClaim", "ReplicationController", "Ingress"}
_NO_PODS = (
    "Service does not target any Pods. Selected Pods may not be ready, or "
    "field '.spec.selector' may not match labels on any Pods"
)


class NotReady(Exception):
    """The object is there but did not become ready (or did not go away); `live` is its last state."""

    def __init__(self, message: str, live: JSON, reasons: list[str] | None = None) -> None:
        super().__init__(message)
        self.live = live
        self.reasons = reasons or []


@dataclass(frozen=True)
class Status:
    """One look at an object."""

    ready: bool
    reasons: tuple[str, ...] = ()


Check = Callable[[Mapping[str, Any]], Status]


def timeout_of(inputs: Mapping[str, Any], custom: float) -> float:
    """Seconds to wait: customTimeouts, then the annotation, then ten minutes."""
    text = annotation(inputs, "pulumi.com/timeoutSeconds")
    return custom or (float(text) if re.fullmatch(r"\d+", text) else DEFAULT_TIMEOUT)


def _status(obj: Mapping[str, Any]) -> JSON:
    return obj.get("status") or {}


def condition(obj: Mapping[str, Any], kind: str) -> JSON:
    return next((dict(c) for c in _status(obj).get("conditions") or [] if c.get("type") == kind), {})


def _observed(obj: Mapping[str, Any]) -> bool:
    seen = _status(obj).get("observedGeneration")
    return seen is not None and seen >= meta(obj).get("generation", 0)


def deployment(obj: Mapping[str, Any]) -> Status:
    """Rolled out: seen by its controller, every replica new and ready, nothing old left.

    A passed progress deadline is a reason to show, not an end: pulumi-kubernetes waits for the timeout too.
    """
    if not _observed(obj):
        return Status(False, ("the Deployment controller has not seen this generation yet",))
    wanted = (obj.get("spec") or {}).get("replicas", 1)
    ready = min(_status(obj).get("updatedReplicas", 0), _status(obj).get("readyReplicas", 0))
    progressing, available = condition(obj, "Progressing"), condition(obj, "Available")
    unmet = [c for c in (progressing, available) if c.get("status") != "True" and c.get("message")]
    reasons = [f"[{c.get('reason')}] {c['message']}" for c in unmet]
    if ready < wanted:
        reasons.append(f"Waiting for app ReplicaSet to be available ({ready}/{wanted} Pods available)")
    rolled_out = progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"
    return Status(rolled_out and available.get("status") == "True" and ready >= wanted, tuple(reasons))


def stateful_set(obj: Mapping[str, Any]) -> Status:
    status, wanted = _status(obj), (obj.get("spec") or {}).get("replicas", 1)
    current = status.get("currentRevision") == status.get("updateRevision")
    ready = status.get("readyReplicas", 0)
    reason = f"{ready}/{wanted} Pods ready" + ("" if current else ", rolling update not finished")
    return Status(_observed(obj) and current and ready >= wanted, (reason,))


def daemon_set(obj: Mapping[str, Any]) -> Status:
    status, wanted = _status(obj), _status(obj).get("desiredNumberScheduled", 0)
    ready = min(status.get(key, 0) for key in ("updatedNumberScheduled", "numberAvailable", "numberReady"))
    return Status(_observed(obj) and ready >= wanted, (f"{ready}/{wanted} Pods updated and ready",))


def job(obj: Mapping[str, Any]) -> Status:
    failed = condition(obj, "Failed")
    reason = f"[{failed.get('reason')}] {failed.get('message')}" if failed else "the Job has not completed"
    return Status(condition(obj, "Complete").get("status") == "True", (reason,))


def pod(obj: Mapping[str, Any]) -> Status:
    ready = condition(obj, "Ready").get("status") == "True" or _status(obj).get("phase") == "Succeeded"
    return Status(ready, tuple(pod_reasons([obj])))


def load_balancer(obj: Mapping[str, Any]) -> Status:
    """A Service by itself: only a load balancer's address takes time."""
    public = (obj.get("spec") or {}).get("type") == "LoadBalancer"
    address = (_status(obj).get("loadBalancer") or {}).get("ingress")
    reason = "Service was not allocated an IP address; does your cloud provider support this?"
    return Status(not public or bool(address), (reason,))


def endpoints(slices: list[JSON]) -> tuple[int, int]:
    """Ready and not (yet) ready endpoints; those that are going away do not count."""
    found = [e.get("conditions") or {} for item in slices for e in item.get("endpoints") or []]
    ready = sum(c.get("ready", True) for c in found)
    return ready, sum(not c.get("ready", True) and not c.get("terminating", False) for c in found)


CHECKS: dict[str, Check] = {
    "Deployment": deployment,
    "StatefulSet": stateful_set,
    "DaemonSet": daemon_set,
    "Job": job,
    "Pod": pod,
    "Service": load_balancer,
}


def _built_in(obj: Mapping[str, Any]) -> str:
    """The kind of an object of Kubernetes' own that may need waiting for."""
    return str(obj["kind"]) if obj["apiVersion"] in ("v1", "apps/v1", "batch/v1", "networking.k8s.io/v1") else ""


def pod_reasons(pods: list[Any]) -> list[str]:
    """Why pods are not ready, one line each."""
    lines = []
    for item in pods:
        ready = condition(item, "Ready")
        if ready.get("status") == "True":
            continue
        why = []
        for container in _status(item).get("containerStatuses") or []:
            state = container.get("state") or {}
            stuck = state.get("waiting") or state.get("terminated")
            if stuck and not container.get("ready"):
                why.append(f"{container['name']}: [{stuck.get('reason')}] {stuck.get('message', '')}".strip())
        fallback = ready.get("message") or f"phase {_status(item).get('phase', 'unknown')}"
        name = f"[Pod {meta(item).get('namespace')}/{meta(item).get('name')}]"
        lines.append(f"{name}: {'; '.join(why) or fallback}")
    return lines


@dataclass(frozen=True)
class Waiter:
    """Waits for objects of one cluster, telling `say` what it waits for."""

    cluster: Cluster
    say: Callable[[str], None]

    def ready(self, inputs: JSON, live: JSON, timeout: float) -> JSON:
        """Follow the object until it is ready; its last state. Raises NotReady."""
        deadline, kind = time.monotonic() + timeout, _built_in(live)
        if flag(inputs, "skipAwait"):
            return live
        if expressions := annotation(live, "pulumi.com/waitFor"):
            return self.follow(live, deadline, wait_for(expressions), "timed out waiting for the condition")
        if kind in _UNKNOWN_HERE:
            message = f"the kubernetes stand-in does not know when a {kind} is ready: use the real provider"
            raise NotReady(f'{message} or the annotation pulumi.com/skipAwait: "true"', live)
        if kind not in CHECKS:
            return live
        failure = f"'{meta(live)['name']}' timed out waiting to be Ready"
        last = self.follow(live, deadline, CHECKS[kind], failure)
        if kind == "Service" and _wants_pods(last):
            self._endpoints(last, deadline, failure)
        return last

    def look(self, inputs: JSON, live: JSON) -> None:
        """One look without waiting, for a refresh. Raises NotReady."""
        kind = _built_in(live)
        if flag(inputs, "skipAwait") or kind not in CHECKS:
            return
        status = CHECKS[kind](live)
        if kind == "Service" and status.ready and _wants_pods(live) and endpoints(self._slices(live))[1]:
            status = Status(False, (_NO_PODS,))
        if not status.ready:
            message = f"Resource '{meta(live)['name']}' was created but failed to initialize"
            raise NotReady(message, live, [*status.reasons, *self._pods(live)])

    def gone(self, obj: JSON, inputs: JSON, timeout: float) -> None:
        """Wait until a deleted object is really gone. Raises NotReady."""
        if flag(inputs, "skipAwait") and obj["kind"] in _SKIPS_ON_DELETE:
            return
        deadline, last = time.monotonic() + timeout, obj
        try:
            while True:
                last = self.cluster.get(obj)
                if meta(last).get("uid") != meta(obj).get("uid"):
                    return
                for event, item in self._events(last, deadline):
                    if event == "DELETED":
                        return
                    last = item if event == "MODIFIED" else last
        except ApiError as error:
            if error.code != 404:
                raise
        except (TimeoutError, Cancelled) as error:
            held = ", ".join(meta(last).get("finalizers") or []) or "none"
            what = f"deletion of {obj['kind']} {meta(obj)['name']} (finalizers: {held})"
            verb = "cancelled" if isinstance(error, Cancelled) else "timed out waiting for"
            raise NotReady(f"{verb} {what}", last) from error

    def follow(self, live: JSON, deadline: float, check: Check, failure: str) -> JSON:
        """Watch one object until `check` is content; its last state. Raises NotReady with `failure`."""
        status, said = check(live), ""
        try:
            while not status.ready:
                for event, item in self._events(live, deadline):
                    if event == "ERROR":  # the watch lost its place
                        item = self.cluster.get(live)
                    if event == "DELETED":
                        raise NotReady(f"'{meta(live)['name']}' was deleted while it was awaited", live)
                    live, status = item, check(item)
                    if status.ready or event == "ERROR":
                        break
                    if status.reasons and status.reasons[0] != said:
                        said = status.reasons[0]
                        self.say(said)
        except (TimeoutError, Cancelled) as error:
            if isinstance(error, Cancelled):
                failure = f'Resource operation was cancelled for "{meta(live)["name"]}"'
            raise NotReady(failure, live, [*status.reasons, *self._pods(live)]) from error
        return live

    def _events(self, obj: JSON, deadline: float) -> Iterator[tuple[str, JSON]]:
        query = {"fieldSelector": f"metadata.name={meta(obj)['name']}"}
        query["resourceVersion"] = str(meta(obj).get("resourceVersion", ""))
        return self.cluster.watch(self.cluster.path_of(obj, named=False), query, deadline)

    def _slices(self, service: JSON) -> list[JSON]:
        route = self.cluster.route("discovery.k8s.io/v1", "EndpointSlice")
        labels = {"kubernetes.io/service-name": str(meta(service)["name"])}
        return self.cluster.items(route.path(str(meta(service)["namespace"])), labels)

    def _endpoints(self, service: JSON, deadline: float, failure: str) -> None:
        """Wait until no endpoint is pending and, with none at all, until that has been so for a moment."""
        path = self.cluster.route("discovery.k8s.io/v1", "EndpointSlice").path(str(meta(service)["namespace"]))
        query = {"labelSelector": f"kubernetes.io/service-name={meta(service)['name']}"}
        pending = 0
        try:
            while True:
                ready, pending = endpoints(self._slices(service))
                if ready and not pending:
                    return
                self.say("Finding Pods to direct traffic to")
                until = deadline if pending else min(deadline, time.monotonic() + SETTLE_SECONDS)
                listed = len(self._slices(service))
                for _event, _item in self.cluster.watch(path, query, until):
                    listed -= 1  # a watch first tells what is there
                    if listed < 0:
                        break
        except (TimeoutError, Cancelled) as error:
            if pending or isinstance(error, Cancelled):
                raise NotReady(failure, service, [_NO_PODS]) from error

    def _pods(self, owner: JSON) -> list[str]:
        """Reasons of the pods behind a workload."""
        labels = ((owner.get("spec") or {}).get("selector") or {}).get("matchLabels")
        if not labels or owner.get("kind") not in ("Deployment", "StatefulSet", "DaemonSet"):
            return []
        namespace, owners = str(meta(owner)["namespace"]), {meta(owner).get("uid")}
        if owner["kind"] == "Deployment":
            revision = annotation(owner, "deployment.kubernetes.io/revision")
            sets = self.cluster.items(f"/apis/apps/v1/namespaces/{namespace}/replicasets", labels)
            newest = [s for s in sets if annotation(s, "deployment.kubernetes.io/revision") == revision]
            owners = {meta(s)["uid"] for s in newest if _owned(s, owners)}
        pods = self.cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels)
        return pod_reasons([item for item in pods if _owned(item, owners)])


def _owned(obj: JSON, uids: set[Any]) -> bool:
    return any(reference["uid"] in uids for reference in meta(obj).get("ownerReferences") or [])


def _wants_pods(service: JSON) -> bool:
    spec = service.get("spec") or {}
    return bool(spec.get("selector")) and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName"


def wait_for(text: str) -> Check:
    """The check that `pulumi.com/waitFor` describes: one expression, or a JSON array of them."""
    try:
        values = json.loads(text)
    except ValueError:
        values = [text]
    tests = [_expression(str(value)) for value in values]

    def check(obj: Mapping[str, Any]) -> Status:
        seen = _status(obj).get("observedGeneration")
        current = seen is None or _observed(obj)
        told = [f"{c['type']}={c['status']} [{c.get('reason')}]" for c in _status(obj).get("conditions") or []]
        reason = f"conditions: {', '.join(told) or 'none reported yet'}"
        return Status(current and all(test(obj) for test in tests), (reason,))

    return check


def _expression(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """`condition=Type[=Status]`, `jsonpath={.path}` or `jsonpath={.path}=value`."""
    how, _, rest = text.partition("=")
    kind, _, status = rest.partition("=")
    if how == "condition" and kind:

        def holds(obj: Mapping[str, Any]) -> bool:
            found = condition(obj, kind)
            current = found.get("observedGeneration", 10**9) >= meta(obj).get("generation", 0)
            return current and str(found.get("status", "")).lower() == (status or "True").lower()

        return holds
    match = re.fullmatch(r"\{\$?((?:\.[A-Za-z0-9_/-]+|\[\d+\])+)\}(?:=(.+))?", rest)
    if how != "jsonpath" or not match:
        wanted = '"condition=Type[=Status]" or "jsonpath={.path}[=value]"'
        raise ValueError(f"pulumi.com/waitFor: the kubernetes stand-in takes {wanted}, got {text!r}")
    steps, expected = re.findall(r"\.([A-Za-z0-9_/-]+)|\[(\d+)\]", match[1]), match[2]

    def found(obj: Mapping[str, Any]) -> bool:
        value: Any = obj
        for name, index in steps:
            try:
                value = value[int(index)] if index else value[name]
            except (KeyError, IndexError, TypeError):
                return False
        shown = value if isinstance(value, str) else json.dumps(value)
        return expected is None or shown == expected

    return found
