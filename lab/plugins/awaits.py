"""Waiting: when an object counts as ready or gone, and what to say when it does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.plugins.cluster import ApiError, Cluster
from lab.plugins.objects import annotation, flag, meta
from lab.plugins.protos import JSON

DEFAULT_TIMEOUT = 600.0
POLL_SECONDS = 0.2
# A Service without any pod counts as ready after a while (10 s in pulumi-kubernetes, which lets ready endpoints
# settle that long too; the lab's do not flap, so ready ones count at once).
SETTLE_SECONDS = 2.0
_REVISION = "deployment.kubernetes.io/revision"
_SKIPS_ON_DELETE = {"Namespace", "DaemonSet", "Deployment"}
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
    """The condition of that type, in any case of letters; empty if there is none."""
    return next((dict(c) for c in _status(obj).get("conditions") or [] if c["type"].lower() == kind.lower()), {})


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
    live = available.get("status") == "True"
    rolled_out = progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"
    if not live:
        reasons.append("Minimum number of live Pods was not attained")
    elif not rolled_out:
        reasons.append("Minimum number of Pods to consider the application live was not attained")
    elif ready < wanted:
        reasons.append("Attempted to roll forward to new ReplicaSet, but minimum number of Pods did not become live")
    return Status(rolled_out and live and ready >= wanted, tuple(reasons))


def daemon_set(obj: Mapping[str, Any]) -> Status:
    status, wanted = _status(obj), _status(obj).get("desiredNumberScheduled", 0)
    ready = min(status.get(key, 0) for key in ("updatedNumberScheduled", "numberAvailable", "numberReady"))
    return Status(_observed(obj) and ready >= wanted, (f"{ready}/{wanted} Pods updated and ready",))


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
    "apps/v1/Deployment": deployment,
    "apps/v1/DaemonSet": daemon_set,
    "v1/Service": load_balancer,
}


def pod_reasons(pods: list[Any]) -> list[str]:
    """Why pods are not ready, one entry each, in pulumi-kubernetes' words."""
    found = []
    for item in pods:
        why = []
        for container in _status(item).get("containerStatuses") or []:
            state, name = container.get("state") or {}, container["name"]
            waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
            last = (container.get("lastState") or {}).get("terminated")
            if container.get("ready"):
                continue
            if waiting.get("reason", "ContainerCreating") != "ContainerCreating":
                why.append(f"[{waiting['reason']}] {waiting.get('message', '')}".strip())
            if ended.get("reason"):
                why.append(f'container "{name}" completed with exit code {ended["exitCode"]}')
            if last:
                how = f"{last.get('reason')}: exit code {last.get('exitCode')}"
                why.append(f'container "{name}" terminated at {last.get("finishedAt")} ({how})')
        ready = condition(item, "Ready")
        message = ready.get("message") or ""
        if ready.get("status") != "True" and (why or message):
            name = f"[Pod {meta(item).get('namespace')}/{meta(item).get('name')}]"
            found.append(f"{name}: {message}" + "\n".join(why))
    return found


