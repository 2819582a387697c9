"""Which fields of Istio's resources the routing stand-in serves; all others are named as problems, never ignored."""

from __future__ import annotations

from typing import Any

from lab.mesh.model import Json, Problem, kind, title

ANY = "any value"


class Map(dict[str, Any]):
    """A mapping with free keys (header names, labels) whose values all have the schema under ''."""


_MATCH = {"exact": ANY, "prefix": ANY, "regex": ANY}
_MATCHES = Map({"": _MATCH})
_PERCENT = {"value": ANY}
_OPS = {"set": ANY, "add": ANY, "remove": ANY}
_HEADERS = {"request": _OPS, "response": _OPS}
_DESTINATION = {"host": ANY, "subset": ANY, "port": {"number": ANY}}
_HTTP_MATCH = {
    "name": ANY, "uri": _MATCH, "scheme": _MATCH, "method": _MATCH, "authority": _MATCH, "headers": _MATCHES,
    "withoutHeaders": _MATCHES, "queryParams": _MATCHES, "port": ANY, "gateways": ANY, "sourceLabels": ANY,
    "sourceNamespace": ANY, "ignoreUriCase": ANY,
}  # fmt: skip
_HTTP = {
    "name": ANY, "match": [_HTTP_MATCH], "headers": _HEADERS, "timeout": ANY, "mirror": _DESTINATION,
    "mirrorPercentage": _PERCENT, "mirrorPercent": ANY,
    "route": [{"destination": _DESTINATION, "weight": ANY, "headers": _HEADERS}],
    "redirect": {"uri": ANY, "authority": ANY, "scheme": ANY, "port": ANY, "derivePort": ANY, "redirectCode": ANY},
    "directResponse": {"status": ANY, "body": {"string": ANY, "bytes": ANY}},
    "rewrite": {"uri": ANY, "authority": ANY, "uriRegexRewrite": {"match": ANY, "rewrite": ANY}},
    "retries": {"attempts": ANY, "perTryTimeout": ANY, "retryOn": ANY, "retryIgnorePreviousHosts": ANY, "backoff": ANY},
    "mirrors": [{"destination": _DESTINATION, "percentage": _PERCENT}],
    "fault": {
        "abort": {"httpStatus": ANY, "percentage": _PERCENT},
        "delay": {"fixedDelay": ANY, "percentage": _PERCENT},
    },
    "corsPolicy": {
        "allowOrigins": [_MATCH], "allowMethods": ANY, "allowHeaders": ANY, "exposeHeaders": ANY, "maxAge": ANY,
        "allowCredentials": ANY, "unmatchedPreflights": ANY,
    },
}  # fmt: skip
_BLOCKS = {
    "loadBalancer": {"simple": ANY},
    "connectionPool": {
        "tcp": {"maxConnections": ANY, "connectTimeout": ANY},
        "http": {
            "http1MaxPendingRequests": ANY, "http2MaxRequests": ANY, "maxRequestsPerConnection": ANY,
            "maxRetries": ANY, "idleTimeout": ANY,
        },
    },
    "outlierDetection": {
        "consecutive5xxErrors": ANY, "consecutiveGatewayErrors": ANY, "interval": ANY, "baseEjectionTime": ANY,
        "maxEjectionPercent": ANY, "minHealthPercent": ANY,
    },
}  # fmt: skip
_POLICY = {**_BLOCKS, "portLevelSettings": [{"port": {"number": ANY}, **_BLOCKS}]}
_SOURCE = {"ipBlocks": ANY, "notIpBlocks": ANY, "remoteIpBlocks": ANY, "notRemoteIpBlocks": ANY}
_OPERATION = {
    "hosts": ANY, "notHosts": ANY, "ports": ANY, "notPorts": ANY, "methods": ANY, "notMethods": ANY, "paths": ANY,
    "notPaths": ANY,
}  # fmt: skip

SUPPORTED: dict[str, Json] = {
    "VirtualService": {"hosts": ANY, "gateways": ANY, "http": [_HTTP], "exportTo": ["*"]},
    "DestinationRule": {
        "host": ANY, "trafficPolicy": _POLICY, "exportTo": ["*"],
        "subsets": [{"name": ANY, "labels": ANY, "trafficPolicy": _POLICY}],
    },
    "Gateway": {
        "selector": ANY,
        "servers": [
            {
                "name": ANY, "hosts": ANY, "port": {"number": ANY, "name": ANY, "protocol": ["HTTP", "HTTPS"]},
                "tls": {
                    "mode": ["SIMPLE"], "credentialName": ANY, "httpsRedirect": ANY,
                    "minProtocolVersion": ["TLS_AUTO", "TLSV1_2", "TLSV1_3"],
                },
            }
        ],
    },
    "AuthorizationPolicy": {
        "selector": {"matchLabels": ANY}, "action": ["ALLOW", "DENY"],
        "rules": [
            {
                "from": [{"source": _SOURCE}], "to": [{"operation": _OPERATION}],
                "when": [{"key": ANY, "values": ANY, "notValues": ANY}],
            }
        ],
    },
}  # fmt: skip


def unsupported(obj: Json) -> list[Problem]:
    """Problems of one resource's spec; resources of other kinds have none."""
    schema = SUPPORTED.get(kind(obj))
    if schema is None:
        return []
    found: list[Problem] = []
    _walk(obj.get("spec") or {}, schema, "spec", title(obj), found)
    return found


def _walk(value: Any, schema: Any, path: str, resource: str, found: list[Problem]) -> None:
    if schema is ANY or value is None:
        return
    if isinstance(schema, list) and isinstance(schema[0], str):
        bad = [v for v in (value if isinstance(value, list) else [value]) if v not in schema]
        if bad:
            found.append(Problem(resource, path, f"{bad[0]!r} is not supported, only {', '.join(schema)}"))
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            _walk(item, schema[0], f"{path}[{i}]", resource, found)
    elif isinstance(schema, Map):
        for key, item in value.items():
            _walk(item, schema[""], f"{path}.{key}", resource, found)
    else:
        for key, item in value.items():
            if key not in schema:
                found.append(Problem(resource, f"{path}.{key}", "is not supported by the routing stand-in"))
            else:
                _walk(item, schema[key], f"{path}.{key}", resource, found)
