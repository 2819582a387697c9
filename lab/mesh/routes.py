"""VirtualService -> Envoy routes, in the order and with the names that istiod 1.30 gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from lab.mesh.model import MESH, Json, Unsupported, namespace_of, resolve_host
from lab.mesh.values import (
    duration,
    fraction,
    header_match,
    header_operations,
    is_present,
    milliseconds,
    regex,
    string_match,
)

FAULT = "envoy.filters.http.fault"
CORS = "envoy.filters.http.cors"
_TYPE = "type.googleapis.com/envoy.extensions"
_PREVIOUS_HOSTS = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {"@type": f"{_TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
}
_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_REDIRECT_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_RETRY_CONDITIONS = """
5xx gateway-error reset reset-before-request connect-failure envoy-ratelimited retriable-4xx refused-stream
retriable-status-codes retriable-headers http3-post-connect-failure cancelled deadline-exceeded internal
resource-exhausted unavailable
"""


@dataclass(frozen=True)
class Door:
    """Where a route list is used: which gateway names it answers to and how it names its clusters."""

    gateways: frozenset[str]
    port: int
    cluster: Callable[[Json, str], str]  # (destination, namespace of the VirtualService) -> cluster name
    tls: bool = False
    drops_source_labels: bool = False


def virtual_service_routes(virtual_service: Json, door: Door) -> list[Json]:
    """Routes of one VirtualService, cut after the first that matches everything."""
    out: list[Json] = []
    for i, http in enumerate(virtual_service["spec"].get("http") or []):
        path = f"spec.http[{i}]"
        for j, match in enumerate(http.get("match") or [None]):
            if match is not None and door.drops_source_labels and match.get("sourceLabels"):
                continue
            # A match entry may narrow the gateways; sourceLabels never fit a gateway's own pods in this project.
            if match is not None and not _applies(match, door):
                continue
            route = _route(virtual_service, http, match, door, path, f"{path}.match[{j}]")
            out.append(route)
            if is_catch_all(route):
                return out
    return out


def _applies(match: Json, door: Door) -> bool:
    if match.get("port") and int(match["port"]) != door.port:
        return False
    if match.get("gateways"):
        return any(g in door.gateways for g in match["gateways"])
    return not match.get("sourceLabels") and not match.get("sourceNamespace")


def is_catch_all(route: Json) -> bool:
    match = route["match"]
    everything = match.get("prefix") == "/" or match.get("safe_regex", {}).get("regex") == ".*"
    return everything and not match.get("headers") and not match.get("query_parameters")


def catch_all_last(routes: list[Json]) -> list[Json]:
    """istiod's order for a gateway host that several VirtualServices share: only catch-all routes move, to the end."""
    return sorted(routes, key=is_catch_all)


def _route(vs: Json, http: Json, match: Json | None, door: Door, path: str, match_path: str) -> Json:
    name = str(http.get("name") or "")
    if match is not None and match.get("name"):
        name = f"{name}.{match['name']}"
    out: Json = {"match": _match(match, match_path)}
    if name:
        out["name"] = name
    operations = header_operations(http.get("headers"))
    authority = operations.pop("authority", "")
    out.update(operations)
    kinds = [k for k in ("route", "redirect", "directResponse") if http.get(k)]
    if len(kinds) != 1:
        raise Unsupported(path, f"needs exactly one of route, redirect, directResponse, got {kinds or 'none'}")
    if kinds[0] == "redirect":
        out["redirect"] = _redirect(http["redirect"], door, f"{path}.redirect")
    elif kinds[0] == "directResponse":
        out["direct_response"] = _direct_response(http["directResponse"], f"{path}.directResponse")
    else:
        _forward(out, vs, http, door, authority, path)
    filters: Json = {}
    if http.get("fault"):
        filters[FAULT] = _fault(http["fault"], f"{path}.fault")
    if http.get("corsPolicy"):
        filters[CORS] = _cors(http["corsPolicy"], f"{path}.corsPolicy")
    if filters:
        out["typed_per_filter_config"] = filters
    return out


