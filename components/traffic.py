"""Where requests go: the public door, and per service a Service, a DestinationRule and a VirtualService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource

from components.objects import CoreObject
from core import record, routes, specs
from core.model import Settings

RESTORED = f'metadata.annotations["{record.RESTORED}"]'
API_VERSION = "networking.istio.io/v1"


@dataclass(frozen=True, kw_only=True)
class PublicGatewayArgs:
    """All hosts of all services share one door; `mesh` has to run before Istio's objects can be written."""

    settings: Settings
    mesh: Sequence[pulumi.Resource]


class PublicGateway(pulumi.ComponentResource):
    """The Istio Gateway `public` at the ingress."""

    gateway: CustomResource

    def __init__(self, name: str, args: PublicGatewayArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("canary:index:PublicGateway", name, {}, opts)
        self.gateway = CustomResource(
            f"{name}-gateway",
            api_version=API_VERSION,
            kind="Gateway",
            metadata={"name": routes.PUBLIC_GATEWAY, "namespace": routes.INGRESS_NAMESPACE},
            spec=routes.gateway_spec(args.settings),
            opts=ResourceOptions(parent=self, depends_on=list(args.mesh)),
        )
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class TrafficArgs:
    """`notes` and `rule_notes` are the record to write with the route and with the subsets."""

    settings: Settings
    notes: Mapping[str, str]
    rule_notes: Mapping[str, str]
    namespace: pulumi.Resource
    mesh: Sequence[pulumi.Resource]
    after: Sequence[pulumi.Resource]
    """What has to be ready, besides the mesh, before the route is written."""


class Traffic(pulumi.ComponentResource):
    """The route of one service.  The component's own inputs carry its identity only: a step changes one resource."""

    service: CoreObject
    rule: CustomResource
    route: CustomResource

    def __init__(self, name: str, args: TrafficArgs, opts: ResourceOptions | None = None) -> None:
        namespace = args.settings.namespace
        super().__init__("canary:index:Traffic", name, {"service": name, "namespace": namespace}, opts)

        def metadata(annotations: Mapping[str, str]) -> Any:
            return {"name": name, "namespace": namespace, "annotations": {**annotations}}

        # Waiting for endpoints would let broken pods hold back a route that leads away from them.
        unawaited = metadata({"pulumi.com/skipAwait": "true"}) | {"labels": specs.labels(name)}
        # The rule and the route have one writer, and what somebody else wrote there does not stop an update.
        forced = {"pulumi.com/patchForce": "true"}
        # An update of an object that somebody deleted fails; to replace it is to make it again.
        again: Any = {"replace_on_changes": [RESTORED], "delete_before_replace": True}
        self.service = CoreObject(
            "Service",
            name,
            metadata=unawaited,
            spec=specs.service_spec(name, args.settings.services[name]),
            parent=self,
            depends_on=[args.namespace],
        )
        self.rule = CustomResource(
            f"{name}-dr",
            api_version=API_VERSION,
            kind="DestinationRule",
            metadata=metadata({**forced, **args.rule_notes}),
            spec=routes.destination_rule_spec(name, namespace),
            opts=ResourceOptions(parent=self, depends_on=[args.namespace, *args.mesh], **again),
        )
        self.route = CustomResource(
            f"{name}-vs",
            api_version=API_VERSION,
            kind="VirtualService",
            metadata=metadata({**forced, **args.notes}),
            spec=routes.virtual_service_spec(name, args.settings),
            opts=ResourceOptions(parent=self, depends_on=[self.service, self.rule, *args.mesh, *args.after], **again),
        )
        self.register_outputs({})
