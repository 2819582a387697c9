"""Strategy `flagger`: Flagger itself, and per service its target and its Canary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pulumi
from pulumi import CustomTimeouts, ErrorHook, Output, ResourceHookBinding, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource

from components.mesh import AmbientNamespace, AmbientNamespaceArgs, declare_release
from components.objects import CoreObject, Release, declare_content
from components.security import MeshSecurity, MeshSecurityArgs
from components.traffic import PublicGateway, PublicGatewayArgs
from core import canaries, specs, workload
from core.model import Settings


@dataclass(frozen=True, kw_only=True)
class FlaggerArgs:
    """`after` is what has to be there before; `on_error` may tell why something does not get ready."""

    settings: Settings
    after: Sequence[pulumi.Resource]
    on_error: Sequence[ErrorHook] = ()


class FlaggerInstall(pulumi.ComponentResource):
    """Flagger in a namespace of its own, and its load tester beside the services if one of them asks for load.

    Both are in the mesh: the load tester so that its calls pass the waypoint and are counted there, Flagger so that it
    may call the load tester where only the mesh may.
    """

    releases: Sequence[Release]

    def __init__(self, name: str, args: FlaggerArgs, opts: ResourceOptions | None = None) -> None:
        settings = args.settings
        super().__init__("canary:index:FlaggerInstall", name, {"version": settings.flagger.version}, opts)
        metadata = {"name": canaries.NAMESPACE, "labels": {specs.AMBIENT_LABEL: "ambient"}}
        space = CoreObject("Namespace", f"{name}-namespace", metadata=metadata, parent=self)
        self.releases = [
            declare_release(
                f"{name}-{what['chart']}", settings.flagger, what, self, [space, *args.after], args.on_error
            )
            for what in canaries.releases(settings)
        ]
        self.register_outputs({})


class FlaggedService(pulumi.ComponentResource):
    """The Deployment `<service>`, whose template is the version to come, and the Canary that rolls it out."""

    deployment: CoreObject
    canary: CustomResource

    def __init__(self, name: str, args: FlaggerArgs, opts: ResourceOptions | None = None) -> None:
        settings = args.settings
        super().__init__("canary:index:FlaggedService", name, {"service": name}, opts)
        metadata: Any = {"name": name, "namespace": settings.namespace, "labels": specs.labels(name)}
        limits = {
            "autoscaling/v2:HorizontalPodAutoscaler": canaries.autoscaler_spec(settings, name),
            "policy/v1:PodDisruptionBudget": canaries.disruption_spec(settings, name),
        }
        declared = [
            CoreObject("ServiceAccount", name, **workload.account(settings, name), parent=self, depends_on=args.after),
            *(
                declare_content(content, name, settings.namespace, self, args.after)
                for content in workload.contents(settings, name, "stable")
            ),
            *(
                CoreObject(kind, name, metadata=metadata, spec=limit, parent=self, depends_on=args.after)
                for kind, limit in limits.items()
                if limit is not None
            ),
        ]
        spec: Any = canaries.deployment_spec(settings, name)
        patience = CustomTimeouts(create=f"{settings.ready_timeout}s", update=f"{settings.ready_timeout}s")
        self.deployment = CoreObject(
            "apps/v1:Deployment",
            name,
            metadata=metadata,
            spec=spec,
            # After the first deployment Flagger says how many: none at rest, as many as the primary's in an analysis.
            parent=self,
            depends_on=declared,
            opts=ResourceOptions(
                custom_timeouts=patience,
                hooks=ResourceHookBinding(on_error=list(args.on_error)),
                ignore_changes=["spec.replicas"],
            ),
        )
        self.canary = CustomResource(
            f"{name}-canary",
            api_version=canaries.API_VERSION,
            kind="Canary",
            metadata=metadata,
            spec=canaries.canary_spec(settings, name),
            opts=ResourceOptions(parent=self, depends_on=[self.deployment]),
        )
        self.register_outputs({})


class FlaggerTrain(pulumi.ComponentResource):
    """Namespace, waypoint, public door and Flagger; all services, each of which moves at its own pace."""

    services: dict[str, FlaggedService]

    def __init__(self, name: str, args: FlaggerArgs, opts: ResourceOptions | None = None) -> None:
        settings, inside = args.settings, ResourceOptions(parent=self)
        super().__init__("canary:index:FlaggerTrain", name, {"namespace": settings.namespace}, opts)
        door = AmbientNamespaceArgs(settings=settings, mesh=args.after, on_error=args.on_error)
        after: list[pulumi.Resource] = [*args.after, AmbientNamespace(settings.namespace, door, inside)]
        if settings.public_hosts:
            after.append(PublicGateway("public", PublicGatewayArgs(settings=settings, mesh=args.after), inside))
        if settings.flagger.install:
            after.append(FlaggerInstall("flagger", replace(args, after=after), inside))
        queries = [
            CustomResource(
                title,
                api_version=canaries.API_VERSION,
                kind="MetricTemplate",
                metadata={"name": title, "namespace": settings.namespace},
                spec=spec,
                opts=ResourceOptions(parent=self, depends_on=after),
            )
            for title, spec in canaries.metric_templates(settings).items()
        ]
        wanted = replace(args, after=[*after, *queries])
        self.services = {service: FlaggedService(service, wanted, inside) for service in settings.services}
        MeshSecurity("security", MeshSecurityArgs(settings=settings, after=[*after, *self.services.values()]), inside)
        self.register_outputs({})

    def outputs(self, settings: Settings) -> Output[dict[str, Any]]:
        """Stack outputs."""
        return Output.from_input(canaries.summary(settings))