def _match(match: Json | None, path: str) -> Json:
    if match is None:
        return {"prefix": "/"}
    headers = [header_match(n, m, f"{path}.headers.{n}") for n, m in (match.get("headers") or {}).items()]
    for name, wanted in (match.get("withoutHeaders") or {}).items():
        matcher = header_match(name, wanted, f"{path}.withoutHeaders.{name}") | {"invert_match": True}
        if not is_present(wanted):
            matcher["treat_missing_header_as_empty"] = True
        headers.append(matcher)
    headers.sort(key=lambda h: str(h["name"]))
    for field, pseudo in (("method", ":method"), ("authority", ":authority"), ("scheme", ":scheme")):
        if match.get(field) is not None:
            headers.append(header_match(pseudo, match[field], f"{path}.{field}"))
    out: Json = {"case_sensitive": not match.get("ignoreUriCase", False)}
    if headers:
        out["headers"] = headers
    uri = match.get("uri")
    if not uri:
        out["prefix"] = "/"
    else:
        matcher = string_match(uri, f"{path}.uri")
        out.update({"path": matcher["exact"]} if "exact" in matcher else matcher)
    params = match.get("queryParams") or {}
    if params:
        out["query_parameters"] = [
            {"name": n, "present_match": True}
            if is_present(m)
            else {"name": n, "string_match": string_match(m, f"{path}.queryParams.{n}")}
            for n, m in sorted(params.items())
        ]
    return out


def _forward(out: Json, vs: Json, http: Json, door: Door, authority: str, path: str) -> None:
    namespace = namespace_of(vs)
    timeout = milliseconds(http["timeout"], f"{path}.timeout") if http.get("timeout") is not None else "0s"
    action: Json = {"timeout": timeout, "max_grpc_timeout": timeout}
    rewrite = http.get("rewrite") or {}
    if rewrite.get("uriRegexRewrite"):
        pattern = rewrite["uriRegexRewrite"]
        action["regex_rewrite"] = {
            "pattern": {"regex": regex(str(pattern.get("match", "")), f"{path}.rewrite.uriRegexRewrite.match")},
            "substitution": str(pattern.get("rewrite", "")),
        }
    elif rewrite.get("uri"):
        action["prefix_rewrite"] = str(rewrite["uri"])
    authority = str(rewrite.get("authority") or authority)
    mirrors = _mirrors(http, path)
    policies = [
        {
            "cluster": door.cluster(destination, namespace),
            "disable_shadow_host_suffix_append": True,
            "runtime_fraction": {"default_value": share},
            "trace_sampled": False,
        }
        for destination, share in mirrors
        if share["numerator"]
    ]
    if policies:
        action["request_mirror_policies"] = policies
    destinations = http["route"]
    weights = [d.get("weight", 0) for d in destinations]
    if any(isinstance(w, bool) or not isinstance(w, int) or w < 0 for w in weights):
        raise Unsupported(f"{path}.route", f"weights must be integers of 0 or more, got {weights}")
    if len(destinations) == 1:
        only = destinations[0]
        action["cluster"] = door.cluster(only["destination"], namespace)
        operations = header_operations(only.get("headers"))
        authority = authority or operations.pop("authority", "")
        operations.pop("authority", None)
        for field, items in operations.items():
            out[field] = out.get(field, []) + items
    else:
        if sum(weights) == 0:
            raise Unsupported(f"{path}.route", "total destination weight = 0")
        clusters = [_weighted(d, door, namespace) for d in destinations if d.get("weight", 0) > 0]
        action["weighted_clusters"] = {"clusters": clusters}
    if authority:
        action["host_rewrite_literal"] = authority
    retry = _retry(http.get("retries"), f"{path}.retries")
    if retry:
        action["retry_policy"] = retry
    out["route"] = action


def _weighted(destination: Json, door: Door, namespace: str) -> Json:
    operations = header_operations(destination.get("headers"))
    authority = operations.pop("authority", "")
    out: Json = {"name": door.cluster(destination["destination"], namespace), "weight": destination["weight"]}
    if authority:
        out["host_rewrite_literal"] = authority
    return out | operations


def _mirrors(http: Json, path: str) -> list[tuple[Json, Json]]:
    if http.get("mirror") and http.get("mirrors"):
        raise Unsupported(f"{path}.mirrors", "mirror and mirrors exclude each other")
    out: list[tuple[Json, Json]] = []
    if http.get("mirror"):
        percentage = http.get("mirrorPercentage")
        if percentage is None and http.get("mirrorPercent") is not None:
            percentage = {"value": http["mirrorPercent"]}
        out.append((http["mirror"], fraction(percentage, f"{path}.mirrorPercentage")))
    for i, mirror in enumerate(http.get("mirrors") or []):
        out.append((mirror["destination"], fraction(mirror.get("percentage"), f"{path}.mirrors[{i}].percentage")))
    return out


