"""The pods of one track of one service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import CustomTimeouts, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment

from core import specs
from core.model import Settings, Track


@dataclass(frozen=True, kw_only=True)
class WorkloadArgs:
    """`track` is resolved: nothing in it is left to the service's defaults."""

    settings: Settings
    service: str
    version: str
    track: Track
    after: Sequence[pulumi.Resource]
    """What has to be written before these pods change."""


class Workload(pulumi.ComponentResource):
    """The Deployment `<service>-stable` or `<service>-canary`."""

    deployment: Deployment

    def __init__(self, name: str, args: WorkloadArgs, opts: ResourceOptions | None = None) -> None:
        namespace = args.settings.namespace
        super().__init__("canary:index:Workload", name, {"service": args.service, "version": args.version}, opts)
        labels = specs.labels(args.service) | {"version": args.version}
        metadata: Any = {"name": name, "namespace": namespace, "labels": labels}
        spec: Any = specs.deployment_spec(args.service, args.version, args.track, args.settings.ready_timeout)
        # The provider waits for its own limit, whatever the Deployment's progress deadline says.
        limit = CustomTimeouts(create=f"{args.settings.ready_timeout}s", update=f"{args.settings.ready_timeout}s")
        self.deployment = Deployment(
            name,
            metadata=metadata,
            spec=spec,
            opts=ResourceOptions(parent=self, depends_on=list(args.after), custom_timeouts=limit),
        )
        self.register_outputs({})
