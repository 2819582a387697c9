"""Which fields of Istio's resources the routing stand-in serves; all others are named as problems, never ignored."""

from __future__ import annotations

from typing import Any

from lab.mesh import authz
from lab.mesh.model import Json, Problem, kind, title

ANY = "any value"


class Map(dict[str, Any]):
    """A mapping with free keys (header names, query parameters) whose values all have the schema under ''."""


def _with_opposites(names: tuple[str, ...]) -> Json:
    return dict.fromkeys([*names, *(f"not{n[0].upper()}{n[1:]}" for n in names)], ANY)


_MATCH = {"exact": ANY, "prefix": ANY, "regex": ANY}
_MATCHES = Map({"": _MATCH})
_PERCENT = {"value": ANY}
_OPS = {"set": ANY, "add": ANY, "remove": ANY}
_HEADERS = {"request": _OPS, "response": _OPS}
_DESTINATION = {"host": ANY, "subset": ANY, "port": {"number": ANY}}
_HTTP = {
    "name": ANY,
    "match": [
        {"uri": _MATCH, "method": _MATCH, "headers": _MATCHES, "withoutHeaders": _MATCHES, "queryParams": _MATCHES}
    ],
    "route": [{"destination": _DESTINATION, "weight": ANY, "headers": _HEADERS}],
    "headers": _HEADERS,
    "timeout": ANY,
    "retries": {"attempts": ANY, "perTryTimeout": ANY, "retryOn": ANY},
    "mirrors": [{"destination": _DESTINATION, "percentage": _PERCENT}],
    "fault": {"abort": {"httpStatus": ANY, "percentage": _PERCENT}},
}
_POLICY = {
    "loadBalancer": {"simple": ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]},
    "connectionPool": {"http": {"http1MaxPendingRequests": ANY, "maxRequestsPerConnection": ANY}},
    "outlierDetection": {"consecutive5xxErrors": ANY, "interval": ANY, "baseEjectionTime": ANY}
    | {"maxEjectionPercent": ANY},
}
_SERVER = {
    "name": ANY,
    "hosts": ANY,
    "port": {"number": ANY, "name": ANY, "protocol": ["HTTP", "HTTPS"]},
    "tls": {
        "mode": ["SIMPLE"],
        "credentialName": ANY,
        "httpsRedirect": ANY,
        "minProtocolVersion": ["TLSV1_2", "TLSV1_3"],
    },
}

SUPPORTED: dict[str, Json] = {
    "VirtualService": {"hosts": ANY, "gateways": ANY, "http": [_HTTP]},
    "DestinationRule": {"host": ANY, "trafficPolicy": _POLICY, "subsets": [{"name": ANY, "labels": ANY}]},
    "Gateway": {"selector": ANY, "servers": [_SERVER]},
    "AuthorizationPolicy": {
        "selector": {"matchLabels": ANY},
        "targetRefs": ANY,
        "action": ["ALLOW", "DENY"],
        "rules": [
            {
                "from": [{"source": _with_opposites(authz.SOURCES)}],
                "to": [{"operation": _with_opposites(authz.OPERATIONS)}],
                "when": [{"key": ANY, "values": ANY, "notValues": ANY}],
            }
        ],
    },
}


def unsupported(obj: Json) -> list[Problem]:
    """Problems of one resource's spec; resources of other kinds have none."""
    found: list[Problem] = []
    _walk(obj.get("spec") or {}, SUPPORTED.get(kind(obj), ANY), "spec", title(obj), found)
    return found


def _walk(value: Any, schema: Any, path: str, resource: str, found: list[Problem]) -> None:
    if schema is ANY or value is None:
        return
    if isinstance(schema, list) and isinstance(schema[0], str):
        if value not in schema:
            found.append(Problem(resource, path, f"{value!r} is not supported, only {', '.join(schema)}"))
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            _walk(item, schema[0], f"{path}[{i}]", resource, found)
    else:
        for key, item in value.items():
            if isinstance(schema, Map) or key in schema:
                _walk(item, schema["" if isinstance(schema, Map) else key], f"{path}.{key}", resource, found)
            else:
                found.append(Problem(resource, f"{path}.{key}", "is not supported by the routing stand-in"))
