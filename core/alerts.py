"""Alert rules and Alertmanager's route as plain data, from the thresholds of the gate.

No rule fires without data, and none on a handful of requests: those that are critical take canary from everybody.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from core import promql
from core.bets import CATASTROPHE
from core.model import Settings
from core.promql import MIN_FAILURES, MIN_REQUESTS, Raw, Recorded, at_least

HOLD, GROSS_HOLD = "2m", "30s"
"""How long canary may be worse than the gate allows, and how long it alone may be broken."""

OF_FAILURES = ("CanaryHighErrorRate", "CanaryWorseThanStable", "CanaryBroken")
"""Alerts that say that requests to canary failed."""

TOKEN_SECRET, TOKEN_KEY = "canary-webhook", "token"
TOKEN_FILE = f"/etc/alertmanager/secrets/{TOKEN_SECRET}/{TOKEN_KEY}"
"""Alertmanager's bearer token for the webhook, where the operator mounts a Secret of that name."""

RECEIVER = "canary-rollback"


def labels(settings: Settings, stack: str) -> dict[str, str]:
    """What every recorded series and alert of a stack carries besides `service`."""
    return {"stack": stack, "namespace": settings.namespace}


def rules(settings: Settings, stack: str) -> dict[str, Any]:
    """The content of a rule file.  Three series per service and track are recorded; all alerts read those."""
    own, raw = labels(settings, stack), Raw(settings)
    tracks = "stable|canary" if promql.uses_app(settings) else "stable|canary|unknown"
    found = {"requests": raw.requests(tracks), "failures": raw.failures(tracks), "p95": raw.p95("stable|canary")}
    records = [{"record": promql.RECORDS[what], "expr": expr, "labels": {**own}} for what, expr in found.items()]
    judged = {"name": f"canary-{stack}", "rules": records + _alerts(settings, stack)}
    return {"groups": [judged, _stale(settings, stack)]}


def _alert(settings: Settings, stack: str, name: str, expr: str, text: str, hold: str = HOLD) -> dict[str, Any]:
    severity = {"severity": "critical" if hold in (HOLD, GROSS_HOLD) else "warning"}
    summary = f"{name}: {{{{ $labels.service }}}} of stack {stack}"
    about = {"summary": summary, "description": text.replace("SERVICE", "{{ $labels.service }}")}
    own = labels(settings, stack) | severity
    return {"alert": name, "expr": expr, "for": hold, "labels": own, "annotations": about}


def _alerts(settings: Settings, stack: str) -> list[dict[str, Any]]:
    gate, of = settings.gate, Recorded(labels(settings, stack))
    limit, failures, requests = f"{gate.error_rate:.12g}", of.failures("canary"), of.requests("canary")
    value, lost = "{{ $value | humanizePercentage }}", f"sum by (service) ({of.requests('unknown')})"
    found = {
        "CanaryHighErrorRate": (
            f"{promql.error_share(of)} > {limit} and {at_least(failures, MIN_FAILURES)}",
            f"{value} of canary's requests to SERVICE fail; {gate.error_rate * 100:.12g}% may.",
        ),
        "CanaryWorseThanStable": (
            promql.worse_than_stable(of, gate.error_rate),
            f"{value} of canary's requests to SERVICE fail, more than stable's failures explain.",
        ),
    }
    if gate.p95 is not None:
        found["CanaryHighLatency"] = (
            f"{of.p95('canary')} > {gate.p95:.12g} and {at_least(requests, MIN_REQUESTS)}",
            f"Canary's p95 for SERVICE is {{{{ $value | humanize }}}} ms; {gate.p95:.12g} ms is allowed.",
        )
    if not promql.uses_app(settings):
        # Nobody knows which track these were for: they count as canary's while it has been serving.
        found["CanaryNoEndpoint"] = (
            f"{promql.no_endpoint(of)} > {limit} and {at_least(lost, MIN_FAILURES)}"
            f" and max by (service) (max_over_time({requests}[30m])) > 0",
            f"{value} of the requests to SERVICE that may be canary's find no endpoint.",
        )
    gross = f"{max(gate.error_rate, CATASTROPHE):.12g}"
    broken = (  # what stable suffers too is not canary's fault
        f"{promql.error_share(of)} > {gross} and {at_least(failures, MIN_FAILURES)}"
        f" unless on (service) ({promql.error_share(of, 'stable')} > {limit})",
        f"{value} of canary's requests to SERVICE fail, and stable's do not: it is broken.",
    )
    own = [_alert(settings, stack, name, *what) for name, what in found.items()]
    return [*own, _alert(settings, stack, "CanaryBroken", *broken, GROSS_HOLD)]


