"""The edge before the public door: CloudFront, the functions on its requests and answers, and the store they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pulumi
from pulumi import Output, ResourceOptions

from components import objects
from core import edge as specs
from core import routes
from core.model import Edge as EdgeSettings
from core.model import Settings

# The version picks the provider, as for Kubernetes' own objects.
PROVIDER = version("pulumi-aws")
LOGS = {"region": "us-east-1"}
"""Where CloudFront's logs are delivered from, whatever the region of the stack."""


class AwsResource(pulumi.CustomResource):
    """A resource with the type and inputs that the SDK's own class gives it; importing those takes half a second.

    `outputs` are what AWS adds and somebody reads.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        inputs: Mapping[str, Any],
        parent: pulumi.Resource,
        outputs: Sequence[str] = (),
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> None:
        module, _, kind = kind.rpartition("/")
        opts = ResourceOptions(parent=parent, depends_on=list(depends_on), version=PROVIDER)
        token = f"aws:{module}/{kind[0].lower()}{kind[1:]}:{kind}"
        super().__init__(token, name, {**dict.fromkeys(outputs), **inputs}, opts)

    def output(self, name: str) -> Output[Any]:
        """An input or output by the provider's own name."""
        found: Output[Any] = getattr(self, name)
        return found


class GatewayService(pulumi.CustomResource):
    """The ingress gateway's Service as the cluster has it; nobody here owns it."""

    status: Output[Any]

    def __init__(self, name: str, known: Output[str], parent: pulumi.Resource) -> None:
        opts = ResourceOptions(parent=parent, id=known, version=objects.PROVIDER)
        super().__init__("kubernetes:core/v1:Service", name, {"status": None}, opts)


@dataclass(frozen=True, kw_only=True)
class EdgeArgs:
    """`edge` is the part of `settings` that is about it; `mesh` is what the gateway needs to run."""

    settings: Settings
    edge: EdgeSettings
    mesh: Sequence[pulumi.Resource]


class Edge(pulumi.ComponentResource):
    """The store and the functions; then, when the routes are declared, `complete` adds all that comes after them."""

    functions: Mapping[str, AwsResource]
    keys: AwsResource
    distribution: AwsResource

    def __init__(self, name: str, args: EdgeArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("canary:index:Edge", name, {"namespace": args.settings.namespace}, opts)
        self._name, self._args = name, args
        self._tags = {"project": pulumi.get_project(), "stack": pulumi.get_stack(), **args.edge.tags}
        self._store = self._declare("cloudfront/KeyValueStore", "store", {"tags": self._tags}, ["arn"])
        self.functions = {}
        for event in specs.FUNCTIONS:
            inputs = specs.function_args(event, args.settings, args.edge, self._store.output("arn"))
            self.functions[event] = self._declare("cloudfront/Function", event, inputs, ["arn"])

    def _declare(
        self,
        kind: str,
        title: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = (),
        after: Sequence[pulumi.Resource] = (),
    ) -> AwsResource:
        return AwsResource(kind, f"{self._name}-{title}", inputs, self, outputs, after)

    def complete(self, routed: Sequence[pulumi.Resource]) -> None:
        """Keys after the routes, on the way up as on the way down.  Distribution and door after those, so that what
        takes CloudFront minutes keeps nobody waiting."""
        settings, edge = self._args.settings, self._args.edge
        keys = specs.keys_args(settings, edge, self._store.output("arn"))
        self.keys = self._declare("cloudfront/KeyvaluestoreKeysExclusive", "keys", keys, after=routed)
        policies = {
            "cachePolicyId": ("CachePolicy", "cache", specs.cache_policy_args(settings, edge)),
            "originRequestPolicyId": ("OriginRequestPolicy", "request", specs.origin_request_policy_args()),
            "responseHeadersPolicyId": ("ResponseHeadersPolicy", "response", specs.response_headers_policy_args()),
        }
        inputs = specs.distribution_args(
            settings,
            edge,
            origin=edge.origin or self._balancer(),
            secret=Output.secret(settings.origin_secret),
            functions={event: function.output("arn") for event, function in self.functions.items()},
            policies={
                field: self._declare(f"cloudfront/{kind}", title, policy).id
                for field, (kind, title, policy) in policies.items()
            },
            tags=self._tags,
        )
        # A secret that is new is sent when the gateway takes it.
        door = [self._door([self.keys, *self._args.mesh])] if edge.require_secret else []
        after = [self.keys, *door]
        self.distribution = self._declare(
            "cloudfront/Distribution", "distribution", inputs, ["arn", "domainName"], after
        )
        if edge.log_arn is not None:
            self._log(edge.log_arn)
        self.register_outputs({})

    def _door(self, after: Sequence[pulumi.Resource]) -> pulumi.Resource:
        settings = self._args.settings
        secrets = [one for one in (settings.origin_secret, settings.origin_secret_before) if one]
        return objects.CoreObject(
            "security.istio.io/v1:AuthorizationPolicy",
            f"{self._name}-door",
            metadata={"name": "edge-only", "namespace": routes.INGRESS_NAMESPACE},
            spec=specs.door_spec(settings, Output.secret(secrets)),
            parent=self,
            depends_on=after,
        )

    def _balancer(self) -> Output[str]:
        """The name that the cloud gave the gateway's load balancer, read once the gateway runs and the keys are in."""

        def only_name(status: Mapping[str, Any] | None) -> str:
            entries = ((status or {}).get("loadBalancer") or {}).get("ingress") or []
            name = next((entry["hostname"] for entry in entries if entry.get("hostname")), None)
            if name is None:
                raise pulumi.RunError(
                    f"canary:edge.origin: got nothing: the load balancer of Service {routes.INGRESS} has no name (it "
                    f"has {entries}), and CloudFront takes no address; make a DNS name for it and set it here"
                )
            return str(name)

        there = Output.all(self.keys.id, *(part.urn for part in self._args.mesh))
        known = there.apply(lambda _: f"{routes.INGRESS_NAMESPACE}/{routes.INGRESS}")
        return GatewayService(f"{self._name}-gateway", known, self).status.apply(only_name)

    def _log(self, destination: str) -> None:
        """Access log of the distribution, standard logging v2."""
        inputs: dict[str, Any] = {"logType": "ACCESS_LOGS", "resourceArn": self.distribution.output("arn")}
        source = self._declare("cloudwatch/LogDeliverySource", "log-source", inputs | LOGS, ["name"])
        inputs = {"deliveryDestinationConfiguration": {"destinationResourceArn": destination}, "outputFormat": "json"}
        target = self._declare("cloudwatch/LogDeliveryDestination", "log-target", inputs | LOGS, ["arn"])
        inputs = {"deliverySourceName": source.output("name"), "deliveryDestinationArn": target.output("arn")}
        self._declare("cloudwatch/LogDelivery", "log", inputs | LOGS | {"recordFields": list(specs.LOG_FIELDS)})

    def outputs(self) -> Output[dict[str, Any]]:
        """For the stack outputs: the keys as written, with the lists as people wrote them."""
        pairs = self.keys.output("resourceKeyValuePairs")
        return pairs.apply(lambda written: specs.told(self._args.edge, written))
