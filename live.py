"""What the cluster says before anything is decided: which cluster it is, whether routes were edited by hand, whether
canary is ready.

The engine compares settings with its own record, so an edited route would count as unchanged.  Reading the live objects
costs a few requests; when they cannot be read, the program goes on with what it knows, because a revert must not wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi

from core import conflicts

TIMEOUT = 3.0
"""Seconds for one request; a cluster that is slower than this cannot take the update either."""


@dataclass(frozen=True)
class Live:
    """Live specs by name; `cluster` is the UID of kube-system, which no two clusters share.  None: not known.

    `ready` and `replicas` tell of Deployments by name: whether all pods serve, and how many there are to be, as whoever
    scales them left it.  `around` reads what stands beside our objects, when somebody asks: a way down does not.
    `notes` are the annotations of the routes.
    """

    cluster: str | None = None
    routes: Mapping[str, Any] | None = None
    rules: Mapping[str, Any] | None = None
    ready: Mapping[str, bool] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    around: Callable[[], conflicts.Around] = conflicts.Around
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read(namespace: str, context: str | None, kubeconfig: str | None) -> Live:
    """Live state of `namespace`, or as much of it as could be read."""
    # Imported late: importing a Kubernetes client costs more than all of its requests.
    import httpx2
    from lightkube.core import exceptions
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.resources.apps_v1 import Deployment
    from lightkube.resources.core_v1 import Namespace

    try:
        client = connect(namespace, context, kubeconfig)
        system = client.get(Namespace, "kube-system")
        cluster = system.metadata.uid if system.metadata else None
    except (exceptions.ConfigError, exceptions.ApiError, httpx2.HTTPError, OSError, ValueError) as error:
        pulumi.log.warn(f"the cluster could not be read, so hand edits of routes stay unseen in this run: {error}")
        return Live()

    notes: dict[str, Mapping[str, str]] = {}

    def specs(kind: str, plural: str) -> Mapping[str, Any] | None:
        resource = create_namespaced_resource("networking.istio.io", "v1", kind, plural)
        try:
            found = {str(item.metadata.name): item for item in client.list(resource) if item.metadata}
        except httpx2.HTTPStatusError as error:  # ApiError is one too
            if error.response.status_code == httpx2.codes.NOT_FOUND:  # the kinds come with the mesh: not there yet
                return None
            raise
        if kind == "VirtualService":
            notes.update({name: item.metadata.annotations or {} for name, item in found.items()})
        return {name: item.spec for name, item in found.items()}

    try:
        deployments = {
            str(item.metadata.name): item.to_dict()
            for item in client.list(Deployment, labels={"app.kubernetes.io/managed-by": "pulumi"})
            if item.metadata
        }
        return Live(
            cluster,
            specs("VirtualService", "virtualservices"),
            specs("DestinationRule", "destinationrules"),
            {name: _is_ready(found) for name, found in deployments.items()},
            {name: int(found["spec"].get("replicas", 1)) for name, found in deployments.items()},
            lambda: _around(client, namespace),
            notes,
        )
    except (exceptions.ApiError, httpx2.HTTPError) as error:
        pulumi.log.warn(f"the namespace {namespace} could not be read, so hand edits stay unseen in this run: {error}")
        return Live(cluster)


def _around(client: Any, namespace: str) -> conflicts.Around:
    """What may be read of it: kinds that are not there, or not for our eyes, count as empty."""
    import httpx2
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.resources.core_v1 import Namespace, Service

    def all_of(resource: Any, kind: str, space: str | None = "*", **chosen: Any) -> list[dict[str, Any]]:
        try:
            return [{**item.to_dict(), "kind": kind} for item in client.list(resource, namespace=space, **chosen)]
        except httpx2.HTTPError as error:
            if not isinstance(error, httpx2.HTTPStatusError) or error.response.status_code != httpx2.codes.NOT_FOUND:
                pulumi.log.warn(f"no {kind} could be read, so what one of them may overrule stays unseen: {error}")
            return []

    def made(kind: str, group: str) -> list[dict[str, Any]]:
        return all_of(create_namespaced_resource(f"{group}.io", "v1", kind, f"{kind.lower()}s"), kind)

    return conflicts.Around(
        namespace=next(iter(all_of(Namespace, "Namespace", None, fields={"metadata.name": namespace})), None),
        services={one["metadata"]["name"]: one for one in all_of(Service, "Service", namespace)},
        routes=made("VirtualService", "networking.istio"),
        rules=made("DestinationRule", "networking.istio"),
        parents=[one for kind in ("HTTPRoute", "GRPCRoute") for one in made(kind, "gateway.networking.k8s")],
    )


def connect(namespace: str, context: str | None, kubeconfig: str | None) -> Any:
    """A client of the cluster that the Kubernetes provider uses."""
    import httpx2
    import lightkube

    return lightkube.Client(
        config=_config(lightkube.KubeConfig, context, kubeconfig),
        namespace=namespace,
        timeout=httpx2.Timeout(TIMEOUT),
    )


def _config(loader: Any, context: str | None, kubeconfig: str | None) -> Any:
    if kubeconfig is None:
        found = loader.from_env()
    elif kubeconfig.lstrip().startswith(("{", "apiVersion")):
        import yaml

        found = loader.from_dict(
            json.loads(kubeconfig) if kubeconfig.lstrip()[0] == "{" else yaml.safe_load(kubeconfig)
        )
    else:
        found = loader.from_file(kubeconfig)
    return found.get(context_name=context) if context else found.get()


def _is_ready(deployment: Mapping[str, Any]) -> bool:
    status, spec = deployment.get("status", {}), deployment["spec"]
    current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    # Pods of an earlier template are available too, while those of this one do not get ready.
    serving = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0))
    return bool(current and serving >= spec.get("replicas", 1))
