"""The pods of one track of one service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import CustomTimeouts, ResourceOptions

from components.objects import CoreObject, declare_content
from core import specs, workload
from core.model import Settings


@dataclass(frozen=True, kw_only=True)
class WorkloadArgs:
    """`at_least` is a number of pods that this update may not go below, whatever the settings declare."""

    settings: Settings
    service: str
    version: str
    at_least: int = 0
    after: Sequence[pulumi.Resource]
    """What has to be written before these pods change."""


def declare_account(
    settings: Settings, service: str, parent: pulumi.Resource, after: Sequence[pulumi.Resource]
) -> CoreObject:
    """The ServiceAccount that both tracks of a service run as."""
    return CoreObject("ServiceAccount", service, **workload.account(settings, service), parent=parent, depends_on=after)


class Workload(pulumi.ComponentResource):
    """The Deployment `<service>-stable` or `<service>-canary`, what it reads, and the limits of its pods' number."""

    deployment: CoreObject

    def __init__(self, name: str, args: WorkloadArgs, opts: ResourceOptions | None = None) -> None:
        settings, track = args.settings, (args.settings, args.service, args.version)
        super().__init__("canary:index:Workload", name, {"service": args.service, "version": args.version}, opts)
        labels = specs.labels(args.service) | {"version": args.version}
        metadata: Any = {"name": name, "namespace": settings.namespace, "labels": labels}
        scaling = workload.autoscaler_spec(*track, args.at_least)
        limits = {
            "autoscaling/v2:HorizontalPodAutoscaler": scaling,
            "policy/v1:PodDisruptionBudget": workload.disruption_spec(*track),
        }
        for kind, limit in limits.items():
            if limit is not None:
                CoreObject(kind, name, metadata=metadata, spec=limit, parent=self, depends_on=args.after)
        read = [
            declare_content(content, args.service, settings.namespace, self, args.after)
            for content in workload.contents(*track)
        ]
        spec: Any = workload.deployment_spec(*track, args.at_least)
        # The provider waits for its own limit, whatever the Deployment's progress deadline says.
        patience = CustomTimeouts(create=f"{settings.ready_timeout}s", update=f"{settings.ready_timeout}s")
        self.deployment = CoreObject(
            "apps/v1:Deployment",
            name,
            # A number that an autoscaler or a hand wrote is theirs: taking it back would be a conflict.
            metadata=metadata | {"annotations": {"pulumi.com/patchForce": "true"}},
            spec=spec,
            parent=self,
            depends_on=[*args.after, *read],
            opts=ResourceOptions(
                custom_timeouts=patience,
                # How many there are is the autoscaler's to say, unless this update needs more.
                ignore_changes=["spec.replicas"] if scaling is not None and not args.at_least else None,
            ),
        )
        self.register_outputs({})
