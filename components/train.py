"""All services of a stack: they move by one weight, in one update, in the order that the change asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import ErrorHook, Output, ResourceOptions

from components.edge import Edge, EdgeArgs
from components.mesh import AmbientNamespace, AmbientNamespaceArgs
from components.observability import Observability, ObservabilityArgs
from components.security import MeshSecurity, MeshSecurityArgs
from components.traffic import PublicGateway, PublicGatewayArgs, Traffic, TrafficArgs
from components.workload import Workload, WorkloadArgs, declare_account
from core import outputs
from core.model import Settings
from core.plan import Transition


@dataclass(frozen=True, kw_only=True)
class ReleaseTrainArgs:
    """`mesh` is what traffic objects depend on: writing them, and deleting them, needs a running control plane.

    `on_error` is called when a door, or a track, does not get ready, and may tell why.
    """

    settings: Settings
    transition: Transition
    mesh: Sequence[pulumi.Resource]
    on_error: Sequence[ErrorHook] = ()


class ReleaseTrain(pulumi.ComponentResource):
    """Namespace, waypoint, public door, and per service its tracks and its traffic.

    Tracks that wait for a route are declared after it, all others before: that is the whole order of writes.
    """

    workloads: dict[tuple[str, str], Workload]
    traffic: dict[str, Traffic]
    edge: Edge | None = None

    def __init__(self, name: str, args: ReleaseTrainArgs, opts: ResourceOptions | None = None) -> None:
        settings, order = args.settings, args.transition.order
        super().__init__("canary:index:ReleaseTrain", name, {"namespace": settings.namespace}, opts)
        inside = ResourceOptions(parent=self)
        self.workloads, self.traffic = {}, {}
        space = AmbientNamespace(
            settings.namespace, AmbientNamespaceArgs(settings=settings, mesh=args.mesh, on_error=args.on_error), inside
        )
        doors: list[pulumi.Resource] = [space]
        if settings.public_hosts:
            doors.append(PublicGateway("public", PublicGatewayArgs(settings=settings, mesh=args.mesh), inside))

        if settings.edge is not None:
            self.edge = Edge("edge", EdgeArgs(settings=settings, edge=settings.edge, mesh=args.mesh), inside)

        def declare(service: str, version: str, after: Sequence[pulumi.Resource]) -> None:
            if version in dict(settings.services[service].tracks()):
                least = args.transition.at_least.get(service, 0) if version == "stable" else 0
                wanted = WorkloadArgs(
                    settings=settings,
                    service=service,
                    version=version,
                    at_least=least,
                    on_error=args.on_error,
                    after=[space.namespace, accounts[service], *after],
                )
                self.workloads[service, version] = Workload(f"{service}-{version}", wanted, inside)

        accounts = {
            service: declare_account(settings, service, self, [space.namespace]) for service in settings.services
        }
        tracks = [(service, version) for service in settings.services for version in ("stable", "canary")]
        for service, version in tracks:
            if version not in order[service].waiting:
                declare(service, version, [])
        for service in settings.services:
            ready: list[pulumi.Resource] = [self.workloads[one].deployment for one in sorted(order[service].after)]
            if ready and self.edge is not None:  # what a rule opens to some, the edge has to keep from the others
                ready += self.edge.functions.values()
            self.traffic[service] = Traffic(
                service,
                TrafficArgs(
                    settings=settings,
                    notes=args.transition.notes[service],
                    rule_notes=args.transition.rule_notes[service],
                    namespace=space.namespace,
                    mesh=args.mesh,
                    after=[*doors, *ready],
                ),
                inside,
            )
        routed: list[pulumi.Resource] = [traffic.route for traffic in self.traffic.values()]
        keys: list[pulumi.Resource] = []
        if self.edge is not None:
            self.edge.complete(routed)
            keys.append(self.edge.keys)
        for service, version in tracks:
            if version in order[service].waiting:
                declare(service, version, [self.traffic[service].route, *keys])
        # Last, and with nothing after them: neither a lock nor an alert may come between an operator and a route.
        told = ObservabilityArgs(settings=settings, stack=pulumi.get_stack(), after=[space.namespace, *args.mesh])
        Observability("observability", told, inside)
        if settings.strategy == "istio":
            serving = [space.waypoint, *routed, *args.mesh]
            MeshSecurity("security", MeshSecurityArgs(settings=settings, after=serving), inside)
        self.register_outputs({})

    def outputs(self, settings: Settings) -> Output[dict[str, Any]]:
        """Stack outputs, derived from the written routes: an update that failed before a route does not tell of it."""
        routes: dict[str, Any] = {name: traffic.route for name, traffic in self.traffic.items()}
        written = {name: Output.all(metadata=route.metadata, spec=route.spec) for name, route in routes.items()}
        summary = Output.all(**written).apply(lambda found: outputs.summary(found, settings))
        if self.edge is None:
            return summary
        domain = self.edge.distribution.output("domainName")
        told = Output.all(edgeDomain=domain, edge=self.edge.outputs())
        return Output.all(summary, told).apply(lambda found: found[0] | found[1])
