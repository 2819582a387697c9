"""Objects of Kubernetes' core group, without the SDK's typed module for it.

Importing that module takes a quarter of a second, in every update, a revert included; two kinds do not earn it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pulumi
from pulumi import ResourceOptions

# The version picks the provider: with the SDK's own, these objects share the one of all others.
PROVIDER = version("pulumi-kubernetes")


class CoreObject(pulumi.CustomResource):
    """A core/v1 object of `kind`, with the type and inputs that the SDK's own class gives it."""

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        metadata: Mapping[str, Any],
        spec: Mapping[str, Any] | None = None,
        parent: pulumi.Resource,
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> None:
        body: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        opts = ResourceOptions(parent=parent, depends_on=list(depends_on), version=PROVIDER)
        super().__init__(f"kubernetes:core/v1:{kind}", name, body | ({"spec": spec} if spec is not None else {}), opts)
