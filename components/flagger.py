"""Strategy `flagger`: Flagger itself, and per service its target and its Canary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import CustomTimeouts, ErrorHook, Output, ResourceHookBinding, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.helm.v3 import Release

from components.mesh import AmbientNamespace, AmbientNamespaceArgs
from components.objects import CoreObject, declare_content
from components.traffic import PublicGateway, PublicGatewayArgs
from core import canaries, specs, workload
from core.model import Settings


@dataclass(frozen=True, kw_only=True)
class FlaggerInstallArgs:
    """`settings.flagger` says which version and from where; `space` is the services' namespace, in the mesh."""

    settings: Settings
    space: pulumi.Resource
    mesh: Sequence[pulumi.Resource]
    on_error: Sequence[ErrorHook] = ()


class FlaggerInstall(pulumi.ComponentResource):
    """Flagger in a namespace of its own, and its load tester beside the services if one of them asks for load.

    Both are in the mesh: the load tester so that its calls pass the waypoint and are counted there, Flagger so that it
    may call the load tester where only the mesh may.
    """

    releases: Sequence[Release]

    def __init__(self, name: str, args: FlaggerInstallArgs, opts: ResourceOptions | None = None) -> None:
        settings, flagger = args.settings, args.settings.flagger
        super().__init__("canary:index:FlaggerInstall", name, {"version": flagger.version}, opts)
        labels = {specs.AMBIENT_LABEL: "ambient"}
        own = CoreObject(
            "Namespace", f"{name}-namespace", metadata={"name": canaries.NAMESPACE, "labels": labels}, parent=self
        )

        def release(title: str, chart: str, version: str, space: str, after: Sequence[pulumi.Resource]) -> Release:
            local = "://" not in flagger.chart_source
            return Release(
                f"{name}-{title}",
                name=title,
                chart=f"{flagger.chart_source}/{chart}" if local else chart,
                version=version,
                repository_opts=None if local else {"repo": flagger.chart_source},
                namespace=space,
                values=canaries.chart_values(settings)[chart],
                timeout=flagger.timeout,
                max_history=3,
                opts=ResourceOptions(
                    parent=self,
                    depends_on=[*after, *args.mesh],
                    custom_timeouts=CustomTimeouts(create=f"{flagger.timeout}s", update=f"{flagger.timeout}s"),
                    hooks=ResourceHookBinding(on_error=list(args.on_error)),
                ),
            )

        self.releases = [release("flagger", "flagger", flagger.version, canaries.NAMESPACE, [own])]
        if any(service.flagger and service.flagger.load_test for service in settings.services.values()):
            tester = release(canaries.LOAD_TESTER, "loadtester", flagger.load_tester, settings.namespace, [args.space])
            self.releases = [*self.releases, tester]
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class FlaggedServiceArgs:
    """`after` is what Flagger needs before it takes a service over: itself, its queries, and the doors."""

    settings: Settings
    namespace: pulumi.Resource
    after: Sequence[pulumi.Resource]


class FlaggedService(pulumi.ComponentResource):
    """The Deployment `<service>`, whose template is the version to come, and the Canary that rolls it out."""

    deployment: Deployment
    canary: CustomResource

    def __init__(self, name: str, args: FlaggedServiceArgs, opts: ResourceOptions | None = None) -> None:
        settings, space = args.settings, [args.namespace]
        super().__init__("canary:index:FlaggedService", name, {"service": name}, opts)
        metadata: Any = {"name": name, "namespace": settings.namespace, "labels": specs.labels(name)}
        account = CoreObject("ServiceAccount", name, **workload.account(settings, name), parent=self, depends_on=space)
        read = [
            declare_content(content, name, settings.namespace, self, space)
            for content in workload.contents(settings, name, "stable")
        ]
        limits = {
            "autoscaling/v2:HorizontalPodAutoscaler": canaries.autoscaler_spec(settings, name),
            "policy/v1:PodDisruptionBudget": canaries.disruption_spec(settings, name),
        }
        declared = [
            CoreObject(kind, name, metadata=metadata, spec=limit, parent=self, depends_on=space)
            for kind, limit in limits.items()
            if limit is not None
        ]
        spec: Any = canaries.deployment_spec(settings, name)
        patience = CustomTimeouts(create=f"{settings.ready_timeout}s", update=f"{settings.ready_timeout}s")
        self.deployment = Deployment(
            name,
            metadata=metadata,
            spec=spec,
            opts=ResourceOptions(
                parent=self,
                depends_on=[account, *read],
                custom_timeouts=patience,
                # After the first deployment Flagger scales it: to zero at rest, and up for an analysis.
                ignore_changes=["spec.replicas"],
            ),
        )
        self.canary = CustomResource(
            f"{name}-canary",
            api_version=canaries.API_VERSION,
            kind="Canary",
            metadata=metadata,
            spec=canaries.canary_spec(settings, name),
            opts=ResourceOptions(parent=self, depends_on=[self.deployment, *declared, *args.after]),
        )
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class FlaggerTrainArgs:
    """`mesh` is what Istio's objects depend on; `on_error` may tell why a release or a door does not get ready."""

    settings: Settings
    mesh: Sequence[pulumi.Resource]
    on_error: Sequence[ErrorHook] = ()


class FlaggerTrain(pulumi.ComponentResource):
    """Namespace, waypoint, public door and Flagger; all services, each of which moves at its own pace."""

    services: dict[str, FlaggedService]

    def __init__(self, name: str, args: FlaggerTrainArgs, opts: ResourceOptions | None = None) -> None:
        settings, inside = args.settings, ResourceOptions(parent=self)
        super().__init__("canary:index:FlaggerTrain", name, {"namespace": settings.namespace}, opts)
        space = AmbientNamespace(
            settings.namespace, AmbientNamespaceArgs(settings=settings, mesh=args.mesh, on_error=args.on_error), inside
        )
        after: list[pulumi.Resource] = [space]
        if settings.public_hosts:
            after.append(PublicGateway("public", PublicGatewayArgs(settings=settings, mesh=args.mesh), inside))
        if settings.flagger.install:
            install = FlaggerInstallArgs(settings=settings, space=space, mesh=args.mesh, on_error=args.on_error)
            after.append(FlaggerInstall("flagger", install, inside))
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
        wanted = FlaggedServiceArgs(settings=settings, namespace=space.namespace, after=[*after, *queries])
        self.services = {service: FlaggedService(service, wanted, inside) for service in settings.services}
        self.register_outputs({})

    def outputs(self, settings: Settings) -> Output[dict[str, Any]]:
        """Stack outputs."""
        return Output.from_input(canaries.summary(settings))
