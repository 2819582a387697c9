"""The recorded routing cases: our compact form, and the folder form of istio-golden (both give the same `Case`)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1].parent / "shared" / "istio-golden"
# Recorded names that no test may lose: a case that is missing here or in code fails the suite.
CASES = [
    "abort-fault",
    "attributes",
    "blue-green-header",
    "header-canary",
    "headers-ops",
    "mesh-only",
    "mirror",
    "missing-subset",
    "no-default-route",
    "outlier",
    "per-destination-headers",
    "two-conditions",
    "user-regex",
    "weight-0",
    "weight-1",
    "weight-100",
    "weight-5",
    "weight-50",
    "weight-99",
    "without-headers",
]
_RESPONSE_SKIP = {"content-length"}


@dataclass(frozen=True)
class Case:
    """One recorded case; `routes` and `waypoint` are compact route facts, `clusters` the facts of every cluster."""

    name: str
    manifests: list[Json]
    probes: list[Json]
    routes: list[Json]
    waypoint: list[Json] | None
    clusters: list[Json]
    raw: dict[str, list[Json]] = field(default_factory=dict)


def shared_folder() -> Path | None:
    """The folder of recordings: $GOLDEN_DIR, else ../shared/istio-golden beside the checkout, if it is there."""
    given = os.environ.get("GOLDEN_DIR")
    if given:
        return Path(given)
    return SHARED if SHARED.is_dir() else None


def compact_cases() -> dict[str, Case]:
    """Our own form; probes that all cases share are written once, in probes.json."""
    out: dict[str, Case] = {}
    probes = json.loads((HERE / "probes.json").read_text())
    for path in sorted(HERE.glob("*.yaml")):
        data = yaml.safe_load(path.read_text())
        answers: Json = data["answers"]
        merged = [p | answers[p["probe"]] for p in probes if p["probe"] in answers]
        out[path.stem] = Case(
            path.stem, data["manifests"], merged, data["routes"], data.get("waypoint"), data["clusters"]
        )
    return out


def folder_cases(folder: Path) -> dict[str, Case]:
    """Every case of a folder in the form of istio-golden."""
    out: dict[str, Case] = {}
    for path in sorted(p for p in folder.iterdir() if (p / "manifests.yaml").is_file()):
        manifests = [m for m in yaml.safe_load_all((path / "manifests.yaml").read_text()) if m]
        raw = {f.stem: json.loads(f.read_text()) for f in path.glob("istiod-*.json")}
        routes = compact_routes(raw["istiod-routes"])
        waypoint = compact_routes(raw["istiod-waypoint-routes"]) if "istiod-waypoint-routes" in raw else None
        probes = [_probe(p) for p in json.loads((path / "observed.json").read_text())]
        clusters = compact_clusters(raw.get("istiod-clusters", []))
        out[path.name] = Case(path.name, manifests, probes, routes, waypoint, clusters, raw)
    return out


def _probe(observed: Json) -> Json:
    first = observed.get("first_response") or {}
    out = {k: observed[k] for k in ("probe", "method", "path", "headers", "requests", "served_by")}
    headers = first.get("response_headers") or {}
    out["response"] = {k: v for k, v in headers.items() if k not in _RESPONSE_SKIP}
    out["seen"] = first.get("request_headers_seen") or {}
    return out


def compact_routes(configs: list[Json]) -> list[Json]:
    """Per virtual host the routes in order: name, match, timeout, retries, clusters with weights, and extras."""
    return [
        {"host": vhost["name"], "domains": vhost["domains"], "routes": [_route(r) for r in vhost.get("routes") or []]}
        for config in configs
        for vhost in config["virtual_hosts"]
    ]


def _route(route: Json) -> Json:
    out: Json = {"name": route.get("name", ""), "match": route["match"]}
    action = route.get("route")
    if action is None:
        return out | {k: v for k, v in route.items() if k in ("redirect", "direct_response")}
    weighted = (action.get("weighted_clusters") or {}).get("clusters")
    if weighted is not None:
        out["clusters"] = [{c["name"]: c["weight"]} for c in weighted]
        per_cluster = {c["name"]: {k: v for k, v in c.items() if k not in ("name", "weight")} for c in weighted}
        if any(per_cluster.values()):
            out["cluster_headers"] = per_cluster
    else:
        out["cluster"] = action["cluster"]
    out["timeout"] = action.get("timeout")
    retry = action.get("retry_policy")
    if retry:
        out["retries"] = {k: retry[k] for k in ("num_retries", "per_try_timeout", "retry_on") if k in retry}
    if action.get("request_mirror_policies"):
        out["mirrors"] = [{p["cluster"]: p["runtime_fraction"]} for p in action["request_mirror_policies"]]
    for key in sorted(k for k in route if k.startswith(("request_headers", "response_headers", "typed_per_filter"))):
        out[key] = route[key]
    return out


def compact_clusters(clusters: list[Json]) -> list[Json]:
    keep = ("name", "type", "lb_policy", "outlier_detection", "common_lb_config", "connect_timeout")
    limits = [
        {k: c[k] for k in keep if c.get(k)}
        | {"max_pending": c["circuit_breakers"]["thresholds"][0]["max_pending_requests"]}
        for c in clusters
    ]
    return sorted(limits, key=lambda c: str(c["name"]))
