"""Small conversions from Istio's API values to Envoy's: durations, percentages, string matches, header operations."""

from __future__ import annotations

import re
from typing import Any

import re2

from lab.mesh.model import Json, Unsupported

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_PART = r"(\d+(?:\.\d+)?)(h|ms|m|s)"


def duration(value: Any, path: str) -> str:
    """`1m30s` -> `90s`, as Envoy's JSON wants it; Istio accepts one millisecond or more."""
    text = str(value)
    if not re.fullmatch(f"({_DURATION_PART})+", text):
        raise Unsupported(path, f"{text!r} is not a duration; write one like 10s or 500ms")
    total = sum(float(n) * _UNITS[unit] for n, unit in re.findall(_DURATION_PART, text))
    if total < 0.001:
        raise Unsupported(path, f"{value!r} must be a valid duration of 1ms or more")
    return f"{total:.9f}".rstrip("0").rstrip(".") + "s"


def regex(value: str, path: str) -> str:
    """Compiled with the library that Envoy compiles with."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise Unsupported(path, f"{value!r} is not an RE2 expression: {reason}") from error
    return value


def fraction(percentage: Json | None, path: str) -> Json:
    """A percentage as parts per million; absent means all."""
    if percentage is None:
        return {"numerator": 100}
    value = float(percentage.get("value", 0))
    if not 0 <= value <= 100:
        raise Unsupported(path, f"percentage {value:g} is outside 0-100")
    return {"denominator": "MILLION", "numerator": round(value * 10_000)}


def is_present(match: Json) -> bool:
    """`{}` and the regex `*` mean: there, with any value."""
    return not match or match.get("regex") == "*"


def string_match(match: Json, path: str) -> Json:
    if len(match) != 1:
        raise Unsupported(path, f"needs exactly one of exact, prefix, regex, got {sorted(match)}")
    if "regex" in match:
        return {"safe_regex": {"regex": regex(str(match["regex"]), f"{path}.regex")}}
    if "prefix" in match:
        if not match["prefix"]:
            raise Unsupported(f"{path}.prefix", "must not be empty")
        return {"prefix": str(match["prefix"])}
    return {"exact": str(match["exact"])}


def named_match(name: str, match: Json | None, path: str) -> Json:
    """A matcher of a header or of a query parameter."""
    if match is None:
        raise Unsupported(path, "null is not a match; write {} for 'present'")
    if name.startswith("@request.auth."):
        raise Unsupported(path, "matching on JWT claims is not supported by the routing stand-in")
    if is_present(match):
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": string_match(match, path)}


def header_operations(headers: Json | None, path: str) -> Json:
    """Envoy's four lists of header operations."""
    out: Json = {}
    for side, operations in (headers or {}).items():
        adds: list[Json] = []
        for verb in ("set", "add"):
            for key, value in sorted((operations.get(verb) or {}).items()):
                item: Json = {"header": {"key": key, "value": str(value)}}
                if verb == "set":
                    item["append_action"] = "OVERWRITE_IF_EXISTS_OR_ADD"
                adds.append(item)
        removes = list(operations.get("remove") or [])
        for key in [*(a["header"]["key"] for a in adds), *removes]:
            if key.startswith(":") or key.lower() == "host":
                raise Unsupported(f"{path}.{side}", f"changing {key} is not supported by the routing stand-in")
        if adds:
            out[f"{side}_headers_to_add"] = adds
        if removes:
            out[f"{side}_headers_to_remove"] = removes
    return out
