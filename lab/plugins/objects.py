"""Kubernetes objects as pulumi-kubernetes keeps them: names, recorded state, who owns which field."""

from __future__ import annotations

import base64
import binascii
import copy
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from lab.plugins.protos import JSON, UNKNOWN, Secret, mark_secrets, reveal

CREATE_MANAGER = "pulumi-kubernetes"
_READ_ONLY = ("creationTimestamp", "deletionTimestamp", "generation", "managedFields", "resourceVersion", "uid")
# Prefix of the manager, operation: what pulumi-kubernetes takes over before its first server-side apply. Prefixes,
# so hand edits by `kubectl edit` and `kubectl patch` (kubectl-edit, kubectl-patch) are taken over as well.
_TAKEN_OVER = (
    ("kubectl", "Apply"),
    ("kubectl", "Update"),
    ("before-first-apply", "Update"),
    ("pulumi-kubernetes", "Update"),
)
# Kinds that need care of their own (another readiness, a server that defaults much).
_UNSUPPORTED = {
    "CustomResourceDefinition", "CronJob", "Ingress", "Job", "PersistentVolume", "PersistentVolumeClaim", "Pod",
    "ReplicaSet", "ReplicationController", "StatefulSet",
}  # fmt: skip
_ANNOTATIONS = {"skipAwait", "waitFor", "patchForce", "timeoutSeconds"}


def refuse_unsupported(obj: Mapping[str, Any]) -> None:
    """An error for every type and annotation that asks for more than this stand-in does."""
    name, version = str(obj["kind"]), str(obj["apiVersion"])
    if name.endswith(("List", "Patch")) or name in _UNSUPPORTED:
        raise ValueError(f"the kubernetes stand-in does not support the type {version}:{name}: use the real provider")
    annotations = meta(obj).get("annotations")
    for key in annotations if isinstance(annotations, dict) else ():  # they may not be known yet
        if key.startswith("pulumi.com/") and key.removeprefix("pulumi.com/") not in _ANNOTATIONS:
            raise ValueError(f"the kubernetes stand-in does not support the annotation {key}: use the real provider")


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


def normalize(inputs: JSON) -> JSON:
    """The form in which the API server will give the object back, without read-only metadata, nulls, marks."""
    result: JSON = _without_nulls(reveal(inputs))
    for key in _READ_ONLY:
        meta(result).pop(key, None)
    if is_secret(result):
        data = {key: _canonical(value) for key, value in (result.get("data") or {}).items()}
        for key, value in (result.pop("stringData", None) or {}).items():
            data[key] = value if value is UNKNOWN else base64.b64encode(str(value).encode()).decode()
        if data:
            result["data"] = data
    return result


def is_secret(obj: Mapping[str, Any]) -> bool:
    return obj.get("kind") == "Secret" and obj.get("apiVersion") == "v1"


def _canonical(value: Any) -> Any:
    """Base64 as the API server writes it; what is none it refuses, with a better message than ours."""
    try:
        return base64.b64encode(base64.b64decode(value)).decode()
    except (binascii.Error, TypeError, ValueError):
        return value


def mark(out: JSON, like: Mapping[str, Any]) -> JSON:
    """`out` with secret what is so in `like`, and the values of a Secret in any case."""
    if not is_secret(out):
        return mark_secrets(out, like)
    return {key: Secret(reveal(value)) if key in ("data", "stringData") else value for key, value in out.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def checkpoint(inputs: JSON, live: JSON, like: JSON, manager: str) -> JSON:
    """What goes into the state file: the live object, the inputs it was made from, and who manages it."""
    state = mark(copy.deepcopy(live), like)
    state["__inputs"] = mark(reveal(inputs), like)
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


def importable(live: JSON, identity: JSON) -> JSON:
    """Inputs of an imported object; pulumi-kubernetes takes the identity only of kinds outside its schema."""
    group = str(live["apiVersion"]).rpartition("/")[0]
    if ("." in group and not group.endswith(".k8s.io")) or group == "gateway.networking.k8s.io":
        return prune(live, identity)  # type: ignore[no-any-return]
    inputs = normalize({key: value for key, value in live.items() if key != "status"})
    notes = meta(inputs).get("annotations") or {}
    for key in ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration"):
        notes.pop(key, None)
    return inputs


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
    mine = {"manager": manager, "operation": "Apply", "apiVersion": live["apiVersion"], "fieldsType": "FieldsV1"}
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


def yield_ignored(inputs: JSON, live: JSON, manager: str, paths: Iterable[str]) -> None:
    """`ignoreChanges` under server-side apply, into `inputs`: a field that only others own is left out of the patch, so
    that it stays theirs; one of ours keeps the value that is live, whatever the program or the record says.
    """
    for keys in (path.split(".") for path in paths):
        owners = {m["manager"] for m in meta(live).get("managedFields") or [] if _owns(m.get("fieldsV1") or {}, keys)}
        holder, here = _holder(inputs, keys), _holder(live, keys)
        if holder is None:
            continue
        if owners and manager not in owners:
            holder.pop(keys[-1], None)
        elif here is not None and keys[-1] in here:
            holder[keys[-1]] = here[keys[-1]]


def _holder(obj: Any, keys: list[str]) -> JSON | None:
    for key in keys[:-1]:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj if isinstance(obj, dict) else None


def _owns(fields: JSON, keys: list[str]) -> bool:
    for key in keys:
        if f"f:{key}" not in fields:
            return False
        fields = fields[f"f:{key}"]
    return True
