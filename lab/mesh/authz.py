"""AuthorizationPolicy on gateway pods -> Envoy RBAC filters: DENY rules first, then, if there are any, ALLOW rules.

Elsewhere ztunnel and waypoints would enforce a policy; pods here are host processes without either, and `not_enforced`
says so. Who calls a gateway has no identity of the mesh: `principals` and `namespaces` match nobody there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from lab.mesh.model import ROOT_NAMESPACE, Json, Unsupported, World, has_labels, labels_of, name_of, namespace_of

_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_HEADER_KEY = re.compile(r"request\.headers\[([^\]]+)\]")
SOURCES = ("principals", "namespaces", "serviceAccounts")
OPERATIONS = ("hosts", "ports", "methods", "paths")


def selects(policy: Json, namespace: str, labels: dict[str, str]) -> bool:
    """Whether a policy is for pods with these labels; one with targetRefs is for waypoints only."""
    spec = policy["spec"]
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    near = namespace_of(policy) in (namespace, ROOT_NAMESPACE)
    return near and not spec.get("targetRefs") and has_labels(labels, wanted)


def not_enforced(world: World, policy: Json, is_gateway_pod: Callable[[Json], bool]) -> str:
    """Where a policy would have to be enforced and is not; empty if gateways enforce all of it."""
    if policy["spec"].get("targetRefs"):
        return "accepted, not enforced here: the lab's waypoints enforce no policies"
    pods = [p for p in world.all("Pod") if selects(policy, namespace_of(p), labels_of(p))]
    others = [p for p in pods if not is_gateway_pod(p)]
    if pods and not others:
        return ""
    where = f"{len(others)} pods that only ztunnel would guard" if others else "no pod"
    return f"accepted, not enforced here: selects {where}; the lab enforces policies at ingress gateways only"


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
    """One of `to`, one of `from`, and all of `when`; within each of them every field, with any of its values."""

    def one_of(items: list[Json], key: str, names: tuple[str, ...], kind: str) -> list[Json]:
        sides = [_all(_fields(item[key], names, f"{path}.{kind}[{i}].{key}"), kind) for i, item in enumerate(items)]
        return [_any(sides, kind)] if sides else []

    when = [_condition(c, f"{path}.when[{j}]") for j, c in enumerate(rule.get("when") or [])]
    permission = one_of(rule.get("to") or [], "operation", OPERATIONS, "to")
    principals = one_of(rule.get("from") or [], "source", SOURCES, "from") + when
    return {"permissions": [_all(permission, "to")], "principals": [_all(principals, "from")]}


def _all(parts: Iterable[Json], kind: str) -> Json:
    field, items = ("and_rules", "rules") if kind == "to" else ("and_ids", "ids")
    return {field: {items: list(parts) or [{"any": True}]}}


def _any(parts: Iterable[Json], kind: str) -> Json:
    field, items = ("or_rules", "rules") if kind == "to" else ("or_ids", "ids")
    return {field: {items: list(parts)}}


def _fields(given: Json, names: tuple[str, ...], path: str) -> list[Json]:
    """`hosts` needs one of its values, `notHosts` none of them."""
    out: list[Json] = []
    kind, negated = ("to", "not_rule") if names == OPERATIONS else ("from", "not_id")
    for name in names:
        for field in (name, f"not{name[0].upper()}{name[1:]}"):
            if given.get(field):
                found = _any([_value(name, v, f"{path}.{field}") for v in given[field]], kind)
                out.append(found if field == name else {negated: found})
    return out


def _value(name: str, value: Any, path: str) -> Json:
    match name:
        case "hosts":
            return _header(":authority", value, ignore_case=True)
        case "methods":
            return _header(":method", value)
        case "ports":
            return {"destination_port": int(value)}
        case "paths":
            if "{" in str(value):
                raise Unsupported(path, f"{value!r}: path templates are not supported by the routing stand-in")
            return {"url_path": {"path": {"prefix": "/"} if value == "*" else _string(str(value))}}
    return {"not_id": {"any": True}}


def _condition(condition: Json, path: str) -> Json:
    key = str(condition.get("key", ""))
    header = _HEADER_KEY.fullmatch(key)
    if header is None:
        raise Unsupported(f"{path}.key", f"{key!r} is not supported, only request.headers[NAME]")
    ids: list[Json] = []
    for field in ("values", "notValues"):
        if condition.get(field):
            any_of = _any([_header(header[1], v) for v in condition[field]], "from")
            ids.append(any_of if field == "values" else {"not_id": any_of})
    if not ids:
        raise Unsupported(path, "needs values or notValues")
    return _all(ids, "from")


def _header(name: str, value: Any, *, ignore_case: bool = False) -> Json:
    """`*` means present, `prefix*` and `*suffix` what they look like."""
    if value == "*":
        return {"header": {"name": name, "present_match": True}}
    match: Json = _string(str(value)) | ({"ignore_case": True} if ignore_case else {})
    return {"header": {"name": name, "string_match": match}}


def _string(text: str) -> Json:
    if text.startswith("*"):
        return {"suffix": text[1:]}
    return {"prefix": text[:-1]} if text.endswith("*") else {"exact": text}
