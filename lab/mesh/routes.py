"""VirtualService -> Envoy routes, in the order and with the names that istiod 1.30 gives them."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from lab.mesh.model import MESH, Json, Unsupported, namespace_of, resolve_host
from lab.mesh.values import duration, fraction, header_operations, is_present, named_match, string_match

# (destination, namespace of the VirtualService) -> name of the cluster, which differs by proxy.
ClusterName = Callable[[Json, str], str]

_TYPE = "type.googleapis.com/envoy.extensions"
_PREVIOUS_HOSTS = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {"@type": f"{_TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
}
_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_RETRY_CONDITIONS = """
5xx gateway-error reset reset-before-request connect-failure envoy-ratelimited retriable-4xx refused-stream
retriable-status-codes retriable-headers http3-post-connect-failure cancelled deadline-exceeded internal
resource-exhausted unavailable
"""


def virtual_service_routes(virtual_service: Json, cluster: ClusterName) -> list[Json]:
    """Routes of one VirtualService, cut after the first that matches everything."""
    out: list[Json] = []
    namespace = namespace_of(virtual_service)
    for i, http in enumerate(virtual_service["spec"].get("http") or []):
        path = f"spec.http[{i}]"
        for j, match in enumerate(http.get("match") or [None]):
            route = {"match": _match(match, f"{path}.match[{j}]")}
            out.append(route | _forward(http, lambda d: cluster(d, namespace), path))
            if is_catch_all(route):
                return out
    return out


def is_catch_all(route: Json) -> bool:
    match = route["match"]
    everything = match.get("prefix") == "/" or match.get("safe_regex", {}).get("regex") == ".*"
    return everything and not match.get("headers") and not match.get("query_parameters")


def catch_all_last(routes: list[Json]) -> list[Json]:
    """istiod's order for a gateway host that several VirtualServices share: only catch-all routes move, to the end."""
    return sorted(routes, key=is_catch_all)


def _match(match: Json | None, path: str) -> Json:
    if match is None:
        return {"prefix": "/"}
    headers = [named_match(n, m, f"{path}.headers.{n}") for n, m in (match.get("headers") or {}).items()]
    for name, wanted in (match.get("withoutHeaders") or {}).items():
        matcher = named_match(name, wanted, f"{path}.withoutHeaders.{name}") | {"invert_match": True}
        if not is_present(wanted):
            matcher["treat_missing_header_as_empty"] = True
        headers.append(matcher)
    headers.sort(key=lambda h: str(h["name"]))
    if match.get("method"):
        headers.append(named_match(":method", match["method"], f"{path}.method"))
    out: Json = {"case_sensitive": True}
    if headers:
        out["headers"] = headers
    uri = string_match(match["uri"], f"{path}.uri") if match.get("uri") else {"prefix": "/"}
    out |= {"path": uri["exact"]} if "exact" in uri else uri
    params = sorted((match.get("queryParams") or {}).items())
    if params:
        out["query_parameters"] = [named_match(n, m, f"{path}.queryParams.{n}") for n, m in params]
    return out


def _forward(http: Json, cluster: Callable[[Json], str], path: str) -> Json:
    """What is done with a request that matched."""
    out: Json = header_operations(http.get("headers"), f"{path}.headers")
    if http.get("name"):
        out["name"] = str(http["name"])
    timeout = duration(http["timeout"], f"{path}.timeout") if http.get("timeout") is not None else "0s"
    action: Json = {"timeout": timeout, "max_grpc_timeout": timeout}
    mirrors = [_mirror(m, cluster, f"{path}.mirrors[{i}]") for i, m in enumerate(http.get("mirrors") or [])]
    if mirrors:
        action["request_mirror_policies"] = mirrors
    destinations = http.get("route") or []
    weights = [d.get("weight", 0) for d in destinations]
    if any(isinstance(w, bool) or not isinstance(w, int) or w < 0 for w in weights):
        raise Unsupported(f"{path}.route", f"weights must be integers of 0 or more, got {weights}")
    operations = [header_operations(d.get("headers"), f"{path}.route[{i}].headers") for i, d in enumerate(destinations)]
    if len(destinations) == 1:
        action["cluster"] = cluster(destinations[0]["destination"])
        for field, items in operations[0].items():
            out[field] = out.get(field, []) + items
    elif sum(weights) == 0:
        raise Unsupported(f"{path}.route", "total destination weight = 0")
    else:
        legs = zip(destinations, weights, operations, strict=True)
        clusters = [{"name": cluster(d["destination"]), "weight": w} | ops for d, w, ops in legs if w]
        action["weighted_clusters"] = {"clusters": clusters}
    retry = _retry(http.get("retries"), f"{path}.retries")
    if retry:
        action["retry_policy"] = retry
    if http.get("fault"):
        out["typed_per_filter_config"] = {"envoy.filters.http.fault": _fault(http["fault"], f"{path}.fault")}
    return out | {"route": action}


def _mirror(mirror: Json, cluster: Callable[[Json], str], path: str) -> Json:
    return {
        "cluster": cluster(mirror["destination"]),
        "disable_shadow_host_suffix_append": True,
        "runtime_fraction": {"default_value": fraction(mirror.get("percentage"), f"{path}.percentage")},
        "trace_sampled": False,
    }


def _retry(retries: Json | None, path: str) -> Json | None:
    if retries is None:
        retries = {"attempts": 2}
    attempts = int(retries.get("attempts", 0))
    if attempts <= 0:
        if set(retries) - {"attempts"}:
            raise Unsupported(path, "attempts is 0 but other fields are set")
        return None
    out: Json = {"host_selection_retry_max_attempts": "5", "num_retries": attempts, "retry_on": _RETRY_ON}
    out["retry_host_predicate"] = [_PREVIOUS_HOSTS]
    if retries.get("perTryTimeout"):
        out["per_try_timeout"] = duration(retries["perTryTimeout"], f"{path}.perTryTimeout")
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
    abort = fault.get("abort") or {}
    if not abort.get("httpStatus"):
        raise Unsupported(f"{path}.abort", "needs httpStatus")
    share = fraction(abort.get("percentage") or {"value": 0}, f"{path}.abort.percentage")
    return {
        "@type": f"{_TYPE}.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": int(abort["httpStatus"]), "percentage": share},
    }


def applies_to(virtual_service: Json, gateway: str) -> bool:
    """Whether a VirtualService names this gateway (`namespace/name` or `mesh`); none named means the mesh."""
    namespace = namespace_of(virtual_service)
    named = virtual_service["spec"].get("gateways") or [MESH]
    return gateway in {g if g == MESH or "/" in g else f"{namespace}/{g}" for g in named}


def hosts_of(virtual_service: Json) -> list[str]:
    namespace = namespace_of(virtual_service)
    return [resolve_host(str(h), namespace).lower() for h in virtual_service["spec"].get("hosts") or []]
