"""Strategy `flagger`: Flagger's objects as plain data, and what its stacks cannot say.

Flagger writes Services, VirtualService, DestinationRules and the Deployment `<service>-primary`.  We write its target,
the Deployment `<service>`, the Canary that describes the rollout, and the queries by which it is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core import routes, workload
from core.flagger import Analysis
from core.model import Settings

API_VERSION = "flagger.app/v1beta1"
NAMESPACE = "flagger-system"
LOAD_TESTER = "flagger-loadtester"
WINDOW = "1m"
"""How far back each check looks."""

LONGEST_SERVICE = 63 - len("-primary")

Found = tuple[tuple[str | int, ...], object, str]


def problems(settings: Settings) -> Iterator[Found]:
    """(key, value, why with the fix) of what has two writers with strategy `flagger`, or has none without it."""
    flagged = settings.strategy == "flagger"
    for key in ("weight", "hold", "halted", "steps", "windows", "override", "rejected"):
        value = getattr(settings, key)
        if flagged and key in settings.model_fields_set and value not in (0, "", False, []):
            text = "is Flagger's to decide with strategy flagger; drop it, and see services.<name>.flagger"
            yield (key,), value if isinstance(value, int | str) else "settings", text
    for name, service in settings.services.items():
        at = ("services", name)
        if not flagged and service.flagger is not None:
            text = f"is for strategy flagger, not {settings.strategy}; set canary:strategy to flagger, or drop it"
            yield (*at, "flagger"), "settings", text
        if flagged and len(name) > LONGEST_SERVICE:
            text = f"has more than {LONGEST_SERVICE} characters, and {name[:8]}...-primary fits no label; shorten it"
            yield at, name, text
        if flagged and service.canary is not None:
            text = "is made by Flagger with strategy flagger: put the new image into stable, and drop the block"
            yield (*at, "canary"), service.canary.image, text
        if flagged and service.rules:
            text = "would need a route of ours, and strategy flagger leaves all routes to Flagger; drop the rules"
            yield (*at, "rules"), [rule.name for rule in service.rules], text


def releases(settings: Settings) -> Iterator[dict[str, Any]]:
    """Helm releases: Flagger, and the load tester if a service asks for load, in the mesh with it."""
    values = {"meshProvider": "istio", "metricsServer": settings.gate.prometheus}
    version = settings.flagger.version
    yield {"name": "flagger", "chart": "flagger", "version": version, "namespace": NAMESPACE, "values": values}
    if any(service.flagger and service.flagger.load_test for service in settings.services.values()):
        version, space = settings.flagger.load_tester, settings.namespace
        yield {"name": LOAD_TESTER, "chart": "loadtester", "version": version, "namespace": space, "values": {}}


def metric_templates(settings: Settings) -> dict[str, dict[str, Any]]:
    """What Flagger asks Prometheus, by name.

    Its built-in queries filter `reporter="destination"`, of which ambient has no HTTP series.  A gateway reports as
    `source`, a waypoint as `waypoint`, and only the last proxy before a pod knows the pod's workload: with that in the
    filter no request counts twice, and a service may be called at one door or at both.
    """
    labels = (
        'reporter=~"source|waypoint",destination_workload_namespace="{{ namespace }}",'
        'destination_workload="{{ target }}"'
    )
    rate = "sum(rate(istio_requests_total{%s}[{{ interval }}]))"
    good = rate % f'{labels},response_code!~"5.*"'
    buckets = f"rate(istio_request_duration_milliseconds_bucket{{{labels}}}[{{{{ interval }}}}])"
    queries = {
        "request-success-rate": f"{good} / {rate % labels} * 100",
        "request-duration": f"histogram_quantile(0.99, sum by (le) ({buckets}))",
    }
    provider = {"type": "prometheus", "address": settings.gate.prometheus}
    return {name: {"provider": provider, "query": query} for name, query in queries.items()}


def deployment_spec(settings: Settings, name: str) -> dict[str, Any]:
    """Flagger's target.  Its pods carry no version: whether they are the primary's is in the label `app`."""
    # Flagger changes the first of its known labels for the primary; a selector with others could match both.
    return _unversioned(workload.deployment_spec(settings, name, "stable"))  # type: ignore[no-any-return]


def autoscaler_spec(settings: Settings, name: str) -> dict[str, Any] | None:
    """The target's; Flagger makes the primary's like it, and this one rests while the target has no pods."""
    found = workload.autoscaler_spec(settings, name, "stable")
    return found and found | {"scaleTargetRef": _target(name)}


def disruption_spec(settings: Settings, name: str) -> dict[str, Any] | None:
    """The primary's, which Flagger leaves to us."""
    found = workload.disruption_spec(settings, name, "stable")
    return found and found | {"selector": {"matchLabels": {"app": f"{name}-primary"}}}


