"""The edge as plain data: its functions' code, what its store holds, and what AWS and the gateway are asked for.

The store says in one write who is blue, who is green and how many of the 10,000 buckets are green; a step changes it
and nothing else at AWS.  Inputs are in the provider's own words.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import cidrs, routes
from core.model import Edge, Settings

BUCKETS = 10_000
"""Into so many parts viewers are divided; a per cent is a hundred of them."""

COOKIE = "canary-bucket"
"""Holds a viewer's bucket, before the salt; the functions know it by the same name."""

LONGEST_CODE = 10_240
"""Bytes of a function."""

LONGEST_VALUE = 1_000
"""Bytes of a value of the store.  The limit is 1 KB, and by some accounts the key counts."""

SOURCES = Path(__file__).parent.parent / "edge"
FUNCTIONS = {"viewer-request": "viewer_request.js", "viewer-response": "viewer_response.js"}
"""Source by event."""

UNREMOVABLE = frozenset({"cdn-loop", "content-length", "cookie", "host", "transfer-encoding", "via"})
"""Headers that a function cannot take away."""

MOST_KEY_HEADERS = 10
"""Headers that fit into a cache's key."""

_Line = tuple[tuple[str | int, ...], object, str]


# --- what the functions do ---


def used_headers(settings: Settings) -> dict[str, set[str]]:
    """Headers that rules of public services read, by lower-case name: the tracks that they lead to."""
    found: dict[str, set[str]] = {}
    for service in settings.services.values():
        for rule in service.rules if service.hosts else ():
            for header in [*rule.headers, *([service.user_header] if rule.users else [])]:
                found.setdefault(header.lower(), set()).add(rule.to)
    return found


def trusted(settings: Settings, edge: Edge) -> list[str]:
    """Headers of viewers that rules may go by."""
    return sorted(set(map(str.lower, edge.trust_headers)) & set(used_headers(settings)))


def removed(settings: Settings, edge: Edge) -> set[str]:
    """Headers that the function takes from viewers."""
    return set(used_headers(settings)) - set(trusted(settings, edge)) - UNREMOVABLE


def code(event: str, settings: Settings, edge: Edge) -> str:
    """The function as published: its source, the headers that it removes, and what both functions share."""
    source, shared = ((SOURCES / name).read_text() for name in (FUNCTIONS[event], "bucket.js"))
    if event == "viewer-request":
        before, found, after = source.partition("const REMOVED = [];")
        assert found, "the source has a place for the headers that rules read"
        source = f"{before}const REMOVED = {json.dumps(sorted(removed(settings, edge)))};{after}"
    return source + shared


