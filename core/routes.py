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

RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,reset-before-request,retriable-status-codes"
"""Istio's default conditions, and requests that a closing connection never took: each is safe to send again."""


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

    def destination(track: str) -> dict[str, Any]:
        return {"destination": {"host": host, "subset": track, "port": {"number": service.port}}}

    def route(title: str, split: Sequence[dict[str, Any]], match: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {"name": title}
        if match is not None:
            found["match"] = [match]
        retries: dict[str, Any] = {"attempts": service.retries}
        if service.retries:
            retries |= {"perTryTimeout": f"{service.timeout}s", "retryOn": RETRY_ON}
        return found | {"route": list(split), "timeout": f"{service.timeout}s", "retries": retries}

    def stamped(stamp: Mapping[str, str], reason: str | None = None) -> dict[str, Any]:
        return {"headers": {STAMP: dict(stamp)} | ({STAMP_REASON: {"exact": reason}} if reason else {})}

    weight = settings.effective_weight if service.canary is not None else 0
    if service.canary is not None and not settings.halted:
        yield route("edge-blue-cidr", [destination("stable")], stamped({"exact": "blue"}, "cidr"))
        for rule in service.rules:
            yield route(f"rule-{rule.name}", [destination(rule.to)], matches.spec(rule, service.user_header))
        if weight == 0:
            # A revert does not wait for the edge: its percentage may still stamp green for minutes.
            yield route("edge-green-late", [destination("stable")], stamped({"exact": "green"}, "bucket"))
        yield route("edge-green", [destination("canary")], stamped({"exact": "green"}))
        yield route("edge-stamped", [destination("stable")], stamped(matches.ANY))
    shares = zip(("stable", "canary"), weights.split(weight), strict=True)
    yield route("default", [destination(track) | {"weight": share} for track, share in shares])


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
