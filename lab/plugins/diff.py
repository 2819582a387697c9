"""What changed between the recorded object and the program, as readable paths, and what forces a new object.

The lists follow pulumi-kubernetes 4.32: fields that the API server refuses to change in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lab.plugins.protos import JSON, UNKNOWN
from lab.quantity import quantity

ADD, UPDATE, DELETE = "add", "update", "delete"
_MISSING = object()

_FORCED: dict[str, tuple[str, ...]] = {
    "apps/v1/Deployment": ("spec.selector",),
    "apps/v1/DaemonSet": ("spec.selector",),
    "v1/Service": ("spec.clusterIP",),
    "v1/ConfigMap": ("data", "binaryData"),
    "v1/Secret": ("type", "stringData", "data"),
    "rbac.authorization.k8s.io/v1/RoleBinding": ("roleRef",),
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding": ("roleRef",),
}


def force_new(obj: Mapping[str, Any]) -> list[str]:
    """Paths whose change makes a new object."""
    kind = f"{obj.get('apiVersion')}/{obj.get('kind')}"
    return ["metadata.name", "metadata.namespace", *_FORCED.get(kind, ())]


def changes(old: JSON, new: JSON, ignored: Iterable[str] = ()) -> dict[str, str]:
    """Changed path → add, update or delete; nothing at or below the `ignored` paths."""
    found = dict(_walk((), old, new))
    return {path: how for path, how in found.items() if not within(path, ignored)}


def replacements(found: Mapping[str, str], forced: Iterable[str]) -> list[str]:
    """Those of the changed paths that force a new object: a forced one, or below it."""
    return [path for path in found if within(path, forced)]


def within(path: str, outer: Iterable[str]) -> bool:
    """Whether `path` is one of the `outer` paths or below one."""
    return any(re.match(rf"{re.escape(rule)}(?![^.\[])", path) for rule in outer)


def _walk(path: tuple[str | int, ...], old: Any, new: Any) -> Iterator[tuple[str, str]]:
    if new is _MISSING:
        yield _show(path), DELETE
    elif old is _MISSING:
        yield _show(path), ADD
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _walk((*path, key), old.get(key, _MISSING), new.get(key, _MISSING))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            a, b = (side[index] if index < len(side) else _MISSING for side in (old, new))
            yield from _walk((*path, index), a, b)
    elif new is UNKNOWN or not _same(path, old, new):
        yield _show(path), UPDATE


def _show(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.search(r'[."\[\]]', part):
            text += '["' + part.replace('"', '\\"') + '"]'
        else:
            text += f".{part}" if text else part
    return text


def _same(path: tuple[str | int, ...], old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    sized = bool({"limits", "requests"} & set(path))
    return bool(old == new) or (sized and quantity(old) is not None and quantity(old) == quantity(new))