def _stale(settings: Settings, stack: str) -> dict[str, Any]:
    """Prometheus does not know the weight, but the share that canary answers: on a rung that stays the same.

    Shares are the same when they differ by less than half the ladder's smallest step, in ratios.
    """
    own, hold = labels(settings, stack), max(60, settings.gate.max_hold)
    ladder = [rung.weight for rung in settings.steps]
    ratio = min((after / before for before, after in pairwise(ladder)), default=2.0) ** 0.5
    step = max(60, hold // 24)
    record = {"record": promql.RECORDS["share"], "expr": promql.split(Recorded(own, smooth=step)), "labels": {**own}}
    share = Recorded(own).series("share", "")  # it has no track: the pattern matches that
    expr = (
        f"min_over_time({share}[{hold}s]) > 0.005"  # less is no percentage but a few testers
        f" and max_over_time({share}[{hold}s]) < {ratio:.3f} * min_over_time({share}[{hold}s])"
        f" and count_over_time({share}[{step}s] offset {hold}s) > 0"
    )
    text = f"Canary of SERVICE has had the same share of requests for {hold / 3600:.3g} h: raise it or end it."
    alert = _alert(settings, stack, "CanaryStale", expr, text, "0s")
    # What looks back for long looks seldom.
    return {"name": f"canary-{stack}-stale", "interval": f"{step // 4}s", "rules": [record, alert]}


def alertmanager(settings: Settings, stack: str) -> dict[str, Any]:
    """A whole configuration of Alertmanager, to use or to merge: what is critical calls the rollback webhook."""
    spec = alertmanager_spec(settings, stack)
    route, hook = spec["route"], spec["receivers"][0]["webhookConfigs"][0]
    matchers = [f'{one["name"]}{one["matchType"]}"{one["value"]}"' for one in route.pop("matchers")]
    authorization = {"type": "Bearer", "credentials_file": TOKEN_FILE}
    webhook = {"url": hook["url"], "send_resolved": False, "http_config": {"authorization": authorization}}
    snake = {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): value for key, value in route.items()}
    return {
        "route": {"receiver": "default", "routes": [snake | {"matchers": matchers}]},
        "receivers": [{"name": "default"}, {"name": RECEIVER, "webhook_configs": [webhook]}],
    }


def alertmanager_spec(settings: Settings, stack: str) -> dict[str, Any]:
    """The same as an AlertmanagerConfig of the Prometheus operator."""
    assert settings.alerts is not None
    exact = labels(settings, stack) | {"severity": "critical"}
    matchers = [{"name": name, "matchType": "=", "value": value} for name, value in exact.items()]
    token = {"name": TOKEN_SECRET, "key": TOKEN_KEY}
    webhook = {
        "url": settings.alerts.webhook,
        "sendResolved": False,
        "httpConfig": {"authorization": {"type": "Bearer", "credentials": token}},
    }
    return {
        "route": {
            "receiver": RECEIVER,
            "matchers": [*matchers, {"name": "alertname", "matchType": "=~", "value": "Canary.+"}],
            "groupBy": ["alertname", "stack", "service"],
            "groupWait": "0s",
            "groupInterval": "30s",
            "repeatInterval": "5m",  # an alert that never ceased may be about the next canary by now
            "continue": True,  # people want to know too
        },
        "receivers": [{"name": RECEIVER, "webhookConfigs": [webhook]}],
    }