def values(settings: Settings, edge: Edge) -> dict[str, str]:
    """What the store holds.  Each list ends with the generation of the write: no reader takes a mix for whole."""
    lists = {"blue_cidrs": edge.blue_cidrs, "green_cidrs": edge.green_cidrs}
    prefixes = {key: cidrs.compiled(texts) for key, texts in lists.items()}
    state = {"buckets": settings.effective_weight * BUCKETS // 100, "salt": salt(settings), "halted": settings.halted}
    content = json.dumps([prefixes, state], sort_keys=True).encode()
    generation = hashlib.sha256(content).hexdigest()[:8]
    found = {key: " ".join([*own, f"@{generation}"]) for key, own in prefixes.items()}
    return {**found, "green_percentage": json.dumps(state | {"generation": generation}, separators=(",", ":"))}


def salt(settings: Settings) -> int:
    """By how many buckets viewers are moved on: another number for another canary, or the same people would always be
    the first."""
    canaries = [settings.fingerprint(name, "canary") for name in sorted(settings.services)]
    return int(hashlib.sha256(json.dumps(canaries).encode()).hexdigest()[:8], 16) % BUCKETS if any(canaries) else 0


def opened(name: str, settings: Settings, recorded: frozenset[str] = frozenset()) -> frozenset[str]:
    """What the edge opens to canary of a service beside the weight: green networks, and headers that it trusts."""
    if not _leads_to_canary(name, settings) or settings.edge is None:
        return frozenset()
    used, names = used_headers(settings), map(str.lower, settings.edge.trust_headers)
    headers = {f"trusted {header}" for header in names if "canary" in used.get(header, ())}
    return cidrs.tokens("green", settings.edge.green_cidrs, recorded) | headers


def shielded(name: str, settings: Settings, recorded: frozenset[str] = frozenset()) -> frozenset[str]:
    """What the edge keeps from canary: blue networks."""
    if not _leads_to_canary(name, settings) or settings.edge is None:
        return frozenset()
    return cidrs.tokens("blue", settings.edge.blue_cidrs, recorded)


def _leads_to_canary(name: str, settings: Settings) -> bool:
    service = settings.services[name]
    return bool(service.hosts) and service.canary is not None and not settings.halted


# --- what is wrong with the settings ---


def problems(settings: Settings, edge: Edge) -> Iterator[_Line]:
    """(path, value, what is wrong with the fix)."""
    yield from _problems_of_lists(edge)
    if settings.strategy != "istio":
        yield ("edge",), settings.strategy, "is for strategy istio, whose routes read the stamps; drop canary:edge"
    for field, arn, owner in (("certificateArn", edge.certificate_arn, "acm"), ("wafArn", edge.waf_arn, "wafv2")):
        if arn is not None and not re.match(rf"arn:aws[a-z-]*:{owner}:us-east-1:", arn):
            yield ("edge", field), arn, f"is none of {owner} in us-east-1, where CloudFront looks; make one there"
    for index, alias in enumerate(edge.aliases):
        if alias not in settings.public_hosts:
            text = "is a host of no service, so nobody would answer; add it to services.<name>.hosts, or drop it"
            yield ("edge", "aliases", index), alias, text
    believed = set(trusted(settings, edge))
    for name, service in settings.services.items():
        for index, host in enumerate(service.hosts):
            if edge.require_secret and host not in edge.aliases:
                text = "is not in edge.aliases, and the gateway turns away whatever comes past the edge; add it there"
                yield ("services", name, "hosts", index), host, text
        for index, rule in enumerate(service.rules if service.hosts else ()):
            for header in sorted(UNREMOVABLE & set(map(str.lower, rule.headers)) - believed):
                text = "cannot be taken from viewers by the edge; add it to edge.trustHeaders, or choose another header"
                yield ("services", name, "rules", index, "headers"), header, text
    if (count := len(_key_headers(settings, edge))) > MOST_KEY_HEADERS:
        text = f"make {count} headers of the cache's key, those of all routes with them; {MOST_KEY_HEADERS} fit"
        yield ("edge", "trustHeaders"), len(edge.trust_headers), text
    if (size := len(code("viewer-request", settings, edge).encode())) > LONGEST_CODE:
        names = removed(settings, edge)
        name = max(settings.services, key=lambda one: len(settings.services[one].rules))
        text = f"make the function of the edge {size} bytes, and {LONGEST_CODE} fit; use fewer or shorter headers"
        yield ("services", name, "rules"), f"{len(names)} headers to remove", text
    secrets = {"originSecret": settings.origin_secret, "originSecretBefore": settings.origin_secret_before}
    for field, secret in secrets.items():
        if secret is None and field == "originSecret":
            text = f"is missing, and by it the gateway knows the edge; `pulumi config set --secret canary:{field}`"
            yield (field,), None, text
        elif secret is not None and not re.fullmatch(r"[\w-]{16,256}", secret, re.ASCII):
            yield (field,), "(secret)", "must be 16 to 256 letters, digits, - and _; take `openssl rand -hex 32`"


def _problems_of_lists(edge: Edge) -> Iterator[_Line]:
    blues = [cidrs.network(text) for text in edge.blue_cidrs]
    for index, text in enumerate(edge.green_cidrs):
        at, green = ("edge", "greenCidrs", index), cidrs.network(text)
        if green.prefixlen < (widest := cidrs.WIDEST[green.version]):
            yield at, text, f"is wider than /{widest}; name narrower networks, and let canary:weight lead the rest"
        for blue in blues:
            if green.overlaps(blue):
                yield at, text, f"overlaps {blue} of blueCidrs, which would win; take one of them out"
    room = LONGEST_VALUE - len(" @01234567")
    for field, texts in (("blueCidrs", edge.blue_cidrs), ("greenCidrs", edge.green_cidrs)):
        if (size := cidrs.size(texts)) > room:
            fit = bisect_right(range(len(texts)), room, key=lambda count: cidrs.size(texts[:count])) - 1
            text = f"make {size} bytes, and a value of the store has room for {room}; the first {fit} fit, drop some"
            yield ("edge", field), f"{len(texts)} CIDRs", text


# --- what AWS is asked for ---


def keys_args(settings: Settings, edge: Edge, store: object) -> dict[str, Any]:
    """All keys of the store in one resource: it puts them in one request."""
    pairs = [{"key": key, "value": value} for key, value in values(settings, edge).items()]
    return {"keyValueStoreArn": store, "resourceKeyValuePairs": pairs}


def function_args(event: str, settings: Settings, edge: Edge, store: object) -> dict[str, Any]:
    """A function, published; only the one on the request reads the store."""
    found: dict[str, Any] = {"runtime": "cloudfront-js-2.0", "publish": True, "code": code(event, settings, edge)}
    return found | ({"keyValueStoreAssociations": [store]} if event == "viewer-request" else {})


def _key_headers(settings: Settings, edge: Edge) -> list[str]:
    own = {"authorization", "host", routes.STAMP, routes.STAMP_REASON}
    return sorted(own | set(trusted(settings, edge)) - UNREMOVABLE)


def cache_policy_args(settings: Settings, edge: Edge) -> dict[str, Any]:
    """The key has all that routes read, so no track answers for the other.

    Only what the origin calls cacheable is kept, and for a minute at the most: an answer of canary outlives a revert no
    longer than an edge location that learns of it late.
    """
    key = {
        "headersConfig": {"headerBehavior": "whitelist", "headers": {"items": _key_headers(settings, edge)}},
        "cookiesConfig": {"cookieBehavior": "allExcept", "cookies": {"items": [COOKIE]}},
        "queryStringsConfig": {"queryStringBehavior": "all"},
        "enableAcceptEncodingBrotli": True,
        "enableAcceptEncodingGzip": True,
    }
    return {"minTtl": 0, "defaultTtl": 0, "maxTtl": 60, "parametersInCacheKeyAndForwardedToOrigin": key}


def origin_request_policy_args() -> dict[str, Any]:
    """All that the viewer sent, the host among it, and what CloudFront alone knows of the viewer."""
    extra = {"items": ["CloudFront-Forwarded-Proto", "CloudFront-Viewer-Address"]}
    return {
        "headersConfig": {"headerBehavior": "allViewerAndWhitelistCloudFront", "headers": extra},
        "cookiesConfig": {"cookieBehavior": "all"},
        "queryStringsConfig": {"queryStringBehavior": "all"},
    }


def response_headers_policy_args() -> dict[str, Any]:
    """Viewers are not told of the proxies inside."""
    told = ("x-envoy-decorator-operation", "x-envoy-upstream-service-time")
    return {"removeHeadersConfig": {"items": [{"header": header} for header in told]}}


def distribution_args(
    settings: Settings,
    edge: Edge,
    *,
    origin: object,
    secret: object,
    functions: Mapping[str, object],
    policies: Mapping[str, object],
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """One origin, the gateway, and one behavior with both functions; `functions` are ARNs, `policies` ids by input."""
    behavior: dict[str, Any] = {
        "targetOriginId": routes.PUBLIC_GATEWAY,
        "viewerProtocolPolicy": "redirect-to-https",
        "allowedMethods": ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"],
        "cachedMethods": ["GET", "HEAD"],
        "compress": True,
        "functionAssociations": [{"eventType": event, "functionArn": arn} for event, arn in functions.items()],
        **policies,
    }
    if any(service.protocol == "grpc" for service in settings.services.values() if service.hosts):
        behavior["grpcConfig"] = {"enabled": True}
    gateway = {
        "originId": routes.PUBLIC_GATEWAY,
        "domainName": origin,
        "customHeaders": [{"name": routes.ORIGIN_SECRET, "value": secret}],
        "customOriginConfig": {
            "httpPort": 80,
            "httpsPort": 443,
            "originProtocolPolicy": "https-only" if settings.gateway.tls_secret else "http-only",
            "originSslProtocols": ["TLSv1.2"],
            "originReadTimeout": 60,  # the most: timeouts are the routes' business
        },
    }
    certificate = {
        "acmCertificateArn": edge.certificate_arn,
        "minimumProtocolVersion": "TLSv1.2_2021",
        "sslSupportMethod": "sni-only",
    }
    return {
        "enabled": True,
        "aliases": list(edge.aliases),
        "httpVersion": "http2and3",
        "isIpv6Enabled": True,
        "priceClass": edge.price_class,
        "origins": [gateway],
        "defaultCacheBehavior": behavior,
        "restrictions": {"geoRestriction": {"restrictionType": "none"}},
        "viewerCertificate": certificate,
        "tags": {**tags, **edge.tags},
    } | ({"webAclId": edge.waf_arn} if edge.waf_arn else {})


LOG_FIELDS = (
    "timestamp(ms)", "x-edge-location", "x-edge-request-id", "c-ip", "cs-method", "cs(Host)", "cs-uri-stem",
    "sc-status", "x-edge-result-type", "time-taken", "time-to-first-byte", "cs-protocol", "viewer-request-log-data",
)  # fmt: skip
"""What the access log has of a request, by the names in the guide to standard logging (v2).  The last is `arm reason
generation` from the function, URL-encoded."""


# --- what the gateway is asked for ---


def door_spec(settings: Settings, secrets: object) -> dict[str, Any]:
    """Who does not bring one of the secrets is turned away with 403 before any route is looked at.

    A DENY, because no other policy can lift it.
    """
    selector = routes.door_selectors(settings)[routes.INGRESS_NAMESPACE]
    condition = {"key": f"request.headers[{routes.ORIGIN_SECRET}]", "notValues": secrets}
    return {**selector, "action": "DENY", "rules": [{"when": [condition]}]}


def told(edge: Edge, written: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """For the stack outputs: the store as `written`, the lists as people wrote them."""
    state = json.loads(next(pair["value"] for pair in written if pair["key"] == "green_percentage"))
    lists = {"blueCidrs": edge.blue_cidrs, "greenCidrs": edge.green_cidrs}
    return {"aliases": edge.aliases, **lists, "trustHeaders": edge.trust_headers, **state}
