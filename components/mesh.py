"""Istio in ambient mode from its five charts, and what makes a namespace part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import CustomTimeouts, ErrorHook, ResourceHookBinding, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource

from components.objects import CoreObject, Release, declare_content
from core import routes, specs
from core.flagger import Flagger
from core.model import Istio, Settings
from core.workload import Content

SYSTEM = "istio-system"


def declare_release(
    name: str,
    source: Istio | Flagger,
    what: Mapping[str, Any],
    parent: pulumi.Resource,
    after: Sequence[pulumi.Resource],
    on_error: Sequence[ErrorHook],
) -> Release:
    """A Helm release of `source`, whose charts are in a repository or a folder."""
    place, limit = source.chart_source, f"{source.timeout}s"
    chart = {"repositoryOpts": {"repo": place}} if "://" in place else {"chart": f"{place}/{what['chart']}"}
    return Release(
        name,
        {**what, **chart, "timeout": source.timeout, "maxHistory": 3},
        ResourceOptions(
            parent=parent,
            depends_on=list(after),
            custom_timeouts=CustomTimeouts(create=limit, update=limit),
            hooks=ResourceHookBinding(on_error=list(on_error)),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class AmbientMeshArgs:
    """`settings.istio` says which version and from where; `settings.gateway` how the public door is run.

    `on_error` is called when one of them does not get ready, and may tell why.
    """

    settings: Settings
    on_error: Sequence[ErrorHook] = ()


class AmbientMesh(pulumi.ComponentResource):
    """base → istiod → cni, ztunnel → ingress gateway, one Helm release each.

    Releases, not rendered charts: istiod changes its own webhooks, and a release takes that for no drift.
    """

    releases: Sequence[Release]

    def __init__(self, name: str, args: AmbientMeshArgs, opts: ResourceOptions | None = None) -> None:
        istio = args.settings.istio
        super().__init__("canary:index:AmbientMesh", name, {"version": istio.version}, opts)
        values = specs.chart_values(args.settings)
        spaces = {
            space: CoreObject("Namespace", f"{name}-{space}", metadata={"name": space}, parent=self)
            for space in (SYSTEM, routes.INGRESS_NAMESPACE)
        }

        def release(title: str, chart: str, space: str, after: Sequence[pulumi.Resource]) -> Release:
            return declare_release(
                f"{name}-{title}",
                istio,
                {"name": title, "chart": chart, "version": istio.version, "namespace": space, "values": values[chart]},
                self,
                [spaces[space], *after],
                args.on_error,
            )

        base = release("istio-base", "base", SYSTEM, [])
        istiod = release("istiod", "istiod", SYSTEM, [base])
        cni = release("istio-cni", "cni", SYSTEM, [istiod])
        ztunnel = release("ztunnel", "ztunnel", SYSTEM, [istiod])
        # The gateway's image comes from istiod's injection webhook: it cannot start before.
        gateway = release(routes.INGRESS, "gateway", routes.INGRESS_NAMESPACE, [istiod])
        self.releases = [base, istiod, cni, ztunnel, gateway]
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class AmbientNamespaceArgs:
    """`settings` name the namespace of the services; `mesh` is what has to run before a waypoint can.

    `on_error` is called when the waypoint does not get ready, and may tell why.
    """

    settings: Settings
    mesh: Sequence[pulumi.Resource]
    on_error: Sequence[ErrorHook] = ()


class AmbientNamespace(pulumi.ComponentResource):
    """A namespace whose pods are in the mesh and whose Services are routed by a waypoint of their own."""

    namespace: CoreObject
    waypoint: CustomResource

    def __init__(self, name: str, args: AmbientNamespaceArgs, opts: ResourceOptions | None = None) -> None:
        settings, namespace = args.settings, args.settings.namespace
        super().__init__("canary:index:AmbientNamespace", name, {"namespace": namespace}, opts)
        labels = {specs.AMBIENT_LABEL: "ambient", specs.WAYPOINT_LABEL: routes.WAYPOINT}
        self.namespace = CoreObject(
            "Namespace", f"{name}-namespace", metadata={"name": namespace, "labels": labels}, parent=self
        )
        content = Content("ConfigMap", routes.WAYPOINT, specs.waypoint_parameters(settings))
        parameters = declare_content(content, routes.WAYPOINT, namespace, self, [self.namespace])
        patience = CustomTimeouts(create=f"{settings.istio.timeout}s", update=f"{settings.istio.timeout}s")
        self.waypoint = CustomResource(
            f"{name}-waypoint",
            api_version="gateway.networking.k8s.io/v1",
            kind="Gateway",
            metadata={
                "name": routes.WAYPOINT,
                "namespace": namespace,
                "labels": {"istio.io/waypoint-for": "service"},
                "annotations": {"pulumi.com/waitFor": "condition=Programmed"},
            },
            spec=specs.waypoint_spec(content.name),
            opts=ResourceOptions(
                parent=self,
                depends_on=[self.namespace, parameters, *args.mesh],
                custom_timeouts=patience,
                hooks=ResourceHookBinding(on_error=list(args.on_error)),
            ),
        )
        self.register_outputs({})
