"""AuthorizationPolicy on gateway pods -> Envoy RBAC filters: DENY rules first, then, if there are any, ALLOW rules.

Rules are on request headers only: that is how a gateway tells requests that came through the edge from all others.
"""

from __future__ import annotations

import re
from typing import Any

from lab.mesh.model import ROOT_NAMESPACE, Json, Unsupported, World, has_labels, name_of, namespace_of

_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_HEADER_KEY = re.compile(r"request\.headers\[([^\]]+)\]")


def selected_labels(policy: Json) -> dict[str, str]:
    return (policy["spec"].get("selector") or {}).get("matchLabels") or {}


def policies_for(world: World, namespace: str, labels: dict[str, str]) -> list[Json]:
    """Policies that select these pods, from their own and from the root namespace."""
    near = [p for p in world.all("AuthorizationPolicy") if namespace_of(p) in (namespace, ROOT_NAMESPACE)]
    return [p for p in near if has_labels(labels, selected_labels(p))]


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
                conditions = [
                    _condition(c, f"spec.rules[{i}].when[{j}]") for j, c in enumerate((rule or {}).get("when") or [])
                ]
                principal = {"and_ids": {"ids": conditions or [{"any": True}]}}
                key = f"ns[{namespace_of(policy)}]-policy[{name_of(policy)}]-rule[{i}]"
                rules[key] = {"permissions": [{"any": True}], "principals": [principal]}
        rbac: Json = {"@type": _RBAC, "rules": {"action": action, "policies": rules}}
        out.append({"name": f"envoy.filters.http.rbac.{action.lower()}", "typed_config": rbac})
    return out


def _condition(condition: Json, path: str) -> Json:
    key = str(condition.get("key", ""))
    header = _HEADER_KEY.fullmatch(key)
    if header is None:
        raise Unsupported(f"{path}.key", f"{key!r} is not supported, only request.headers[NAME]")
    ids: list[Json] = []
    for field in ("values", "notValues"):
        if condition.get(field):
            any_of = {"or_ids": {"ids": [_header(header[1], v, f"{path}.{field}") for v in condition[field]]}}
            ids.append(any_of if field == "values" else {"not_id": any_of})
    if not ids:
        raise Unsupported(path, "needs values or notValues")
    return {"and_ids": {"ids": ids}}


def _header(name: str, value: Any, path: str) -> Json:
    """`*` means present; `prefix*` and `*suffix` are not served."""
    text = str(value)
    if text == "*":
        return {"header": {"name": name, "present_match": True}}
    if text.startswith("*") or text.endswith("*"):
        raise Unsupported(path, f"{text!r}: only exact values and * are supported")
    return {"header": {"name": name, "string_match": {"exact": text}}}
