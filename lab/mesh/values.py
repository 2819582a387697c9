"""Small conversions from Istio's API values to Envoy's: durations, percentages, string matches, header operations."""

from __future__ import annotations

import re
from typing import Any

import re2

from lab.mesh.model import Json, Unsupported

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|us|µs|ns|m|s))+")


def duration(value: Any, path: str) -> str:
    """`1m30s` -> `90s`, as Envoy's JSON wants it."""
    text = str(value)
    if not _DURATION.fullmatch(text):
        raise Unsupported(path, f"{text!r} is not a duration; write one like 10s or 500ms")
    total = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)", text))
    return f"{total:.9f}".rstrip("0").rstrip(".") + "s"


def milliseconds(value: Any, path: str) -> str:
    """A route duration: Istio accepts whole milliseconds, at least one."""
    text = duration(value, path)
    seconds = float(text[:-1])
    if seconds < 0.001:
        raise Unsupported(path, f"{value!r} must be a valid duration of 1ms or more")
    return text


def regex(value: str, path: str) -> str:
    """Compiled with the library that Envoy compiles with; `*` is Istio's word for `present`."""
    options = re2.Options()
    options.log_errors = False
    if value != "*":
        try:
            re2.compile(value, options)
        except re2.error as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise Unsupported(path, f"{value!r} is not an RE2 expression: {reason}") from error
    return value


def fraction(percentage: Json | None, path: str) -> Json:
    """A percentage as parts per million; absent means all."""
    value = float(100 if percentage is None else percentage.get("value", 0))
    if not 0 <= value <= 100:
        raise Unsupported(path, f"percentage {value:g} is outside 0-100")
    if percentage is None:
        return {"numerator": 100}
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


def header_match(name: str, match: Json | None, path: str) -> Json:
    if match is None:
        raise Unsupported(path, "null is not a match; write {} for 'present'")
    if name.startswith("@request.auth."):
        raise Unsupported(path, "matching on JWT claims is not supported by the routing stand-in")
    if is_present(match):
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": string_match(match, path)}


def header_operations(headers: Json | None) -> Json:
    """Envoy's four lists of header operations; `authority` apart, because Envoy rewrites the host in another place."""
    out: Json = {}
    for side in ("request", "response"):
        ops = (headers or {}).get(side) or {}
        adds: list[Json] = []
        for verb in ("set", "add"):
            for key, value in sorted((ops.get(verb) or {}).items()):
                if key.startswith(":") or key.lower() == "host":
                    if side == "request":
                        out.setdefault("authority", str(value))
                    continue
                item: Json = {"header": {"key": key, "value": str(value)}}
                if verb == "set":
                    item["append_action"] = "OVERWRITE_IF_EXISTS_OR_ADD"
                adds.append(item)
        removes = [k for k in ops.get("remove") or [] if not k.startswith(":") and k.lower() != "host"]
        if adds:
            out[f"{side}_headers_to_add"] = adds
        if removes:
            out[f"{side}_headers_to_remove"] = removes
    return out
