"""A Grafana dashboard of one stack: what was asked for beside what is measured, with the gate's thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import alerts, promql
from core.model import Settings

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard(settings: Settings, stack: str) -> dict[str, Any]:
    """The dashboard's JSON model.  A step of the weight leaves it as it is: the weight is a series."""
    chosen = alerts.labels(settings, stack)
    of = promql.Recorded(chosen | {"service": "$service"})
    gate = settings.gate
    panels = [
        _panel("Canary's share: configured and measured", "percentunit", None, {
            "configured {{service}}": f'{promql.WEIGHT}{{stack="{stack}",service="$service"}} / 100',
            "measured {{service}}": promql.split(of),
        }),
        _panel("Requests", "reqps", None, {"{{track}}": of.requests("stable|canary")}),
        _panel("Error share", "percentunit", gate.error_rate, {"{{track}}": promql.error_share(of, "stable|canary")}),
        _panel("95th percentile", "ms", gate.p95, {"{{track}}": of.p95("stable|canary")}),
        _panel("Requests without an endpoint", "reqps", None, {"{{service}}": of.requests("unknown")}),
    ]  # fmt: skip
    for number, panel in enumerate(panels):
        panel |= {"id": number + 1, "gridPos": {"h": 8, "w": 12, "x": number % 2 * 12, "y": number // 2 * 8}}
    services = f"label_values({promql.Recorded(chosen).requests('stable')}, service)"
    return {
        "uid": f"canary-{stack}"[:40],
        "title": f"Canary: {stack}",
        "tags": ["canary"],
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {"name": "service", "type": "query", "datasource": _SOURCE, "query": services, "refresh": 2},
            ]
        },
        "panels": panels,
    }


def _panel(title: str, unit: str, threshold: float | None, queries: Mapping[str, str]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": unit, "min": 0}
    if threshold is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": threshold}]
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}},
        }
    targets = [
        {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend, "datasource": _SOURCE}
        for number, (legend, expr) in enumerate(queries.items())
    ]
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
