"""What tells how the services fare: access logs, alerts and a dashboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import yaml
from pulumi import ResourceOptions

from components.objects import CoreObject
from core import alerts, dashboard, routes
from core.model import Settings

OPERATOR = "monitoring.coreos.com"


@dataclass(frozen=True, kw_only=True)
class ObservabilityArgs:
    """`stack` labels the alerts; `after` is what has to be there before these objects can be written."""

    settings: Settings
    stack: str
    after: Sequence[pulumi.Resource]


class Observability(pulumi.ComponentResource):
    """Access logs at both doors, and with `alerts` rules, dashboard and Alertmanager's route.  Nothing waits for it."""

    def __init__(self, name: str, args: ObservabilityArgs, opts: ResourceOptions | None = None) -> None:
        settings, stack = args.settings, args.stack
        super().__init__("canary:index:Observability", name, {"namespace": settings.namespace}, opts)

        def declare(kind: str, called: str, space: str = settings.namespace, **fields: Any) -> None:
            metadata = {"name": called, "namespace": space, **fields.pop("metadata", {})}
            CoreObject(kind, f"{space}-{called}", metadata=metadata, parent=self, depends_on=args.after, **fields)

        def config_map(called: str, key: str, text: str, labels: Mapping[str, str] | None = None) -> None:
            declare("ConfigMap", called, body={"data": {key: text}}, metadata={"labels": labels} if labels else {})

        if settings.strategy == "istio":
            for space, at in routes.door_selectors(settings).items():
                # The built-in provider's lines name the route, and in the upstream cluster the track.
                log = {"accessLogging": [{"providers": [{"name": "envoy"}]}]}
                declare("telemetry.istio.io/v1:Telemetry", "canary-access-log", space, spec=at | log)
        if settings.alerts is not None and settings.strategy != "flagger":
            rules, model = alerts.rules(settings, stack), dashboard.dashboard(settings, stack)
            config_map("canary-dashboard", "canary.json", json.dumps(model, indent=1), {"grafana_dashboard": "1"})
            if settings.alerts.form == "operator":
                declare(f"{OPERATOR}/v1:PrometheusRule", "canary-alerts", spec=rules)
                if settings.alerts.webhook is not None:
                    route = alerts.alertmanager_spec(settings, stack)
                    declare(f"{OPERATOR}/v1alpha1:AlertmanagerConfig", "canary-alertmanager", spec=route)
            else:
                config_map("canary-alerts", "rules.yaml", _text(rules))
                if settings.alerts.webhook is not None:
                    route = alerts.alertmanager(settings, stack)
                    config_map("canary-alertmanager", "alertmanager.yaml", _text(route))
        self.register_outputs({})


def _text(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=120)
