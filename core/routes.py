"""Who serves a request, as Istio objects: VirtualService, DestinationRule and Gateway as plain specs.

The order is the same everywhere: no canary or halted → stable · stamp blue by CIDR → stable · rules in order ·
stamp `x-deployment` · weight.  Specs are written as `kubectl get -o yaml` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core import matches
from core.model import Service, Settings
from policies import weights

INGRESS_NAMESPACE = "istio-ingress"
INGRESS = "istio-ingressgateway"
PUBLIC_GATEWAY = "public"
WAYPOINT = "waypoint"

STAMP, STAMP_REASON = matches.RESERVED_HEADERS

ORIGIN_SECRET = "x-origin-secret"
"""Header by which the gateway knows the edge."""

RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,reset-before-request,retriable-status-codes"
"""Istio's default conditions, and requests that a closing connection never took: each is safe to send again."""

GRPC_RETRY_ON = "connect-failure,refused-stream,reset-before-request,unavailable,resource-exhausted"
"""Calls that reached no server, and calls that a server turned away before it began: `unavailable` (gRPC's own word for
"send it again") and `resource-exhausted` (no room here; a retry goes to another pod).

Not: `cancelled`, `deadline-exceeded` and `internal` (the call may have been carried out, in part or whole, and most
calls are not safe to carry out twice), and HTTP codes, because a gRPC answer is 200 whatever came of it.
"""

ROUTE_HEADER = "x-canary-route"
"""Response header that names route and track, `rule-qa/canary`; access logs have both as route name and cluster."""


def service_host(service: str, namespace: str) -> str:
    """The name under which the mesh knows a Service; short names would resolve in the reader's namespace."""
    return f"{service}.{namespace}.svc.cluster.local"


def gateway_spec(settings: Settings) -> dict[str, Any]:
    """The public door.  With a certificate plain HTTP only redirects; TLS is 1.2 or newer."""
    hosts = [f"{settings.namespace}/{host}" for host in settings.public_hosts]
    http: dict[str, Any] = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts}
    servers = [http]
    if settings.gateway.tls_secret is not None:
        http["tls"] = {"httpsRedirect": True}
        tls = {
            "mode": "SIMPLE",
            "credentialName": settings.gateway.tls_secret,
            "minProtocolVersion": "TLSV1_2",
        }
        servers.append({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": hosts, "tls": tls})
    return {"selector": {"istio": INGRESS.removeprefix("istio-")}, "servers": servers}


def door_selectors(settings: Settings) -> dict[str, dict[str, Any]]:
    """What selects the proxies of each door in objects that configure proxies, by namespace."""
    waypoint = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": WAYPOINT}
    found: dict[str, dict[str, Any]] = {settings.namespace: {"targetRefs": [waypoint]}}
    if settings.public_hosts:
        found[INGRESS_NAMESPACE] = {"selector": {"matchLabels": {"istio": INGRESS.removeprefix("istio-")}}}
    return found


def destination_rule_spec(service: str, namespace: str) -> dict[str, Any]:
    """Both subsets, always: a route may only name a subset that is known already."""
    subsets = [{"name": track, "labels": {"version": track}} for track in ("stable", "canary")]
    return {"host": service_host(service, namespace), "subsets": subsets}


def virtual_service_spec(name: str, settings: Settings) -> dict[str, Any]:
    """One set of routes for the public door and for callers inside the mesh."""
    service = settings.services[name]
    return {
        "hosts": [*service.hosts, service_host(name, settings.namespace)],
        "gateways": [*([f"{INGRESS_NAMESPACE}/{PUBLIC_GATEWAY}"] if service.hosts else []), "mesh"],
        "http": list(_http(name, service, settings)),
    }


def _http(name: str, service: Service, settings: Settings) -> Iterator[dict[str, Any]]:
    host = service_host(name, settings.namespace)

    def route(title: str, split: Mapping[str, int | None], match: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        legs = []
        for track, share in split.items():
            leg: dict[str, Any] = {"destination": {"host": host, "subset": track, "port": {"number": service.port}}}
            if share is not None:
                leg["weight"] = share
            if settings.route_header:
                leg["headers"] = {"response": {"set": {ROUTE_HEADER: f"{title}/{track}"}}}
            legs.append(leg)
        retries: dict[str, Any] = {"attempts": service.retries}
        if service.retries:
            retry_on = GRPC_RETRY_ON if service.protocol == "grpc" else RETRY_ON
            retries |= {"perTryTimeout": f"{service.timeout}s", "retryOn": retry_on}
        found = {"name": title, "route": legs, "timeout": f"{service.timeout}s", "retries": retries}
        if settings.edge is not None:  # what the edge shows the gateway is no business of the services
            found["headers"] = {"request": {"remove": [ORIGIN_SECRET]}}
        return found | ({"match": list(match)} if match else {})

    def stamped(stamp: Mapping[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"headers": {STAMP: dict(stamp)} | ({STAMP_REASON: {"exact": reason}} if reason else {})}]

    weight = settings.effective_weight if service.canary is not None else 0
    stable, canary = {"stable": None}, {"canary": None}
    if service.canary is not None and not settings.halted:
        yield route("edge-blue-cidr", stable, stamped({"exact": "blue"}, "cidr"))
        for rule in service.rules:
            yield route(f"rule-{rule.name}", {rule.to: None}, matches.specs(rule, service.user_header))
        if weight == 0:
            # A revert does not wait for the edge: its percentage may still stamp green for minutes.
            yield route("edge-green-late", stable, stamped({"exact": "green"}, "bucket"))
        yield route("edge-green", canary, stamped({"exact": "green"}))
        yield route("edge-stamped", stable, stamped(matches.ANY))
    yield route("default", dict(zip(("stable", "canary"), weights.split(weight), strict=True)))


def exposure(http: Sequence[Mapping[str, Any]]) -> tuple[frozenset[str], frozenset[str]]:
    """(opened, shielded) of written routes: the rule matches that lead to canary, and those that keep from it.

    A list of users counts one by one, so that taking a name off a list is no wider rule.  Stamps are not rules.
    """
    opened: set[str] = set()
    shielded: set[str] = set()
    for route in http:
        if not str(route.get("name", "")).startswith("rule-"):
            continue
        subsets = {leg.get("destination", {}).get("subset") for leg in route.get("route") or []}
        target = opened if "canary" in subsets else shielded
        for match in route.get("match") or []:
            target.update(_spread(match))
    return frozenset(opened), frozenset(shielded)


def _spread(match: Mapping[str, Any]) -> Iterator[str]:
    for name, condition in match.get("headers", {}).items():
        users = matches.users_from_regex(condition.get("regex", ""))
        for user in users or ():
            one = {**match, "headers": {**match["headers"], name: {"exact": user}}}
            yield json.dumps(one, sort_keys=True)
        if users:
            return
    yield json.dumps(match, sort_keys=True)
