"""Rules about the edge: what CloudFront sends to the gateway, and that nobody gets round it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policies.facts import Json, Mild, Stack, Thing, rule
from policies.workloads import PRODUCTION, in_production

STAMP = "x-deployment"
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
"""CloudFront's own policy; of its others none has a stamp in the key."""


def _behaviors(thing: Thing) -> list[tuple[str, Json]]:
    others = thing.props.get("orderedCacheBehaviors") or []
    return [("default", thing.get("defaultCacheBehavior")), *((str(one.get("pathPattern")), one) for one in others)]


def _origins(thing: Thing) -> Iterator[tuple[str, Json, Json]]:
    for one in thing.props.get("origins") or []:
        if custom := one.get("customOriginConfig"):  # others are reached by CloudFront alone
            yield f"origin {one.get('originId')}", one, custom


def _stamps(stack: Stack) -> bool:
    """True when some route reads the stamp, so that it matters who may set it."""
    routes = [route for one in stack.of("VirtualService") for route in one.spec.get("http") or []]
    return any(STAMP in (one.get("headers") or {}) for route in routes for one in route.get("match") or [])


@rule("edge-https", "Viewers, and in production the origin, are spoken to by HTTPS only.", "Distribution",
      stacks=PRODUCTION)  # fmt: skip
def _https(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for title, behavior in _behaviors(thing):
        if (how := behavior.get("viewerProtocolPolicy")) not in ("redirect-to-https", "https-only"):
            yield f"behavior {title} has viewerProtocolPolicy {how}; set redirect-to-https or https-only"
    for title, _, custom in _origins(thing):
        if (how := custom.get("originProtocolPolicy")) != "https-only" and in_production(thing, config):
            yield f"{title} has originProtocolPolicy {how}, and the edge's secret is read on the way; set https-only"


@rule("edge-tls", "TLS is of a version that is not broken.", "Distribution",
      minimum={"type": "string", "pattern": r"^TLSv1\.\d_\d{4}$", "default": "TLSv1.2_2021"})  # fmt: skip
def _tls(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    certificate = thing.get("viewerCertificate")
    version = None if certificate.get("cloudfrontDefaultCertificate") else certificate.get("minimumProtocolVersion")
    if _age(version) < _age(config["minimum"]):
        yield f"viewers may use {version or 'TLSv1'}; set viewerCertificate.minimumProtocolVersion {config['minimum']}"
    for title, _, custom in _origins(thing):
        if old := {"SSLv3", "TLSv1", "TLSv1.1"} & set(custom.get("originSslProtocols") or []):
            yield f"{title} may use {min(old)}; leave TLSv1.2 alone in originSslProtocols"


def _age(version: str | None) -> tuple[float, int]:
    match = re.fullmatch(r"TLSv([\d.]+)_(\d{4})", version or "")
    return (float(match[1]), int(match[2])) if match else (0.0, 0)


@rule("edge-function", "A function that stamps requests is on every behavior.", "Distribution")
def _function(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for title, behavior in _behaviors(thing) if _stamps(stack) else ():
        if "viewer-request" not in [one.get("eventType") for one in behavior.get("functionAssociations") or []]:
            why = f"viewers could send {STAMP} themselves; add the viewer-request function"
            yield f"behavior {title} has no function on viewer-request, so {why}"


@rule("edge-cache-key", "What is cached is kept apart by track, or nothing is cached.", "Distribution", "CachePolicy")
def _cache(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    own = {one.props.get("id") for one in stack.of("CachePolicy")} - {None}  # each of which is looked at itself
    if any(one.urn in thing.needs and not one.props.get("id") for one in stack.of("CachePolicy")):
        own |= {behavior.get("cachePolicyId") for _, behavior in _behaviors(thing)}  # not every engine tells the id
    policy = thing.get("parametersInCacheKeyAndForwardedToOrigin", "headersConfig", "headers")
    kept = {title: behavior.get("cachePolicyId") in {CACHING_DISABLED, *own} for title, behavior in _behaviors(thing)}
    if thing.kind == "CachePolicy":
        kept = {"": thing.props.get("maxTtl") == 0 or STAMP in map(str.lower, policy.get("items") or [])}
    for title in kept if _stamps(stack) else ():
        if not kept[title]:
            what = f"behavior {title} caches by a policy of others" if title else f"the key has no {STAMP}"
            yield f"{what}, so one track may answer for the other; add it to a key of your own, or do not cache"


@rule("edge-origin", "The gateway can tell the edge from everybody else, and does.", "Distribution",
      header={"type": "string", "default": "x-origin-secret"})  # fmt: skip
def _origin(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    header = config["header"]
    doors = [one for one in stack.of("AuthorizationPolicy") if one.spec.get("action") == "DENY"]
    rules = [entry for one in doors for entry in one.spec.get("rules") or []]
    asked = {condition.get("key") for entry in rules for condition in entry.get("when") or []}
    for title, origin, custom in _origins(thing):
        sent = {str(one.get("name")).lower() for one in origin.get("customHeaders") or []}
        if not custom.get("originMtlsConfig") and header not in sent:
            yield f"{title} is sent no secret, so who finds it could choose a track; add the header {header}"
        elif f"request.headers[{header}]" not in asked:  # as while names move to the edge
            yield Mild(f"no AuthorizationPolicy turns away what has no {header}; drop requireSecret: false, or add one")


@rule("edge-log", "The edge keeps an access log.", "Distribution", mandatory=False)
def _log(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    if not thing.props.get("loggingConfig") and not stack.of("LogDeliverySource"):
        yield "nobody can say afterwards who was sent where; set canary:edge.logArn, or loggingConfig"
