"""A stack that breaks no policy, and per policy the smallest changes that break that one and no other.

The stack is as others could have written it: no component of ours, no record.  Unit tests run the changes one by one;
the end-to-end suite gives the first of each policy to a real engine.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Declared = dict[str, tuple[str, Json]]
"""Type token and properties by name."""

K8S = "kubernetes:"
STAMP_ARN = "arn:aws:cloudfront::123456789012:function/stamp"
DIGEST = "sha256:" + "0a1b2c3d" * 8


def _deployment(version: str) -> Json:
    labels = {"app": "web", "version": version}
    container = {
        "name": "web",
        "image": f"sample-web:1.0@{DIGEST}",
        "ports": [{"containerPort": 3000}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 3000}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"web-{version}", "namespace": "foreign"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def _of(kind: str, name: str, spec: Json | None = None, **metadata: Any) -> Json:
    version, _, short = kind.rpartition(":")
    at = {} if short == "Namespace" else {"namespace": "foreign"}
    found = {"apiVersion": version.removeprefix("core/"), "kind": short, "metadata": {"name": name, **at, **metadata}}
    return found | ({} if spec is None else {"spec": spec})


HOST = "web.foreign.svc.cluster.local"


def _leg(subset: str, weight: int) -> Json:
    return {"destination": {"host": HOST, "subset": subset, "port": {"number": 80}}, "weight": weight}


BOUNDS: Json = {"timeout": "10s", "retries": {"attempts": 0}}
ISTIO = "networking.istio.io/v1"


def _istio(chart: str) -> tuple[str, Json]:
    return f"{K8S}helm.sh/v3:Release", {"chart": chart, "version": "1.30.3", "namespace": "istio-system", "name": chart}


GOOD: Declared = {
    "space": (
        f"{K8S}core/v1:Namespace",
        _of(
            "core/v1:Namespace",
            "foreign",
            labels={"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"},
        ),
    ),
    "waypoint": (
        f"{K8S}gateway.networking.k8s.io/v1:Gateway",
        _of(
            "gateway.networking.k8s.io/v1:Gateway",
            "waypoint",
            {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
            labels={"istio.io/waypoint-for": "service"},
        ),
    ),
    "service": (
        f"{K8S}core/v1:Service",
        _of("core/v1:Service", "web", {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}),
    ),
    "stable": (f"{K8S}apps/v1:Deployment", _deployment("stable")),
    "canary": (f"{K8S}apps/v1:Deployment", _deployment("canary")),
    "budget": (
        f"{K8S}policy/v1:PodDisruptionBudget",
        _of(
            "policy/v1:PodDisruptionBudget",
            "web",
            {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        ),
    ),
    "rule": (
        f"{K8S}{ISTIO}:DestinationRule",
        _of(
            f"{ISTIO}:DestinationRule",
            "web",
            {"host": HOST, "subsets": [{"name": one, "labels": {"version": one}} for one in ("stable", "canary")]},
        ),
    ),
    "route": (
        f"{K8S}{ISTIO}:VirtualService",
        _of(
            f"{ISTIO}:VirtualService",
            "web",
            {
                "hosts": ["shop.example.com", HOST],
                "gateways": ["istio-ingress/public", "mesh"],
                "http": [
                    {
                        "name": "green",
                        "match": [{"headers": {"x-deployment": {"exact": "green"}}}],
                        "route": [{"destination": {"host": HOST, "subset": "canary"}}],
                        **BOUNDS,
                    },
                    {"name": "default", "route": [_leg("stable", 90), _leg("canary", 10)], **BOUNDS},
                ],
            },
            annotations={"canary/steps": "5:60,10:60,100:60"},
        ),
    ),
    "base": _istio("base"),
    "istiod": _istio("istiod"),
}

EDGE: Declared = {
    "keys": (
        "aws:cloudfront/keyvaluestoreKeysExclusive:KeyvaluestoreKeysExclusive",
        {
            "keyValueStoreArn": "arn:aws:cloudfront::123456789012:key-value-store/1",
            "resourceKeyValuePairs": [
                {"key": "blue_cidrs", "value": ""},
                {"key": "green_percentage", "value": json.dumps({"buckets": 1000, "halted": False})},
            ],
        },
    ),
    "cache": (
        "aws:cloudfront/cachePolicy:CachePolicy",
        {
            "id": "cache-id",
            "maxTtl": 60,
            "parametersInCacheKeyAndForwardedToOrigin": {
                "headersConfig": {"headerBehavior": "whitelist", "headers": {"items": ["host", "X-Deployment"]}},
                "cookiesConfig": {"cookieBehavior": "none"},
                "queryStringsConfig": {"queryStringBehavior": "all"},
            },
        },
    ),
    "door": (
        f"{K8S}security.istio.io/v1:AuthorizationPolicy",
        _of(
            "security.istio.io/v1:AuthorizationPolicy",
            "edge-only",
            {
                "action": "DENY",
                "rules": [{"when": [{"key": "request.headers[x-origin-secret]", "notValues": ["s3cr3t"]}]}],
            },
        ),
    ),
    "distribution": (
        "aws:cloudfront/distribution:Distribution",
        {
            "enabled": True,
            "origins": [
                {
                    "originId": "gateway",
                    "domainName": "gateway.example.com",
                    "customHeaders": [{"name": "x-origin-secret", "value": "s3cr3t"}],
                    "customOriginConfig": {
                        "httpPort": 80,
                        "httpsPort": 443,
                        "originProtocolPolicy": "https-only",
                        "originSslProtocols": ["TLSv1.2"],
                    },
                }
            ],
            "defaultCacheBehavior": {
                "targetOriginId": "gateway",
                "viewerProtocolPolicy": "redirect-to-https",
                "allowedMethods": ["GET", "HEAD"],
                "cachedMethods": ["GET", "HEAD"],
                "cachePolicyId": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad",
                "functionAssociations": [{"eventType": "viewer-request", "functionArn": STAMP_ARN}],
            },
            "orderedCacheBehaviors": [
                {
                    "pathPattern": "/static/*",
                    "targetOriginId": "gateway",
                    "viewerProtocolPolicy": "https-only",
                    "allowedMethods": ["GET", "HEAD"],
                    "cachedMethods": ["GET", "HEAD"],
                    "cachePolicyId": "cache-id",
                    "functionAssociations": [{"eventType": "viewer-request", "functionArn": STAMP_ARN}],
                }
            ],
            "restrictions": {"geoRestriction": {"restrictionType": "none"}},
            "viewerCertificate": {
                "acmCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1",
                "minimumProtocolVersion": "TLSv1.2_2021",
                "sslSupportMethod": "sni-only",
            },
            "loggingConfig": {"bucket": "logs.s3.amazonaws.com"},
        },
    ),
}

Change = Callable[[Declared], None]


def put(name: str, *path: str | int, value: Any) -> Change:
    """Sets one property of one resource; None takes it away."""

    def change(declared: Declared) -> None:
        at: Any = declared[name][1]
        for key in path[:-1]:
            at = at[key]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def add(name: str, kind: str, props: Json) -> Change:
    """Declares one more resource."""
    return lambda declared: declared.update({name: (kind, props)})


def drop(name: str) -> Change:
    """Declares one resource less."""
    return lambda declared: declared.pop(name) and None


def every(*changes: Change) -> Change:
    """All of them, in order."""

    def change(declared: Declared) -> None:
        for one in changes:
            one(declared)

    return change


def changed(*changes: Change, edge: bool = True) -> Declared:
    """The good stack with `changes`."""
    declared = copy.deepcopy(GOOD | (EDGE if edge else {}))
    for change in changes:
        change(declared)
    return declared


def without(declared: Declared, *names: str) -> Declared:
    """All but those."""
    return {name: one for name, one in declared.items() if name not in names}


SPLIT = ("spec", "http", 1)
POD = ("spec", "template", "spec", "containers", 0)
ROUTER = _of("gateway.networking.k8s.io/v1:HTTPRoute", "web", {"parentRefs": [{"kind": "Service", "name": "web"}]})
ORIGIN, DEFAULT = ("origins", 0), ("defaultCacheBehavior",)
_ROUTER = f"{K8S}gateway.networking.k8s.io/v1:HTTPRoute"
_STATIC = ("orderedCacheBehaviors", 0)

BROKEN: dict[str, list[tuple[Change, str]]] = {
    "route-weights": [
        (put("route", *SPLIT, "route", 0, "weight", value=95), "route default: weights must sum to 100, got 95 + 10"),
        (put("route", *SPLIT, "route", 0, "weight", value=None), "got 0 + 10 = 10"),
        (put("route", *SPLIT, "route", 0, "weight", value=90.5), "weight 90.5 is no whole number"),
        (put("route", *SPLIT, "route", 0, "weight", value="90"), "weight '90' is no whole number"),
        (put("route", *SPLIT, "route", 0, "weight", value=-90), "weight must be 0 to 100, got -90"),
        (put("route", *SPLIT, "route", 0, "weight", value=190), "weight must be 0 to 100, got 190"),
    ],
    "known-subsets": [
        (put("route", "spec", "http", 0, "route", 0, "destination", "subset", value="beta"), "route green: "),
        (put("rule", "spec", "subsets", 1, "name", value="next"), "has the subsets stable, next, not canary: 503"),
    ],
    "weight-on-ladder": [
        (put("route", "metadata", "annotations", "canary/steps", value="5:60,25:60"), "weight 10 is none of 5, 25"),
    ],
    "edge-follows-mesh": [
        (
            put("keys", "resourceKeyValuePairs", 1, "value", value='{"buckets":500,"halted":false}'),
            "10 % at foreign/web and 5 % at the edge",
        ),
        (
            put("keys", "resourceKeyValuePairs", 1, "value", value='{"buckets":1000,"halted":true}'),
            "10 % at foreign/web and 0 % at the edge",
        ),
    ],
    "one-router-per-host": [
        (add("router", _ROUTER, ROUTER), f"HTTPRoute foreign/web also names {HOST}"),
        (
            add("router", _ROUTER, _of("gateway/v1:HTTPRoute", "w", {"hostnames": ["*.example.com"]})),
            "HTTPRoute foreign/w also names shop.example.com",
        ),
    ],
    "catch-all-last": [
        (put("route", *SPLIT, "match", value=[{"uri": {"prefix": "/shop"}}]), "what no match takes gets 404"),
        (put("route", "spec", "http", 0, "match", value=[{"uri": {"prefix": "/"}}]), "route green takes all, so"),
        (put("route", "spec", "http", 0, "match", value=None), "route green takes all, so route default is never"),
    ],
    "explicit-routes": [
        (put("route", *SPLIT, "timeout", value=None), "route default has no timeout;"),
        (put("route", *SPLIT, "retries", value=None), "route default has no retries;"),
        (put("route", *SPLIT, "name", value=None), "route 1 has no name;"),
        (put("route", *SPLIT, "name", value="green"), "route green: another route has that name"),
    ],
    "no-silent-match": [
        (put("route", "spec", "http", 0, "match", 0, key, value=value), f"route green: {key} in a match is dropped")
        for key, value in {
            "sourceLabels": {"app": "cart"},
            "sourceNamespace": "cart",
            "gateways": ["istio-ingress/public"],
        }.items()
    ],
    "waypoint-for-routes": [
        (put("space", "metadata", "labels", "istio.io/use-waypoint", value=None), "Service web has no waypoint (None)"),
        (put("space", "metadata", "labels", "istio.io/use-waypoint", value="other"), "has no waypoint (other)"),
        (put("service", "metadata", "labels", value={"istio.io/use-waypoint": "none"}), "has no waypoint (none)"),
        (put("waypoint", "metadata", "labels", "istio.io/waypoint-for", value="workload"), "waypoint waypoint is for"),
        (put("route", "metadata", "namespace", value="edge"), "the route is in edge, where the waypoint of foreign"),
    ],
    "explained-override": [
        (add("stack", "pulumi:pulumi:Stack", {"override": {"until": "2020-01-01"}}), "it has no reason"),
        (add("stack", "pulumi:pulumi:Stack", {"override": {"reason": "sale"}}), "its end is None"),
        (
            add("stack", "pulumi:pulumi:Stack", {"override": {"reason": "sale", "until": "2199-01-01T00:00:00Z"}}),
            "it lasts longer than a day",
        ),
    ],
    "pinned-images": [
        (put("stable", *POD, "image", value="sample-web:1.0"), "container web: image sample-web:1.0 has no digest"),
        (put("canary", *POD, "image", value="sample-web@sha256:0a1b"), "has no digest"),
        (
            put("stable", "spec", "template", "spec", "initContainers", value=[{"name": "first", "image": "a:1"}]),
            "container first: image a:1 has no digest",
        ),
    ],
    "readiness-probes": [
        (put("canary", *POD, "readinessProbe", value=None), "container web has ports and no readinessProbe"),
    ],
    "subsets-select-pods": [
        (
            put("rule", "spec", "subsets", 1, "labels", value={"version": "next"}),
            "subset canary selects {'version': 'next'}, which no pods have: 503",
        ),
        (put("service", "spec", "selector", "version", value="stable"), "Service web selects by version"),
    ],
    "no-sidecars": [
        (put("space", "metadata", "labels", "istio-injection", value="enabled"), "istio-injection asks for sidecars"),
        (put("space", "metadata", "labels", "istio.io/rev", value="1-30"), "istio.io/rev asks for sidecars"),
        (
            put("stable", "spec", "template", "metadata", "labels", "sidecar.istio.io/inject", value="true"),
            "sidecar.istio.io/inject asks for sidecars",
        ),
    ],
    "pinned-istio": [
        (put("istiod", "version", value="1.30"), "chart istiod has version 1.30; write one such as 1.30.3"),
        (put("istiod", "version", value=None), "chart istiod has version None"),
        (put("istiod", "version", value="1.30.4"), "chart istiod has version 1.30.4, another 1.30.3"),
    ],
    "disruption-budgets": [
        (
            put("budget", "spec", "selector", "matchLabels", value={"app": "web", "version": "canary"}),
            "web-stable has 2",
        ),
        (put("budget", "metadata", "namespace", value="other"), "web-stable has 2 pods and no PodDisruptionBudget"),
    ],
    "edge-https": [
        (put("distribution", *DEFAULT, "viewerProtocolPolicy", value="allow-all"), "behavior default has viewerProto"),
        (put("distribution", *_STATIC, "viewerProtocolPolicy", value="allow-all"), "behavior /static/* has viewerPr"),
        (
            put("distribution", *ORIGIN, "customOriginConfig", "originProtocolPolicy", value="match-viewer"),
            "origin gateway has originProtocolPolicy match-viewer",
        ),
    ],
    "edge-tls": [
        (put("distribution", "viewerCertificate", "minimumProtocolVersion", value="TLSv1.2_2019"), "viewers may use"),
        (put("distribution", "viewerCertificate", "minimumProtocolVersion", value="TLSv1"), "viewers may use TLSv1;"),
        (put("distribution", "viewerCertificate", value={"cloudfrontDefaultCertificate": True}), "viewers may use TLS"),
        (
            put("distribution", *ORIGIN, "customOriginConfig", "originSslProtocols", value=["TLSv1.1", "TLSv1.2"]),
            "origin gateway may use TLSv1.1",
        ),
    ],
    "edge-function": [
        (put("distribution", *DEFAULT, "functionAssociations", value=None), "behavior default has no function"),
        (
            put("distribution", *_STATIC, "functionAssociations", 0, "eventType", value="viewer-response"),
            "behavior /static/* has no function on viewer-request",
        ),
    ],
    "edge-cache-key": [
        (
            put("distribution", *DEFAULT, "cachePolicyId", value="658327ea-f89d-4fab-a63d-7e88639e58f6"),
            "behavior default caches by a policy of others",
        ),
        (
            put(
                "cache", "parametersInCacheKeyAndForwardedToOrigin", "headersConfig", "headers", "items", value=["host"]
            ),
            "the key has no x-deployment",
        ),
        (put("distribution", *_STATIC, "cachePolicyId", value=None), "behavior /static/* caches by a policy of others"),
    ],
    "edge-origin": [
        (put("distribution", *ORIGIN, "customHeaders", value=None), "origin gateway is sent no secret"),
        (put("distribution", *ORIGIN, "customHeaders", 0, "name", value="x-other"), "origin gateway is sent no secret"),
    ],
    "edge-log": [
        (put("distribution", "loggingConfig", value=None), "nobody can say afterwards who was sent where"),
    ],
}
"""By policy: changes of one property, and how what is said of each begins or goes on."""
