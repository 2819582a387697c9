"""AuthorizationPolicy on gateway pods -> Envoy RBAC filters: all DENY rules first, then, if there are any,
the ALLOW rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from lab.mesh.model import ROOT_NAMESPACE, Json, Unsupported, World, has_labels, name_of, namespace_of

_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_HEADER_KEY = re.compile(r"request\.headers\[([^\]]+)\]")


def policies_for(world: World, namespace: str, labels: dict[str, str]) -> list[Json]:
    """Policies that select these pods, from their own and from the root namespace."""
    return [
        policy
        for policy in world.all("AuthorizationPolicy")
        if namespace_of(policy) in (namespace, ROOT_NAMESPACE)
        and has_labels(labels, (policy["spec"].get("selector") or {}).get("matchLabels") or {})
    ]


def rbac_filters(policies: list[Json]) -> list[Json]:
    out: list[Json] = []
    for action in ("DENY", "ALLOW"):
        chosen = [p for p in policies if p["spec"].get("action", "ALLOW") == action]
        if not chosen:
            continue
        rules: Json = {}
        for policy in chosen:
            # No rule at all never matches: an ALLOW policy without rules therefore denies everything.
            for i, rule in enumerate(policy["spec"].get("rules") or []):
                key = f"ns[{namespace_of(policy)}]-policy[{name_of(policy)}]-rule[{i}]"
                rules[key] = _rule(rule or {}, f"spec.rules[{i}]")
        rbac: Json = {"@type": _RBAC, "rules": {"action": action, "policies": rules}}
        out.append({"name": f"envoy.filters.http.rbac.{action.lower()}", "typed_config": rbac})
    return out


def _rule(rule: Json, path: str) -> Json:
    permissions = [_operation((t or {}).get("operation") or {}, path) for t in rule.get("to") or [{}]]
    sources = [_source((f or {}).get("source") or {}, path) for f in rule.get("from") or [{}]]
    conditions = [_condition(c, f"{path}.when[{i}]") for i, c in enumerate(rule.get("when") or [])]
    principals = [{"and_ids": {"ids": [*source, *conditions] or [{"any": True}]}} for source in sources]
    return {"permissions": permissions, "principals": principals}


def _operation(operation: Json, path: str) -> Json:
    makers: dict[str, Callable[[Any], Json]] = {
        "hosts": lambda v: {"header": {"name": ":authority", "string_match": _pattern(v) | {"ignore_case": True}}},
        "methods": lambda v: {"header": {"name": ":method", "string_match": _pattern(v)}},
        "paths": lambda v: {"url_path": {"path": _pattern(v)}},
        "ports": lambda v: {"destination_port": int(v)},
    }
    rules: list[Json] = []
    for field, make in makers.items():
        if operation.get(field):
            rules.append({"or_rules": {"rules": [make(v) for v in operation[field]]}})
        negative = f"not{field.capitalize()}"
        if operation.get(negative):
            rules.append({"not_rule": {"or_rules": {"rules": [make(v) for v in operation[negative]]}}})
    return {"and_rules": {"rules": rules or [{"any": True}]}}


def _source(source: Json, path: str) -> list[Json]:
    out: list[Json] = []
    # At a gateway ipBlocks is the address of the connection, remoteIpBlocks the client's by X-Forwarded-For.
    for field, target in (("ipBlocks", "direct_remote_ip"), ("remoteIpBlocks", "remote_ip")):
        if source.get(field):
            out.append({"or_ids": {"ids": [{target: _cidr(v, f"{path}.from.{field}")} for v in source[field]]}})
        negative = f"not{field[0].upper()}{field[1:]}"
        if source.get(negative):
            ids = [{target: _cidr(v, f"{path}.from.{negative}")} for v in source[negative]]
            out.append({"not_id": {"or_ids": {"ids": ids}}})
    return out


def _condition(condition: Json, path: str) -> Json:
    key = str(condition.get("key", ""))
    header = _HEADER_KEY.fullmatch(key)
    if header is None:
        raise Unsupported(f"{path}.key", f"{key!r} is not supported, only request.headers[NAME]")
    ids: list[Json] = []
    if condition.get("values"):
        ids.append({"or_ids": {"ids": [_header(header[1], v) for v in condition["values"]]}})
    if condition.get("notValues"):
        ids.append({"not_id": {"or_ids": {"ids": [_header(header[1], v) for v in condition["notValues"]]}}})
    if not ids:
        raise Unsupported(path, "needs values or notValues")
    return {"and_ids": {"ids": ids}}


def _header(name: str, value: Any) -> Json:
    if value == "*":
        return {"header": {"name": name, "present_match": True}}
    return {"header": {"name": name, "string_match": _pattern(value)}}


def _pattern(value: Any) -> Json:
    """Istio's policy patterns: `prefix*`, `*suffix`, `*` (anything but empty) or exact."""
    text = str(value)
    if text == "*":
        return {"safe_regex": {"regex": ".+"}}
    if text.endswith("*"):
        return {"prefix": text[:-1]}
    return {"suffix": text[1:]} if text.startswith("*") else {"exact": text}


def _cidr(value: Any, path: str) -> Json:
    try:
        network = ipaddress.ip_network(str(value), strict=False)
    except ValueError as error:
        raise Unsupported(path, str(error)) from error
    return {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}
