"""Kubernetes' own objects and Helm releases, without the SDK's typed modules for them.

Those load the types of whole API groups, for a second of computing in every update, a revert included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pulumi
from pulumi import Output, ResourceOptions

from core import specs
from core.workload import Content

# The version picks the provider: with the SDK's own, these objects share the one of all others.
PROVIDER = version("pulumi-kubernetes")


class CoreObject(pulumi.CustomResource):
    """An object with the type and inputs that the SDK's own class gives it; `body` is all beside the spec.

    `kind` names its group, unless that is v1: `policy/v1:PodDisruptionBudget`.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        metadata: Mapping[str, Any],
        spec: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        parent: pulumi.Resource,
        depends_on: Sequence[pulumi.Resource] = (),
        opts: ResourceOptions | None = None,
    ) -> None:
        group, _, kind = kind.rpartition(":")
        inputs: dict[str, Any] = {"apiVersion": group or "v1", "kind": kind, "metadata": metadata, **(body or {})}
        if spec is not None:
            inputs["spec"] = spec
        hidden = ["data"] if kind == "Secret" else None
        own = ResourceOptions(
            parent=parent, depends_on=list(depends_on), version=PROVIDER, additional_secret_outputs=hidden
        )
        super().__init__(f"kubernetes:{group or 'core/v1'}:{kind}", name, inputs, ResourceOptions.merge(own, opts))


class Release(pulumi.CustomResource):
    """A Helm release with the type and inputs of the SDK's `helm.v3.Release`."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: ResourceOptions) -> None:
        own = ResourceOptions(version=PROVIDER)
        super().__init__(
            "kubernetes:helm.sh/v3:Release", name, {**inputs, "compat": "true"}, ResourceOptions.merge(own, opts)
        )


def declare_content(
    content: Content, service: str, namespace: str, parent: pulumi.Resource, after: Sequence[pulumi.Resource]
) -> CoreObject:
    """A ConfigMap or Secret that never changes.

    The engine too knows it by its full name: what replaces it is made first, and it goes at the end of the update,
    when the pods that read it are gone; if they did not get ready, it stays.
    """
    data: Any = Output.secret(content.data) if content.kind == "Secret" else content.data
    return CoreObject(
        content.kind,
        content.name,
        metadata={"name": content.name, "namespace": namespace, "labels": specs.labels(service)},
        body={"data": data, "immutable": True},
        parent=parent,
        depends_on=after,
    )
