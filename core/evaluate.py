"""Which track a described request gets, and why.

Read twice, once from the settings and once from a VirtualService as it stands (rendered, recorded, or edited by hand),
so that each reading checks the other; neither asks a cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from core import cidrs, edge, matches, routes
from core.model import Rule, Service, Settings
from policies import weights

_MATCH = {"name", "headers", "withoutHeaders", "queryParams", "uri", "method"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it arrives at a door: `gateway` for callers from outside, `mesh` for callers inside.

    `uri` is the path; names and values of `query` are as a URL carries them.  `host` None means the service's own.
    """

    door: Literal["gateway", "mesh"] = "gateway"
    host: str | None = None
    uri: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def sent(self) -> dict[str, str]:
        """All headers by lower-case name, cookies among them."""
        found = {name.lower(): value for name, value in self.headers.items()}
        crumbs = [f"{name}={value}" for name, value in self.cookies.items()]
        if crumbs:
            found["cookie"] = "; ".join([*([found["cookie"]] if "cookie" in found else []), *crumbs])
        return found


@dataclass(frozen=True)
class Decision:
    """Who serves a request.

    `layer`: `door` no route takes it (404) · `absent` no canary · `halted` · `cidr` stamp blue by CIDR · `rule` ·
    `stamp` · `weight`.  `route` is the route's name, as access logs and the response header have it; `shares` are
    fractions by track, of which only the weight gives more than one.
    """

    layer: str
    route: str | None
    shares: Mapping[str, float]


NOBODY = Decision("door", None, {})


@dataclass(frozen=True)
class Stamp:
    """What the edge says of a viewer.

    `reason`: `halted` · `cidr` · `bucket` · `error` (an address that is none).  `bucket`, where it decided, is the
    viewer's after the salt: green is who is below the weight times 100.
    """

    arm: Literal["blue", "green"]
    reason: str
    bucket: int | None = None


def stamp(settings: Settings, address: str, cookies: Mapping[str, str]) -> Stamp:
    """What the function on viewer requests, with the store as these settings write it, says of a viewer.

    `settings.edge` has to be there.  A second writing of edge/viewer_request.js, so that each checks the other.
    """
    assert settings.edge is not None
    if settings.halted:
        return Stamp("blue", "halted")
    try:
        digits = _digits(address)
    except ValueError:
        return Stamp("blue", "error")
    if any(map(digits.startswith, cidrs.compiled(settings.edge.blue_cidrs))):
        return Stamp("blue", "cidr")
    if any(map(digits.startswith, cidrs.compiled(settings.edge.green_cidrs))):
        return Stamp("green", "cidr")
    crumb = cookies.get(edge.COOKIE, "")
    hashed = hashlib.md5(digits[:17].encode(), usedforsecurity=False).hexdigest()[:8]
    own = int(crumb) if re.fullmatch("[0-9]{1,4}", crumb) else int(hashed, 16)
    bucket = (own % edge.BUCKETS + edge.salt(settings)) % edge.BUCKETS
    green = bucket < settings.effective_weight * edge.BUCKETS // weights.HIGHEST
    return Stamp("green" if green else "blue", "bucket", bucket)


