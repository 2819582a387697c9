"""Who should answer a probe, read from the manifests alone.

Conditions and shares are the product's evaluator's; here is what lies around one VirtualService: doors, several
VirtualServices on one host, faults, and what a subset selects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

from core import evaluate

Json = dict[str, Any]
Shares = dict[str, float]


def default_host(manifests: list[Json]) -> str:
    """The host that probes without a Host header mean: the first public one."""
    for manifest in manifests:
        if manifest["kind"] == "Gateway":
            for server in manifest["spec"]["servers"]:
                return str(server["hosts"][0]).rsplit("/", 1)[-1]
    return "shop.example.com"


def expected(manifests: list[Json], probe: Json, *, door: str = "gateway") -> Shares:
    """Outcome (version label or status code) -> share of requests, at the gateway or at the waypoint.

    Which route takes the request, and its shares, is said by the product's own evaluator.
    """
    host = probe["headers"].get("host") or default_host(manifests)
    http: list[Json] = []
    for service in (m for m in manifests if m["kind"] == "VirtualService"):
        if door == "gateway" and not _at_gateway(manifests, service, host):
            continue
        if door == "waypoint" and "mesh" not in service["spec"].get("gateways", ["mesh"]):
            continue
        http += _until_catch_all(service)
    if door == "gateway":
        http.sort(key=_catch_all)
    if door == "waypoint" and not http:
        return {"stable": math.nan, "canary": math.nan}
    found = evaluate.first(http, request(probe))
    return _outcome(manifests, found) if found else {"404": 1.0}


def request(probe: Json) -> evaluate.Request:
    """The request of a probe."""
    url = urlsplit(probe["path"])
    pairs = [pair.partition("=") for pair in url.query.split("&") if pair]
    query = {name: value for name, _, value in reversed(pairs)}  # of two of a name the first counts
    return evaluate.Request(uri=url.path, method=probe["method"], headers=probe["headers"], query=query)


def _at_gateway(manifests: list[Json], service: Json, host: str) -> bool:
    namespace = service["metadata"]["namespace"]
    named = {g if "/" in g else f"{namespace}/{g}" for g in service["spec"].get("gateways", ["mesh"])}
    if not any(fnmatch(host, h) for h in service["spec"]["hosts"]):
        return False
    for gateway in (m for m in manifests if m["kind"] == "Gateway"):
        own = gateway["metadata"]["namespace"]
        if f"{own}/{gateway['metadata']['name']}" not in named:
            continue
        for pattern in (h for s in gateway["spec"]["servers"] for h in s["hosts"]):
            place, _, name = pattern.rpartition("/")
            offered = place in ("", "*", namespace) or (place == "." and own == namespace)
            if offered and fnmatch(host, name):
                return True
    return False


def _until_catch_all(service: Json) -> list[Json]:
    """One match to a route, as Istio's order of merging counts them."""
    out: list[Json] = []
    for http in service["spec"]["http"]:
        for match in http.get("match") or [{}]:
            out.append({**http, "match": [match]})
            if _catch_all(out[-1]):
                return out
    return out


def _catch_all(http: Json) -> bool:
    (match,) = http["match"]
    return set(match) <= {"uri", "name"} and match.get("uri") in (None, {"prefix": "/"}, {"regex": ".*"})


def _outcome(manifests: list[Json], http: Mapping[str, Any]) -> Shares:
    out: Shares = {}
    for subset, share in evaluate.split(http).items():
        host = next(d["destination"]["host"] for d in http["route"] if d["destination"].get("subset", "") == subset)
        for answer, part in _served_by(manifests, host, subset).items():
            out[answer] = out.get(answer, 0.0) + share * part
    abort = (http.get("fault") or {}).get("abort")
    if abort:
        share = abort.get("percentage", {}).get("value", 0) / 100
        out = {k: v * (1 - share) for k, v in out.items() if share < 1}
        out[str(abort["httpStatus"])] = out.get(str(abort["httpStatus"]), 0.0) + share
    return out


def _served_by(manifests: list[Json], host: str, subset: str) -> Shares:
    if not subset:  # chosen among all pods by load, so only who may answer is known
        return {"stable": math.nan, "canary": math.nan}
    for rule in (m for m in manifests if m["kind"] == "DestinationRule" and m["spec"]["host"] == host):
        for one in rule["spec"].get("subsets") or []:
            if one["name"] == subset:
                version = one["labels"].get("version")
                return {version: 1.0} if version in ("stable", "canary") else {"503": 1.0}
    return {"503": 1.0}
