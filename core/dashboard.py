"""A Grafana dashboard of one stack: what was asked for beside what is measured, with the gate's thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core import alerts, promql
from core.model import Settings

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard(settings: Settings, stack: str) -> dict[str, Any]:
    """The dashboard's JSON model.  A step of the weight leaves it as it is: the weight is a series."""
    stable = promql.Recorded(alerts.labels(settings, stack)).requests("stable")
    query = f"label_values({stable}, service)"
    choices: list[dict[str, Any]] = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {"name": "service", "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2},
    ]
    return {
        "uid": f"canary-{stack}"[:40],
        "title": f"Canary: {stack}",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": choices},
        "panels": list(_panels(settings, stack)),
    }


def _panels(settings: Settings, stack: str) -> Iterator[dict[str, Any]]:
    of, both = promql.Recorded(alerts.labels(settings, stack) | {"service": "$service"}), "stable|canary"
    shares = {
        "configured": f'{promql.WEIGHT}{{stack="{stack}",service="$service"}} / 100',
        "measured": promql.split(of),
    }
    wanted: list[tuple[str, str, float | None, dict[str, str]]] = [
        ("Canary's share", "percentunit", None, shares),
        ("Requests", "reqps", None, {"{{track}}": of.requests(both)}),
        ("Error share", "percentunit", settings.gate.error_rate, {"{{track}}": promql.error_share(of, both)}),
        ("95th percentile", "ms", settings.gate.p95, {"{{track}}": of.p95(both)}),
        ("Requests without an endpoint", "reqps", None, {"{{service}}": of.requests("unknown")}),
    ]
    for number, (title, unit, limit, queries) in enumerate(wanted):
        defaults: dict[str, Any] = {"unit": unit, "min": 0}
        if limit is not None:
            steps = [{"color": "green", "value": None}, {"color": "red", "value": limit}]
            defaults |= {"thresholds": {"mode": "absolute", "steps": steps}}
            defaults |= {"custom": {"thresholdsStyle": {"mode": "line"}}}
        yield {
            "id": number + 1,
            "type": "timeseries",
            "title": title,
            "gridPos": {"h": 8, "w": 12, "x": number % 2 * 12, "y": number // 2 * 8},
            "datasource": _SOURCE,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": [
                {"refId": ref, "expr": expr, "legendFormat": legend}
                for ref, (legend, expr) in zip("AB", queries.items(), strict=False)
            ],
        }
