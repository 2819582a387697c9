"""Who should answer a probe, read from the manifests alone: an independent, slow reading of Istio's routing rules."""

from __future__ import annotations

import functools
import math
import re
from fnmatch import fnmatch
from typing import Any
from urllib.parse import parse_qsl, urlsplit

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
    """Outcome (version label or status code) -> share of requests, at the gateway or at the waypoint."""
    host = probe["headers"].get("host") or default_host(manifests)
    entries: list[tuple[Json | None, Json]] = []
    for service in (m for m in manifests if m["kind"] == "VirtualService"):
        if door == "gateway" and not _at_gateway(manifests, service, host):
            continue
        if door == "waypoint" and "mesh" not in service["spec"].get("gateways", ["mesh"]):
            continue
        entries += _until_catch_all(service)
    if door == "gateway":
        entries.sort(key=lambda e: _catch_all(e[0]))
    if door == "waypoint" and not entries:
        return {"stable": math.nan, "canary": math.nan}
    for match, http in entries:
        if match is None or _matches(match, probe):
            return _outcome(manifests, http)
    return {"404": 1.0}


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


def _until_catch_all(service: Json) -> list[tuple[Json | None, Json]]:
    out: list[tuple[Json | None, Json]] = []
    for http in service["spec"]["http"]:
        for match in http.get("match") or [None]:
            out.append((match, http))
            if _catch_all(match):
                return out
    return out


def _catch_all(match: Json | None) -> bool:
    return not match or (set(match) <= {"uri", "name"} and match.get("uri") in (None, {"prefix": "/"}, {"regex": ".*"}))


def _matches(match: Json, probe: Json) -> bool:
    url = urlsplit(probe["path"])
    given = {k.lower(): v for k, v in probe["headers"].items()}
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    tests = [
        *(_text(given.get(n.lower()), m) for n, m in (match.get("headers") or {}).items()),
        *(not _text(given.get(n.lower()), m) for n, m in (match.get("withoutHeaders") or {}).items()),
        *(_text(query.get(n), m) for n, m in (match.get("queryParams") or {}).items()),
        _text(url.path, match.get("uri") or {}),
        _text(probe["method"], match.get("method") or {}),
    ]
    return all(tests)


def _text(value: str | None, match: Json) -> bool:
    if value is None:
        return False
    if not match or match.get("regex") == "*":
        return True
    ((kind, wanted),) = match.items()
    if kind == "regex":
        return re.fullmatch(wanted, value) is not None
    return value == wanted if kind == "exact" else value.startswith(wanted)


def _outcome(manifests: list[Json], http: Json) -> Shares:
    out: Shares = {}
    weights = [d.get("weight", 0) for d in http["route"]] if len(http["route"]) > 1 else [1]
    for destination, weight in zip(http["route"], weights, strict=True):
        for answer, share in _served_by(manifests, destination["destination"]).items():
            if weight:
                out[answer] = out.get(answer, 0.0) + share * weight / sum(weights)
    abort = (http.get("fault") or {}).get("abort")
    if abort:
        share = abort.get("percentage", {}).get("value", 0) / 100
        out = {k: v * (1 - share) for k, v in out.items() if share < 1}
        out[str(abort["httpStatus"])] = out.get(str(abort["httpStatus"]), 0.0) + share
    return out


def _served_by(manifests: list[Json], destination: Json) -> Shares:
    subset = destination.get("subset")
    if not subset:  # chosen among all pods by load, so only who may answer is known
        return {"stable": math.nan, "canary": math.nan}
    for rule in (m for m in manifests if m["kind"] == "DestinationRule" and m["spec"]["host"] == destination["host"]):
        for one in rule["spec"].get("subsets") or []:
            if one["name"] == subset:
                version = one["labels"].get("version")
                return {version: 1.0} if version in ("stable", "canary") else {"503": 1.0}
    return {"503": 1.0}


@functools.cache
def binomial_interval(n: int, p: float, confidence: float) -> tuple[int, int]:
    """The shortest central range [low, high] of counts that holds at least `confidence` of Binomial(n, p)."""
    tail = (1 - confidence) / 2
    if p <= 0 or p >= 1:
        return (0, 0) if p <= 0 else (n, n)
    log_p, log_q, base = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    mass = [
        math.exp(base - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q) for k in range(n + 1)
    ]
    low, total = 0, mass[0]
    while total <= tail:
        low += 1
        total += mass[low]
    high, total = n, mass[n]
    while total <= tail:
        high -= 1
        total += mass[high]
    return low, high
