"""Strategy `replicas`: no mesh; one Service over both tracks, and the numbers of their pods are the share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import Output, ResourceOptions

from components.objects import CoreObject
from components.observability import Observability, ObservabilityArgs
from components.workload import Workload, WorkloadArgs, declare_account
from core import outputs, specs
from core.model import Settings
from core.plan import Transition
from policies import weights


@dataclass(frozen=True, kw_only=True)
class PodTrainArgs:
    """What the stack asks for, and the change that this update makes."""

    settings: Settings
    transition: Transition


class PodTrain(pulumi.ComponentResource):
    """Namespace, and per service its tracks and the Service over them, which carries the record as a route would.

    Up: canary's new pods are ready → record → stable's go.  Down: record → pods, at once; only where stable has none
    left, canary's wait for stable's, because somebody has to answer.
    """

    services: dict[str, CoreObject]

    def __init__(self, name: str, args: PodTrainArgs, opts: ResourceOptions | None = None) -> None:
        settings, change = args.settings, args.transition
        super().__init__("canary:index:PodTrain", name, {"namespace": settings.namespace}, opts)
        space = CoreObject(
            "Namespace", f"{settings.namespace}-namespace", metadata={"name": settings.namespace}, parent=self
        )
        self.services = {}
        workloads: dict[tuple[str, str], Workload] = {}

        def declare(service: str, version: str, after: Sequence[pulumi.Resource]) -> None:
            workloads[service, version] = Workload(
                f"{service}-{version}",
                WorkloadArgs(
                    settings=settings,
                    service=service,
                    version=version,
                    after=[space, accounts[service], *after],
                ),
                ResourceOptions(parent=self),
            )

        accounts = {service: declare_account(settings, service, self, [space]) for service in settings.services}
        tracks = [(service, version) for service, wanted in settings.services.items() for version, _ in wanted.tracks()]
        first = {track for track in tracks if any(track in order.after for order in change.order.values())}
        for service, version in first:
            declare(service, version, [])
        for service, wanted in settings.services.items():
            self.services[service] = CoreObject(
                "Service",
                service,
                metadata={
                    "name": service,
                    "namespace": settings.namespace,
                    "labels": specs.labels(service),
                    "annotations": {"pulumi.com/skipAwait": "true", **change.notes[service]},
                },
                spec=specs.service_spec(service, wanted),
                parent=self,
                depends_on=[space, *(workloads[one].deployment for one in sorted(change.order[service].after))],
            )
        for service, version in tracks:
            if (service, version) in first:
                continue
            alone = version == "canary" and change.shares.get(service) == weights.HIGHEST
            spared = [workloads[service, "stable"].deployment] if alone else []
            declare(service, version, [self.services[service], *spared])
        told = ObservabilityArgs(settings=settings, stack=pulumi.get_stack(), after=[space])
        Observability("observability", told, ResourceOptions(parent=self))
        self.register_outputs({})

    def outputs(self, settings: Settings) -> Output[dict[str, Any]]:
        """Stack outputs, derived from the written record."""
        services: dict[str, Any] = {**self.services}
        written = {name: Output.all(metadata=one.metadata, spec=one.spec) for name, one in services.items()}
        return Output.all(**written).apply(lambda found: outputs.summary(found, settings))
