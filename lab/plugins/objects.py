"""Kubernetes objects as pulumi-kubernetes keeps them: names, recorded state, who owns which field."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from lab.plugins.protos import JSON, has_unknown, mark_secrets, reveal

AUTONAMED = "pulumi.com/autonamed"
CREATE_MANAGER = "pulumi-kubernetes"
_READ_ONLY = (
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
)
# Prefix of the manager, operation: what pulumi-kubernetes takes over before its first server-side apply. Prefixes,
# so hand edits by `kubectl edit` and `kubectl patch` (kubectl-edit, kubectl-patch) are taken over as well.
_TAKEN_OVER = (
    ("kubectl", "Apply"),
    ("kubectl", "Update"),
    ("before-first-apply", "Update"),
    ("pulumi-kubernetes", "Update"),
)


def meta(obj: Mapping[str, Any]) -> JSON:
    value = obj.get("metadata")
    return value if isinstance(value, dict) else {}


def annotation(obj: Mapping[str, Any], key: str) -> str:
    """An annotation as text, empty when missing or not known yet."""
    annotations = meta(obj).get("annotations")
    value = reveal(annotations.get(key)) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else ""


def flag(obj: Mapping[str, Any], name: str) -> bool:
    return annotation(obj, f"pulumi.com/{name}") == "true"


def identifier(obj: Mapping[str, Any]) -> str:
    """The resource id: `namespace/name`, or `name` alone where there is no namespace."""
    namespace, name = meta(obj).get("namespace"), meta(obj).get("name")
    return f"{namespace}/{name}" if namespace else str(name)


def kind_of(urn: str) -> tuple[str, str]:
    """apiVersion and kind that a URN's type token names (`kubernetes:apps/v1:Deployment`)."""
    _package, version, kind = urn.split("::")[2].rsplit("$", 1)[-1].split(":")
    return version.removeprefix("core/"), kind


def mark_autonamed(inputs: JSON, name: str) -> None:
    """Name what the program left unnamed; marked, so that a replacement may exist beside the old one."""
    metadata = inputs.setdefault("metadata", {})
    metadata["name"] = name
    metadata["annotations"] = {**(metadata.get("annotations") or {}), AUTONAMED: "true"}


def new_name(urn: str, seed: bytes) -> str:
    return f"{urn.rsplit('::', 1)[-1]}-{hashlib.sha256(seed).hexdigest()[:8] if seed else secrets.token_hex(4)}"


def normalize(inputs: JSON) -> JSON:
    """The form in which the API server will give the object back, without read-only metadata, nulls, marks."""
    result: JSON = _without_nulls(reveal(inputs))
    for key in _READ_ONLY:
        meta(result).pop(key, None)
    if result.get("kind") == "Secret" and result.get("apiVersion") == "v1" and not has_unknown(result):
        data = {key: _canonical(value) for key, value in (result.get("data") or {}).items()}
        for key, value in (result.pop("stringData", None) or {}).items():
            data[key] = base64.b64encode(str(value).encode()).decode()
        if data:
            result["data"] = data
    return result


def _canonical(value: Any) -> Any:
    try:
        return base64.b64encode(base64.b64decode(value)).decode()
    except (binascii.Error, TypeError, ValueError):
        return value  # the API server's own message about it is better than ours


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def checkpoint(inputs: JSON, live: JSON, like: JSON, initial_version: str, manager: str) -> JSON:
    """What goes into the state file: the live object, the inputs it was made from, and who manages it."""
    state = mark_secrets(copy.deepcopy(live), like)
    state["__inputs"] = mark_secrets(reveal(inputs), like)
    state["__initialApiVersion"] = initial_version
    state["__fieldManager"] = manager
    return state


def split_checkpoint(state: JSON) -> tuple[JSON, JSON]:
    """Inputs and live object of a recorded state, without secret marks."""
    live = reveal(state)
    return live.pop("__inputs", {}), live


def prune(live: Any, shape: Any) -> Any:
    """The live value reduced to what the inputs speak about: defaults and others' fields fall away."""
    if isinstance(live, dict) and isinstance(shape, dict):
        return {key: prune(value, shape[key]) for key, value in live.items() if key in shape}
    if isinstance(live, list) and isinstance(shape, list):
        return [prune(item, wanted) for item, wanted in zip(live, shape, strict=False)]
    return live


def manager_name(state: JSON) -> str:
    """The field manager of this resource: recorded, or new and random."""
    return str(reveal(state.get("__fieldManager")) or f"pulumi-kubernetes-{secrets.token_hex(4)}")


def must_force(inputs: JSON, live: JSON | None, always: bool, preview: bool) -> bool:
    """Whether to overwrite other managers' fields."""
    if flag(inputs, "patchForce") or always:
        return True
    if live is None:
        return preview
    managed = meta(live).get("managedFields") or []
    created = any(m["operation"] == "Update" and m["manager"] == CREATE_MANAGER for m in managed)
    # A preview cannot rename the creating manager first, as the update will: it would conflict with ourselves.
    return not managed or (preview and created)


def take_over(live: JSON, manager: str) -> list[JSON] | None:
    """managedFields in which `manager` holds what our own create and kubectl wrote; None if it does already."""
    kept: list[JSON] = []
    mine: JSON = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": live["apiVersion"],
        "fieldsType": "FieldsV1",
    }
    fields: JSON = {}
    taken = False
    for entry in meta(live).get("managedFields") or []:
        ours = entry["manager"] == manager and entry["operation"] == "Apply"
        matches = (entry["manager"].startswith(p) and entry["operation"] == op for p, op in _TAKEN_OVER)
        if ours or (not entry.get("subresource") and any(matches)):
            taken = taken or not ours
            fields = _union(fields, entry.get("fieldsV1") or {})
        else:
            kept.append(entry)
    return [*kept, {**mine, "fieldsV1": fields}] if taken else None


def _union(a: JSON, b: JSON) -> JSON:
    return {key: _union(a.get(key, {}), b.get(key, {})) for key in {**a, **b}}


def yield_ignored(inputs: JSON, live: JSON, manager: str, paths: list[str]) -> None:
    """`ignoreChanges` under server-side apply: a field that only others own is left to them.

    As in pulumi-kubernetes, only outside lists; the engine put the recorded value into the inputs already.
    """
    for keys in (path.split(".") for path in paths if "[" not in path):
        owners = {m["manager"] for m in meta(live).get("managedFields") or [] if _owns(m.get("fieldsV1") or {}, keys)}
        holder: Any = inputs
        for key in keys[:-1]:
            holder = holder.get(key, {}) if isinstance(holder, dict) else {}
        if owners and manager not in owners and isinstance(holder, dict):
            holder.pop(keys[-1], None)


def _owns(fields: JSON, keys: list[str]) -> bool:
    for key in keys:
        if f"f:{key}" not in fields:
            return False
        fields = fields[f"f:{key}"]
    return True