def _retry(retries: Json | None, path: str) -> Json | None:
    if retries is None:
        retries = {"attempts": 2}
    attempts = int(retries.get("attempts", 0))
    if attempts <= 0:
        if set(retries) - {"attempts"}:
            raise Unsupported(path, "attempts is 0 but other fields are set")
        return None
    out: Json = {"host_selection_retry_max_attempts": "5", "num_retries": attempts, "retry_on": _RETRY_ON}
    if retries.get("retryIgnorePreviousHosts", True):
        out["retry_host_predicate"] = [_PREVIOUS_HOSTS]
    if retries.get("perTryTimeout"):
        out["per_try_timeout"] = milliseconds(retries["perTryTimeout"], f"{path}.perTryTimeout")
    if retries.get("backoff"):
        out["retry_back_off"] = {"base_interval": milliseconds(retries["backoff"], f"{path}.backoff")}
    if retries.get("retryOn"):
        tokens = [t.strip() for t in str(retries["retryOn"]).split(",") if t.strip()]
        codes = [int(t) for t in tokens if t.isdigit() and int(t) in HTTPStatus._value2member_map_]
        words = [t for t in tokens if not (t.isdigit() and int(t) in codes)]
        unknown = [t for t in words if t not in _RETRY_CONDITIONS.split()]
        if unknown:
            raise Unsupported(f"{path}.retryOn", f"unknown condition {unknown[0]!r}")
        if codes and "retriable-status-codes" not in words:
            words.append("retriable-status-codes")
        out["retry_on"] = ",".join(words)
        if codes:
            out["retriable_status_codes"] = codes
    return out


def _fault(fault: Json, path: str) -> Json:
    out: Json = {"@type": f"{_TYPE}.filters.http.fault.v3.HTTPFault"}
    abort, delay = fault.get("abort"), fault.get("delay")
    if abort:
        if not abort.get("httpStatus"):
            raise Unsupported(f"{path}.abort", "needs httpStatus")
        share = fraction(abort.get("percentage") or {"value": 0}, f"{path}.abort.percentage")
        out["abort"] = {"http_status": int(abort["httpStatus"]), "percentage": share}
    if delay:
        share = fraction(delay.get("percentage") or {"value": 0}, f"{path}.delay.percentage")
        out["delay"] = {"fixed_delay": duration(delay.get("fixedDelay", ""), f"{path}.delay.fixedDelay")}
        out["delay"]["percentage"] = share
    return out


def _cors(cors: Json, path: str) -> Json:
    out: Json = {
        "@type": f"{_TYPE}.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [
            string_match(m, f"{path}.allowOrigins[{i}]") for i, m in enumerate(cors.get("allowOrigins") or [])
        ],
        "filter_enabled": {"default_value": {"numerator": 100}},
        "forward_not_matching_preflights": cors.get("unmatchedPreflights") != "IGNORE",
    }
    for field, target in (
        ("allowMethods", "allow_methods"),
        ("allowHeaders", "allow_headers"),
        ("exposeHeaders", "expose_headers"),
    ):
        if cors.get(field):
            out[target] = ",".join(cors[field])
    if cors.get("maxAge"):
        out["max_age"] = duration(cors["maxAge"], f"{path}.maxAge")[:-1].split(".")[0]
    if cors.get("allowCredentials") is not None:
        out["allow_credentials"] = bool(cors["allowCredentials"])
    return out


def _redirect(redirect: Json, door: Door, path: str) -> Json:
    out: Json = {}
    code = int(redirect.get("redirectCode") or 301)
    if code not in _REDIRECT_CODES:
        raise Unsupported(f"{path}.redirectCode", f"{code} is not one of {sorted(_REDIRECT_CODES)}")
    if code != 301:
        out["response_code"] = _REDIRECT_CODES[code]
    for field, target in (("authority", "host_redirect"), ("scheme", "scheme_redirect")):
        if redirect.get(field):
            out[target] = str(redirect[field])
    out["path_redirect"] = str(redirect.get("uri") or "")
    port = redirect.get("port") or (door.port if redirect.get("derivePort") == "FROM_REQUEST_PORT" else None)
    scheme = redirect.get("scheme") or ("https" if door.tls else "http")
    if port and (port, scheme) not in ((80, "http"), (443, "https")):
        out["port_redirect"] = int(port)
    return out


def _direct_response(response: Json, path: str) -> Json:
    status = int(response.get("status", 0))
    if not 200 <= status <= 599:
        raise Unsupported(f"{path}.status", f"{status} is outside 200-599")
    out: Json = {"status": status}
    body: Any = response.get("body") or {}
    if body:
        out["body"] = {"inline_string": str(body["string"])} if "string" in body else {"inline_bytes": body["bytes"]}
    return out


def applies_to(virtual_service: Json, gateway: str) -> bool:
    """Whether a VirtualService names this gateway (`namespace/name` or `mesh`); none named means the mesh."""
    namespace = namespace_of(virtual_service)
    named = virtual_service["spec"].get("gateways") or [MESH]
    return gateway in {g if g == MESH or "/" in g else f"{namespace}/{g}" for g in named}


def hosts_of(virtual_service: Json) -> list[str]:
    namespace = namespace_of(virtual_service)
    return [resolve_host(str(h), namespace).lower() for h in virtual_service["spec"].get("hosts") or []]