def _digits(address: str) -> str:
    """The hex digits of an address as the function has them; one mapped into IPv6 is an IPv4 one."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found.scope_id is not None:
            raise ValueError(address)
        found = found.ipv4_mapped or found
    return f"{found.version}{found.packed.hex()}"


def behind_edge(settings: Settings, request: Request, address: str) -> tuple[Stamp | None, Request]:
    """The stamp of a viewer's request, and the request as it comes to the gateway.

    Without an edge nothing is stamped; a host that is none of its aliases never gets further (`None`, and the request
    without any door that has it).
    """
    if settings.edge is None:
        return None, request
    host = _host(request.host) if request.host is not None else next(iter(settings.edge.aliases), "")
    if host not in settings.edge.aliases:
        return None, replace(request, host="")
    removed = edge.removed(settings, settings.edge) | {routes.STAMP, routes.STAMP_REASON}
    kept = {name: value for name, value in request.headers.items() if name.lower() not in removed}
    crumbs: dict[str, str] = {}
    for crumb in request.sent().get("cookie", "").split(";"):
        name, _, value = crumb.strip().partition("=")
        crumbs.setdefault(name, value)
    found = stamp(settings, address, crumbs)
    stamps = {routes.STAMP: found.arm, routes.STAMP_REASON: found.reason}
    return found, replace(request, headers=kept | stamps, door="gateway")


def decide(name: str, settings: Settings, request: Request) -> Decision:
    """What the settings say of a request to the service `name`."""
    service, weight = settings.services[name], settings.effective_weight
    if request.door == "gateway":
        host = _host(request.host) if request.host is not None else next(iter(service.hosts), None)
        if host not in service.hosts:
            return NOBODY
    if service.canary is None or settings.halted:
        return Decision("halted" if service.canary is not None else "absent", "default", {"stable": 1.0})
    sent = request.sent()
    stamp, reason = sent.get(routes.STAMP), sent.get(routes.STAMP_REASON)
    if (stamp, reason) == ("blue", "cidr"):
        return Decision("cidr", "edge-blue-cidr", {"stable": 1.0})
    for rule in service.rules:
        if all(_conditions(rule, service, request, sent)):
            return Decision("rule", f"rule-{rule.name}", {rule.to: 1.0})
    if (stamp, reason, weight) == ("green", "bucket", weights.LOWEST):
        return Decision("stamp", "edge-green-late", {"stable": 1.0})
    if stamp is not None:
        green = stamp == "green"
        return Decision("stamp", "edge-green" if green else "edge-stamped", {"canary" if green else "stable": 1.0})
    shares = zip(("stable", "canary"), weights.split(weight), strict=True)
    return Decision("weight", "default", {track: share / weights.HIGHEST for track, share in shares if share})


def _conditions(rule: Rule, service: Service, request: Request, sent: Mapping[str, str]) -> Iterator[bool]:
    crumbs = [crumb.removeprefix(" ") for crumb in sent.get("cookie", "").split(";")]
    yield from (match.accepts(sent.get(header.lower())) for header, match in rule.headers.items())
    yield from (f"{name}={value}" in crumbs for name, value in rule.cookies.items())
    yield from (match.accepts(request.query.get(name)) for name, match in rule.query.items())
    yield not rule.users or sent.get(service.user_header) in rule.users
    yield rule.uri is None or rule.uri.accepts(request.uri)
    yield rule.method in (None, request.method)


def route(spec: Mapping[str, Any], request: Request) -> Decision:
    """What a VirtualService's spec says of a request, whoever wrote it; shares are by subset.

    Raises `ValueError` for conditions that this program never writes (a waypoint drops most of them in silence).
    """
    doors = spec.get("gateways") or ["mesh"]
    if request.door == "mesh":
        found = first(spec["http"], request) if "mesh" in doors else None
    else:
        host = _host(request.host) if request.host is not None else next(iter(spec["hosts"]), "")
        public = any(door != "mesh" for door in doors) and any(fnmatchcase(host, known) for known in spec["hosts"])
        found = first(spec["http"], request) if public else None
    if found is None:
        return NOBODY
    title = str(found.get("name", ""))
    kind = title.partition("-")[0]
    layer = "cidr" if title == "edge-blue-cidr" else {"rule": "rule", "edge": "stamp"}.get(kind, "weight")
    return Decision(layer, title, split(found))


def first(http: Sequence[Mapping[str, Any]], request: Request) -> Mapping[str, Any] | None:
    """The first of a VirtualService's routes that takes the request."""
    sent = request.sent()
    for one in http:
        if any(all(_holds(match, request, sent)) for match in one.get("match") or [{}]):
            return one
    return None


def split(http: Mapping[str, Any]) -> dict[str, float]:
    """Subset → fraction of a route.  Istio divides by the sum of the weights; a single destination needs none."""
    legs = http["route"]
    given = [leg.get("weight") or 0 for leg in legs] if len(legs) > 1 else [1]
    found: dict[str, float] = {}
    for leg, weight in zip(legs, given, strict=True):
        if weight:
            subset = leg["destination"].get("subset", "")
            found[subset] = found.get(subset, 0.0) + weight / sum(given)
    return found


def _holds(match: Mapping[str, Any], request: Request, sent: Mapping[str, str]) -> Iterator[bool]:
    if unknown := sorted(set(match) - _MATCH):
        raise ValueError(f"{', '.join(unknown)}: a condition that this program neither writes nor reads")
    for name, wanted in (match.get("headers") or {}).items():
        yield _accepts(wanted, sent.get(name.lower()))
    for name, wanted in (match.get("withoutHeaders") or {}).items():
        yield not _accepts(wanted, sent.get(name.lower(), None if _present(wanted) else ""))
    for name, wanted in (match.get("queryParams") or {}).items():
        yield _accepts(wanted, request.query.get(name))
    for value, wanted in ((request.uri, match.get("uri")), (request.method, match.get("method"))):
        yield not wanted or _accepts(wanted, value)


def _present(match: Mapping[str, Any] | None) -> bool:
    return not match or match.get("regex") == "*"


def _accepts(match: Mapping[str, Any], value: str | None) -> bool:
    return value is not None if _present(match) else matches.StringMatch.model_construct(**match).accepts(value)


def _host(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "").lower()
