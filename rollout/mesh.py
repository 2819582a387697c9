"""Takes canary from everybody in the mesh itself, past the engine: for when an update cannot do it, or not yet.

What is written is what the next update of a halted stack writes, and the record says halted: that update adopts it, and
one that asks for a share is refused (see `core.record.adopted`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from core import record, routes
from core.model import Settings

MANAGER = "rollout-halt"
"""Field manager of what is written here; an update of the stack takes it back."""

Route = dict[str, Any]


def halted(http: Sequence[Mapping[str, Any]], host: str) -> list[Route]:
    """The routes of a service that is halted, made of those that it has."""
    last: Route = dict(http[-1]) if http and not http[-1].get("match") else {"name": "default"}
    legs = [leg for leg in last.get("route") or [] if leg.get("destination", {}).get("subset") == "stable"]
    leg = {**legs[0]} if legs else {"destination": {"host": host, "subset": "stable"}}
    return [last | {"route": [{**leg, "weight": 100}]}]


def off(http: Sequence[Mapping[str, Any]]) -> bool:
    """True when none of the routes can send a request to canary."""
    for route in http:
        legs = route.get("route") or []
        for leg in legs:
            if leg.get("destination", {}).get("subset") == "canary" and (len(legs) == 1 or leg.get("weight")):
                return False
    return True


def http_of(route: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The HTTP routes of a VirtualService that somebody else may have written: none at all, or null."""
    return (route.get("spec") or {}).get("http") or []


def _notes(rejected: Sequence[str]) -> dict[str, str]:
    found = {f"{record.PREFIX}halted": "true"}
    return found | ({f"{record.PREFIX}rejected": ",".join(rejected)} if rejected else {})


def line(settings: Settings, context: str | None) -> str:
    """What to paste into a shell to halt the train when nothing else is at hand."""
    kubectl = ["kubectl", *(["--context", context] if context else []), "-n", settings.namespace]
    found = []
    for name, service in settings.services.items():
        if settings.strategy == "replicas":
            scale = [*kubectl, "scale", "deployment"]  # stable first: at 100 % it has no pods
            there = [*kubectl, "rollout", "status", "deployment", f"{name}-stable"]
            steps = [*scale, f"{name}-stable", f"--replicas={service.replicas}"], there
            found.append(" && ".join(map(shlex.join, [*steps, [*scale, f"{name}-canary", "--replicas=0"]])))
            continue
        quiet = settings.model_copy(update={"halted": True, "weight": 0})
        http = routes.virtual_service_spec(name, quiet)["http"]
        spec = {"http": halted(http, routes.service_host(name, settings.namespace))}
        images = [*settings.rejected, *([service.canary.image] if service.canary else [])]
        body = {"metadata": {"annotations": _notes(list(dict.fromkeys(images)))}, "spec": spec}
        patch = ["patch", "virtualservice", name, "--type=merge", f"--field-manager={MANAGER}"]
        found.append(shlex.join([*kubectl, *patch, "-p", json.dumps(body, separators=(",", ":"))]))
    return "; ".join(found)


def _kind(kind: str) -> Any:
    from lightkube.generic_resource import create_namespaced_resource

    return create_namespaced_resource("networking.istio.io", "v1", kind, f"{kind.lower()}s")


def live_routes(client: Any, namespace: str) -> dict[str, Route]:
    """Our VirtualServices as they are in the cluster, by service."""
    listed = [item.to_dict() for item in client.list(_kind("VirtualService"), namespace=namespace)]
    ours = f"{record.PREFIX}stable"
    return {one["metadata"]["name"]: one for one in listed if ours in (one["metadata"].get("annotations") or {})}


def still_on(client: Any, namespace: str, strategy: str = "istio") -> list[str]:
    """Services whose live route can send a request to canary; without a mesh, canaries that have pods."""
    if strategy == "replicas":
        return list(_with_pods(client, namespace))
    return [name for name, one in live_routes(client, namespace).items() if not off(http_of(one))]


def halt(client: Any, namespace: str, rejected: Sequence[str], strategy: str = "istio") -> list[str]:
    """Writes the stable route over every one that leads to canary, and returns the services whose route that was.

    All are tried before an error of one is raised.
    """
    if strategy == "replicas":
        return _scale_down(client, namespace)
    patches = {}
    for name, one in live_routes(client, namespace).items():
        if off(http_of(one)):
            continue
        notes = one["metadata"]["annotations"]
        known = [*filter(None, notes.get(f"{record.PREFIX}rejected", "").split(",")), *rejected]
        host = routes.service_host(name, namespace)
        patches[name] = _kind("VirtualService")(
            metadata={"name": name, "namespace": namespace, "annotations": _notes(list(dict.fromkeys(known)))},
            spec={"http": halted(http_of(one), host)},
        )
    return _each(patches, lambda name: client.apply(patches[name], field_manager=MANAGER, force=True))


def _each(names: Iterable[str], write: Callable[[str], object]) -> list[str]:
    written, failed = [], []
    for name in names:
        try:
            write(name)
        except Exception as error:  # noqa: BLE001  the others must not wait for it
            failed.append(f"{name}: {error}")
        else:
            written.append(name)
    if failed:
        done = f"; halted are {', '.join(written)}" if written else ""
        raise OSError("; ".join(failed) + done)
    return written


def _tracks(client: Any, namespace: str, version: str) -> list[dict[str, Any]]:
    from lightkube.resources.apps_v1 import Deployment

    labels = {"app.kubernetes.io/managed-by": "pulumi", "version": version}
    return [one.to_dict() for one in client.list(Deployment, namespace=namespace, labels=labels)]


def _with_pods(client: Any, namespace: str) -> dict[str, str]:
    """Name of canary's Deployment, by service, where it has pods."""
    found = [one for one in _tracks(client, namespace, "canary") if (one.get("spec") or {}).get("replicas", 1)]
    return {one["metadata"]["labels"]["app"]: one["metadata"]["name"] for one in found}


def _scale_down(client: Any, namespace: str) -> list[str]:
    """Takes canary's pods where stable's answer; where there are none, as at 100 %, the update has to bring them."""
    from lightkube.resources.apps_v1 import Deployment
    from lightkube.types import PatchType

    stable = _tracks(client, namespace, "stable")
    ready = {one["metadata"]["labels"]["app"] for one in stable if (one.get("status") or {}).get("readyReplicas")}

    def write(name: str) -> None:
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": 0}}
        how = {"patch_type": PatchType.APPLY, "field_manager": MANAGER, "force": True}
        client.patch(Deployment, name, body, namespace=namespace, **how)

    return _each([name for service, name in _with_pods(client, namespace).items() if service in ready], write)
