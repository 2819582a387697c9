"""Inputs of the AWS resources that the stand-in takes: their names, defaults and what the real provider refuses in
preview, and their way to AWS' own shapes and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.plugins.protos import JSON, UNKNOWN

Schema = Any
"""A dictionary (`!` after a name: required), a list with one schema (a set of such), or a leaf: its default or None."""


@dataclass(frozen=True)
class Choice:
    """A leaf that takes a few values."""

    values: tuple[str, ...]
    default: str | None = None


@dataclass(frozen=True)
class Text:
    """A leaf that has a form."""

    pattern: str


class Ordered(list[Any]):
    """A list whose order counts."""


ARN = Text(r"arn:[\w-]+:[\w-]+:[\w-]*:\d*:.+")
NAME = Text(r"[a-zA-Z0-9-_]{1,64}")
TAGS = Text("")

_NAMED = {
    ("Origin", "originId"): "Id",
    ("OriginCustomHeader", "name"): "HeaderName",
    ("OriginCustomHeader", "value"): "HeaderValue",
}
"""Where the provider's name is not AWS' but for its case."""


_NAMES = {"items": [None]}
_MOST = ("none", "whitelist", "allExcept", "all")
# fmt: off
SCHEMAS: dict[str, dict[str, Schema]] = {
    "KeyValueStore": {"name!": NAME, "tags": TAGS},
    "Keys": {"keyValueStoreArn!": ARN, "maxBatchSize": 50, "resourceKeyValuePairs": [{"key!": None, "value!": None}]},
    "Function": {
        "name!": NAME, "code!": None, "runtime!": Choice(("cloudfront-js-1.0", "cloudfront-js-2.0")), "publish": True,
        "keyValueStoreAssociations": [ARN],
    },
    "CachePolicy": {
        "name!": None, "comment": None, "minTtl": None, "defaultTtl": 86400, "maxTtl": 31536000,
        "parametersInCacheKeyAndForwardedToOrigin!": {
            "cookiesConfig!": {"cookieBehavior!": Choice(_MOST), "cookies": _NAMES},
            "headersConfig!": {"headerBehavior": Choice(("none", "whitelist")), "headers": _NAMES},
            "queryStringsConfig!": {"queryStringBehavior!": Choice(_MOST), "queryStrings": _NAMES},
            "enableAcceptEncodingBrotli": None, "enableAcceptEncodingGzip": None,
        },
    },
    "OriginRequestPolicy": {
        "name!": None, "comment": None,
        "cookiesConfig!": {"cookieBehavior!": Choice(_MOST), "cookies": _NAMES},
        "headersConfig!": {
            "headerBehavior": Choice((*_MOST[:3], "allViewer", "allViewerAndWhitelistCloudFront")), "headers": _NAMES,
        },
        "queryStringsConfig!": {"queryStringBehavior!": Choice(_MOST), "queryStrings": _NAMES},
    },
    "ResponseHeadersPolicy": {
        "name!": None, "comment": None, "removeHeadersConfig": {"items": [{"header!": None}]},
    },
    "Distribution": {
        "enabled!": None, "aliases": [None], "comment": None, "isIpv6Enabled": False, "webAclId": None, "tags": TAGS,
        "httpVersion": Choice(("http1.1", "http2", "http3", "http2and3"), "http2"),
        "priceClass": Choice(("PriceClass_100", "PriceClass_200", "PriceClass_All"), "PriceClass_All"),
        "origins!": [{
            "originId!": None, "domainName!": None, "connectionAttempts": 3, "connectionTimeout": 10,
            "customHeaders": [{"name!": None, "value!": None}],
            "customOriginConfig": {
                "httpPort!": None, "httpsPort!": None, "originReadTimeout": 30, "originKeepaliveTimeout": 5,
                "originProtocolPolicy!": Choice(("http-only", "https-only", "match-viewer")),
                "originSslProtocols!": [Choice(("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2"))],
            },
        }],
        "defaultCacheBehavior!": {
            "targetOriginId!": None, "allowedMethods!": [None], "cachedMethods!": [None], "compress": False,
            "viewerProtocolPolicy!": Choice(("allow-all", "https-only", "redirect-to-https")),
            "cachePolicyId": None, "originRequestPolicyId": None, "responseHeadersPolicyId": None,
            "functionAssociations": [
                {"eventType!": Choice(("viewer-request", "viewer-response")), "functionArn!": ARN},
            ],
            "grpcConfig": {"enabled": None},
        },
        "restrictions!": {
            "geoRestriction!": {"restrictionType!": Choice(("none", "whitelist", "blacklist")), "locations": [None]},
        },
        "viewerCertificate!": {
            "acmCertificateArn": ARN, "cloudfrontDefaultCertificate": None, "minimumProtocolVersion": "TLSv1",
            "sslSupportMethod": Choice(("sni-only", "vip", "static-ip")),
        },
    },
    "LogDeliverySource": {"name!": None, "logType!": None, "resourceArn!": ARN, "region": None},
    "LogDeliveryDestination": {
        "name!": None, "outputFormat": None, "deliveryDestinationConfiguration": {"destinationResourceArn!": ARN},
        "region": None,
    },
    "LogDelivery": {
        "deliverySourceName!": None, "deliveryDestinationArn!": ARN, "recordFields": Ordered([None]), "region": None,
    },
}
# fmt: on
"""By class in lab/plugins/aws_resources.py."""


def fields(schema: Mapping[str, Schema]) -> Iterator[tuple[str, bool, Schema]]:
    """(name, required, schema) of each."""
    for key, inner in schema.items():
        yield key.rstrip("!"), key.endswith("!"), inner


def checked(schema: Schema, value: Any, path: str, problems: list[tuple[str, str]]) -> Any:
    """`value` with defaults; what is wrong goes to `problems` as (path, text).  Unknown values are fine anywhere."""
    if value is UNKNOWN or schema is TAGS:
        return value
    if isinstance(schema, dict) and isinstance(value, dict):
        found, known = {}, {name for name, _, _ in fields(schema)}
        for name in value.keys() - known:
            problems.append(
                (f"{path}.{name}".lstrip("."), "the aws stand-in does not support it; use the real provider")
            )
        for name, required, inner in fields(schema):
            at = f"{path}.{name}".lstrip(".")
            one = value.get(name)
            if one is None:
                one = inner.default if isinstance(inner, Choice) else inner if isinstance(inner, str | int) else None
            if one not in (None, [], {}):
                found[name] = checked(inner, one, at, problems)
            elif one is None and required:
                problems.append((at, "Missing required argument"))
        return found
    if isinstance(schema, list) and isinstance(value, list):
        return [checked(schema[0], one, f"{path}[{index}]", problems) for index, one in enumerate(value)]
    if isinstance(schema, dict | list) or isinstance(value, dict | list):
        problems.append((path, f"expected {'a map' if isinstance(schema, dict) else 'a list'}, got {value!r}"))
    elif isinstance(schema, Choice) and value not in schema.values:
        problems.append((path, f"expected one of {list(schema.values)}, got {value!r}"))
    elif isinstance(schema, Text) and not re.fullmatch(schema.pattern, str(value), re.DOTALL):
        problems.append((path, f"{str(value)[:80]!r} does not match {schema.pattern}"))
    return value


def aligned(schema: Schema, old: Any, new: Any) -> tuple[Any, Any]:
    """Both with equal members of sets at the same place, so that order makes no difference."""
    if isinstance(schema, dict) and isinstance(old, dict) and isinstance(new, dict):
        inner = {name: one for name, _, one in fields(schema)}
        both = {key: aligned(inner.get(key), old[key], new[key]) for key in old.keys() & new.keys()}
        return old | {key: pair[0] for key, pair in both.items()}, new | {key: pair[1] for key, pair in both.items()}
    if (
        not isinstance(schema, list)
        or isinstance(schema, Ordered)
        or not isinstance(old, list)
        or type(new) is not list
    ):
        return old, new
    left, equal, rest = list(old), [], []
    for one in new:
        at = next((index for index, other in enumerate(left) if same(schema[0], other, one)), None)
        rest.append(one) if at is None else equal.append(left.pop(at))
    pairs = [aligned(schema[0], *pair) for pair in zip(left, rest, strict=False)]
    return (
        [*equal, *(pair[0] for pair in pairs), *left[len(pairs) :]],
        [*equal, *(pair[1] for pair in pairs), *rest[len(pairs) :]],
    )


def same(schema: Schema, one: Any, two: Any) -> bool:
    """Whether they are equal, whatever the order of sets."""
    return bool(_canonical(schema, one) == _canonical(schema, two))


def _canonical(schema: Schema, value: Any) -> Any:
    if isinstance(schema, dict) and isinstance(value, dict):
        inner = {name: one for name, _, one in fields(schema)}
        return {key: _canonical(inner.get(key), one) for key, one in value.items()}
    if isinstance(schema, list) and isinstance(value, list):
        items = [_canonical(schema[0], one) for one in value]
        return items if isinstance(schema, Ordered) else sorted(items, key=lambda one: json.dumps(one, default=str))
    return value


def to_aws(shape: Any, schema: Schema, value: Any) -> Any:
    """In AWS' shape: same names in other case, and lists wrapped with their length."""
    if isinstance(schema, list):
        member = shape.members["Items"].member if "Items" in getattr(shape, "members", {}) else shape.member
        items = [to_aws(member, schema[0], one) for one in value]
        return items if shape.type_name == "list" else {"Quantity": len(items), **({"Items": items} if items else {})}
    if not isinstance(schema, dict):
        return value
    found: JSON = {}
    by_name = {name.lower(): name for name in shape.members}
    for name, _, inner in fields(schema):
        if name not in value:
            continue
        if isinstance(inner, list) and "Quantity" in shape.members and name in ("items", "locations"):
            found |= to_aws(shape, inner, value[name])
        elif aws := _NAMED.get((shape.name, name)) or by_name.get(name.lower()):
            found[aws] = to_aws(shape.members[aws], inner, value[name])
    return {"Quantity": 0, **found} if "Quantity" in shape.members else found


def from_aws(shape: Any, schema: Schema, value: Any) -> Any:
    """In the provider's words; what AWS does not have is left out."""
    if isinstance(schema, list):
        items = value if shape.type_name == "list" else value.get("Items") or []
        member = shape.member if shape.type_name == "list" else shape.members["Items"].member
        return [from_aws(member, schema[0], one) for one in items]
    if not isinstance(schema, dict):
        return value
    found: JSON = {}
    by_name = {name.lower(): name for name in shape.members}
    for name, _, inner in fields(schema):
        aws = _NAMED.get((shape.name, name)) or by_name.get(name.lower(), "")
        if isinstance(inner, list) and "Quantity" in shape.members and name in ("items", "locations"):
            one = from_aws(shape, inner, value)
        elif value.get(aws) is None:
            continue
        else:
            one = from_aws(shape.members[aws], inner, value[aws])
        if one not in ("", [], {}):
            found[name] = one
    return found
