"""Why a door did not get ready: what the cluster says of it, where the engine only knows that its time ran out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pulumi

import live

MOST = 12
"""Lines; the first ones mostly say it."""


def hook(context: str | None, kubeconfig: str | None) -> pulumi.ErrorHook:
    """A hook for resources that others may keep from getting ready: Helm releases and Gateways.  It never retries."""

    def tell(args: pulumi.ErrorHookArgs) -> bool:
        inputs = args.new_inputs or args.old_inputs or {}
        try:
            client = live.connect("default", context, kubeconfig)
            lines = [line for item in _concerned(client, inputs) for line in said(item)]
        except Exception as error:  # noqa: BLE001 - a failure here must not hide the one that is to be explained
            lines = [f"nothing more, the cluster could not be read: {error}"]
        if lines:
            more = [f"... and {len(lines) - MOST} more lines"] if len(lines) > MOST else []
            pulumi.log.error("\n  ".join([f"{args.name} did not get ready; the cluster says:", *lines[:MOST], *more]))
        return False

    return pulumi.ErrorHook("why", tell)


def _concerned(client: Any, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The object itself if it has conditions, and the Deployments, DaemonSets and pods that are to run it."""
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.resources.apps_v1 import DaemonSet, Deployment
    from lightkube.resources.core_v1 import Pod

    labels = None
    space = inputs.get("namespace")
    if inputs.get("kind") == "Gateway":
        name, space = inputs["metadata"]["name"], inputs["metadata"]["namespace"]
        labels = {"gateway.networking.k8s.io/gateway-name": name}
        gateways = create_namespaced_resource("gateway.networking.k8s.io", "v1", "Gateway", "gateways")
        yield from (one.to_dict() for one in client.list(gateways, namespace=space, fields={"metadata.name": name}))
    for kind in (Deployment, DaemonSet, Pod):
        for one in client.list(kind, namespace=space, labels=labels):
            yield {**one.to_dict(), "kind": kind.__name__}


def said(item: Mapping[str, Any]) -> Iterator[str]:
    """What an object's conditions and containers say is amiss, one line each."""
    title = f"{item['kind']} {item['metadata']['name']}"
    status = item.get("status") or {}
    for found in status.get("conditions") or []:
        good = "False" if found["type"] == "ReplicaFailure" else "True"
        if found["status"] != good and found["type"] != "ContainersReady":  # the containers say it themselves
            told = ": ".join(filter(None, (found.get("reason"), found.get("message"))))
            yield f"{title}: {found['type']} is {found['status']}: {told}"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        for when in ("state", "lastState"):
            for phase, found in (container.get(when) or {}).items():
                if phase != "running" and found.get("reason") != "Completed":
                    told = ": ".join(filter(None, (found.get("reason"), found.get("message"))))
                    yield f"{title}: container {container['name']} {phase}: {told}"