def _target(name: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def _unversioned(value: Any) -> Any:
    if isinstance(value, list):
        return [_unversioned(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: _unversioned(one) for key, one in value.items()}
    for labels in (found.get("labels"), found.get("matchLabels")):
        if isinstance(labels, dict):
            labels.pop("version", None)
    return found


def canary_spec(settings: Settings, name: str) -> dict[str, Any]:
    """The rollout of one service."""
    service = settings.services[name]
    found = {
        "provider": "istio",
        "targetRef": _target(name),
        "progressDeadlineSeconds": settings.ready_timeout,
        "service": _service(settings, name),
        "analysis": _analysis(service.flagger or Analysis(), settings.namespace),
    }
    if autoscaler_spec(settings, name) is not None:
        kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        found["autoscalerRef"] = {**kind, "name": name}
    return found


def _service(settings: Settings, name: str) -> dict[str, Any]:
    """What Flagger writes into its Services and its route: the same as ours would say."""
    service, ours = settings.services[name], routes.virtual_service_spec(name, settings)
    found = {
        "port": service.port,
        "targetPort": service.target_port,
        "portName": service.protocol,
        "appProtocol": service.protocol,
        "gateways": ours["gateways"],
    }
    found |= {key: ours["http"][-1][key] for key in ("timeout", "retries")}
    return found | ({"hosts": service.hosts} if service.hosts else {})


def _analysis(analysis: Analysis, namespace: str) -> dict[str, Any]:
    if analysis.step_weights:
        steps: dict[str, Any] = {"stepWeights": analysis.step_weights}
    else:
        steps = {"maxWeight": analysis.max_weight, "stepWeight": analysis.step_weight}
    found = {
        "interval": _span(analysis.interval),
        "threshold": analysis.threshold,
        **steps,
        "metrics": [
            _metric("request-success-rate", {"min": analysis.success_rate}),
            _metric("request-duration", {"max": analysis.request_duration}),
        ],
    }
    if analysis.load_test is not None:
        hook = {"name": "load-test", "type": "rollout", "url": f"http://{LOAD_TESTER}.{namespace}/", "timeout": "5s"}
        found["webhooks"] = [hook | {"metadata": {"type": "cmd", "cmd": analysis.load_test}}]
    return found


def _metric(template: str, bounds: dict[str, float]) -> dict[str, Any]:
    # Under the template's own name Flagger would run its built-in query as well, which finds nothing here and fails.
    name = f"ambient-{template}"
    return {"name": name, "templateRef": {"name": template}, "thresholdRange": bounds, "interval": WINDOW}


def _span(seconds: int) -> str:
    return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


def summary(settings: Settings) -> dict[str, Any]:
    """Stack outputs: who serves is in the Canaries' status, which changes between updates."""
    scheme, hosts = "http" if settings.gateway.tls_secret is None else "https", settings.public_hosts
    services = {
        name: {"image": service.stable.image, "canary": f"canaries.flagger.app {settings.namespace}/{name}"}
        for name, service in settings.services.items()
    }
    told = {"phase": "flagger", "services": services, "gatewayUrl": f"{scheme}://{hosts[0]}" if hosts else None}
    nothing = ("weight", "effectiveWeight", "since", "edgeDomain", "override", "windows", "rejected", "edge")
    return dict.fromkeys(nothing) | told