@dataclass(frozen=True)
class Waiter:
    """Waits for objects of one cluster."""

    cluster: Cluster

    def ready(self, inputs: JSON, live: JSON, timeout: float) -> JSON:
        """Follow the object until it is ready; its last state. Raises NotReady."""
        if flag(inputs, "skipAwait"):
            return live
        if expression := annotation(live, "pulumi.com/waitFor"):
            return self.follow(live, timeout, wait_for(expression), "timed out waiting for the condition")
        failure = f"'{meta(live)['name']}' timed out waiting to be Ready"
        return self.follow(live, timeout, self._check(live, SETTLE_SECONDS), failure)

    def look(self, inputs: JSON, live: JSON) -> None:
        """One look without waiting, for a refresh. Raises NotReady."""
        status = self._check(live, 0)(live)
        if not status.ready and not flag(inputs, "skipAwait"):
            message = f"Resource '{meta(live)['name']}' was created but failed to initialize"
            raise NotReady(message, live, [*status.reasons, *self._pods(live)])

    def gone(self, obj: JSON, inputs: JSON, timeout: float) -> None:
        """Wait until a deleted object is really gone. Raises NotReady."""
        if flag(inputs, "skipAwait") and obj["kind"] in _SKIPS_ON_DELETE:
            return
        deadline = time.monotonic() + timeout
        try:
            while meta(last := self.cluster.get(obj)).get("uid") == meta(obj).get("uid"):
                if self.cluster.cancelled.wait(POLL_SECONDS) or time.monotonic() > deadline:
                    held = ", ".join(meta(last).get("finalizers") or []) or "none"
                    verb = "cancelled" if self.cluster.cancelled.is_set() else "timed out waiting for"
                    what = f"deletion of {obj['kind']} {meta(obj)['name']} (finalizers: {held})"
                    raise NotReady(f"{verb} {what}", last)
        except ApiError as error:
            if error.code != 404:
                raise

    def follow(self, live: JSON, timeout: float, check: Check, failure: str) -> JSON:
        """Look at one object until `check` is content; its last state. Raises NotReady with `failure`."""
        deadline = time.monotonic() + timeout
        while not (status := check(live)).ready:
            cancelled = self.cluster.cancelled.wait(POLL_SECONDS)
            if cancelled or time.monotonic() > deadline:
                text = f'Resource operation was cancelled for "{meta(live)["name"]}"' if cancelled else failure
                raise NotReady(text, live, [*status.reasons, *self._pods(live)])
            live = self.cluster.get(live)
        return live

    def _check(self, live: JSON, settle: float) -> Check:
        """How an object of this kind is looked at; what has no readiness of its own is ready."""
        check = CHECKS.get(f"{live['apiVersion']}/{live['kind']}", lambda _obj: Status(True))
        spec, begin = live.get("spec") or {}, time.monotonic()
        if check is not load_balancer or not spec.get("selector") or spec.get("clusterIP") == "None":
            return check

        def service(obj: Mapping[str, Any]) -> Status:
            status = load_balancer(obj)
            if not status.ready:
                return status
            route = self.cluster.route("discovery.k8s.io/v1", "EndpointSlice")
            labels = {"kubernetes.io/service-name": str(meta(obj)["name"])}
            ready, pending = endpoints(self.cluster.items(route.path(str(meta(obj)["namespace"])), labels))
            settled = ready or time.monotonic() - begin >= settle
            return Status(bool(settled) and not pending, (_NO_PODS,))

        return service

    def _pods(self, owner: JSON) -> list[str]:
        """Reasons of the pods behind a workload: of a Deployment those of its newest ReplicaSet."""
        labels = ((owner.get("spec") or {}).get("selector") or {}).get("matchLabels")
        if owner.get("kind") not in ("Deployment", "DaemonSet") or not labels:
            return []
        space, owners = f"namespaces/{meta(owner)['namespace']}", {meta(owner).get("uid")}
        if owner["kind"] == "Deployment":
            revision = annotation(owner, _REVISION)
            sets = self.cluster.items(f"/apis/apps/v1/{space}/replicasets", labels)
            owners = {meta(s)["uid"] for s in sets if _owned(s, owners) and annotation(s, _REVISION) == revision}
        return pod_reasons([pod for pod in self.cluster.items(f"/api/v1/{space}/pods", labels) if _owned(pod, owners)])


def _owned(obj: JSON, uids: set[Any]) -> bool:
    return any(reference["uid"] in uids for reference in meta(obj).get("ownerReferences") or [])


def wait_for(text: str) -> Check:
    """The check that `pulumi.com/waitFor` describes: `condition=Type[=Status]`.

    Its reasons are more than pulumi-kubernetes 4.32 tells: that says only that it timed out.
    """
    how, _, rest = text.partition("=")
    kind, _, wanted = rest.partition("=")
    if how != "condition" or not kind:
        raise ValueError(f'pulumi.com/waitFor: the kubernetes stand-in takes "condition=Type[=Status]", got {text!r}')

    def check(obj: Mapping[str, Any]) -> Status:
        found = condition(obj, kind)
        generation = meta(obj).get("generation", 0)
        seen = (item.get("observedGeneration", generation) for item in (found, _status(obj)))
        holds = str(found.get("status", "")).lower() == (wanted or "True").lower()
        told = [
            f"{c['type']}={c['status']}: [{c.get('reason')}] {c.get('message', '')}".strip()
            for c in _status(obj).get("conditions") or []
        ]
        return Status(holds and all(number >= generation for number in seen), tuple(told or ["no conditions reported"]))

    return check
