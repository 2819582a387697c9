"""Configurations and requests by the thousand: valid ones of every kind, and ones with a single fault that is named.

Everything comes from the `random.Random` that is handed in, so a seed that failed once fails again.  Keys are those
that `core.checks.parse` takes.  Values come from small pools on purpose: rules overlap, and requests nearly miss them.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from core import checks, matches
from core.evaluate import Request
from core.model import Rule, Service, Settings

Json = dict[str, Any]

SEED = os.environ.get("GENERATE_SEED", "canary")
"""Another word, other configurations."""

COUNT = 1000
"""Configurations per property and run."""

HEADERS = ("x-canary", "X-Beta", "x-group", "user-id", "x_team", "accept-language")
VALUES = ("true", "True", "beta", "beta-7", "internal-x", "7", "42", "a,b", "de-DE", "x y", "a%20b", "")
REGEXES = ("(beta|internal)-.*", "b.*", r"[0-9]+", "(?i)true", r"\d{2,4}", "[^a]*", "true|7")
COOKIES = (("arm", "canary"), ("arm", "stable"), ("group", "b=1"), ("a.b", "x+y"))
QUERY = ("v", "canary", "utm-source")
PATHS = ("/", "/api", "/api/v1/items", "/checkout", "/Checkout", "/shop.Cart/Add")
METHODS = ("GET", "POST", "DELETE")
USERS = ("1", "2", "7", "42", "a.b", "ann@example.com", "c-3", "björn", "x|y", "(z)")
IMAGES = ("sample-web:1.0", "registry.example.com/shop/web:2.0", f"registry.example.com/web:3.0@sha256:{'ab' * 32}")


def configs(count: int = COUNT) -> Iterator[tuple[str, Json]]:
    """(seed, valid configuration), the same ones in every run."""
    for number in range(count):
        yield f"{SEED}-{number}", valid(Random(f"{SEED}-{number}"))


@functools.cache
def accepted() -> list[tuple[str, Settings]]:
    """(seed, settings) of `configs`; so much as a warning is a fault of the generator, or of the checks."""
    found = []
    for seed, raw in configs():
        settings, warnings = checks.parse(raw)
        assert not warnings, (seed, warnings)
        found.append((seed, settings))
    return found


def faulty(count: int = COUNT) -> Iterator[tuple[str, Json, str]]:
    """(seed and name of the fault, configuration, what the refusal says): every fault in turn."""
    names = list(FAULTS)
    for number in range(count):
        rng, name = Random(f"{SEED}-fault-{number}"), names[number % len(names)]
        raw = valid(rng, canary=True)
        says = FAULTS[name](rng, raw)
        yield f"{SEED}-fault-{number}: {name}", raw, says


def valid(rng: Random, *, canary: bool | None = None) -> Json:
    """A raw configuration that is accepted; `canary` says whether the first service has one and the weight is not 0."""
    names = rng.sample(["web", "api", "cart", "search", "a1", "w" * 56], rng.choice([1, 1, 1, 2, 3]))
    secrets = rng.sample(["token", "db-password"], rng.randint(0, 2))
    rolling = rng.random() < 0.9 if canary is None else canary
    services = {
        name: _service(rng, name, secrets, canary=rolling and (not i or _maybe(rng))) for i, name in enumerate(names)
    }
    weight = rng.choice([0, 0, 1, 5, 10, 25, 50, 99, 100, rng.randint(0, 100)]) if rolling else 0
    ladder = sorted(rng.sample(range(1, 101), rng.randint(1, 6)))
    raw: Json = {
        "namespace": rng.choice(["default", "shop", "team-a"]),
        "weight": rng.choice([weight or int(canary or 0), str(weight or int(canary or 0))]),
        "halted": rng.choice([False] * 16 + [True, "true"]) if canary is None else False,
        "steps": [rng.choice([w, str(w), {"weight": w, "hold": rng.choice(["0s", "15m", "1h30m"])}]) for w in ladder],
        "services": services,
        **{f"secret-{name}": "s3cret" for name in secrets},
    }
    some: dict[str, Any] = {
        "hold": rng.choice(["", "waiting for legal"]),
        "routeHeader": rng.choice([True, False, "false"]),
        "gate": {
            "errorRate": "0.5%",
            "p95": rng.choice(["500ms", "1.5s"]),
            "checks": [{"url": "http://probe:8080/ok"}],
        },
        "windows": {"raise": "Mon-Thu 09:00-16:00 Europe/Berlin", "freezes": [_freeze(rng)]},
        "gateway": {"tlsSecret": "shop-tls", "replicas": rng.randint(1, 5), "serviceType": "ClusterIP"},
        "waypoint": {"replicas": rng.randint(1, 4)},
        "alerts": {"form": rng.choice(["configmap", "operator"]), "webhook": "http://rollout:9094/webhook"},
        "rejected": ["registry.example.com/web:1.9"],
        "readyTimeout": rng.choice(["30s", "5m"]),
        "istio": {"version": "1.30.3", "install": rng.choice([True, False])},
        "override": {"reason": "incident", "until": "2026-12-01T09:00:00Z", "from": 5, "to": "50"},
    }
    return raw | {key: value for key, value in some.items() if rng.random() < 0.3}


def _freeze(rng: Random) -> Json:
    return {"from": "2026-12-18", "to": rng.choice(["2026-12-18", "2027-01-04"]), "why": "year end"}


def _maybe(rng: Random) -> bool:
    return rng.random() < 0.5


def _track(rng: Random, secrets: list[str], *, version: str) -> Json:
    track: Json = {"image": rng.choice(IMAGES)}
    some: Json = {
        "replicas": rng.choice([1, 3, "2", *(["auto"] if version == "canary" else [])]),
        "env": {"LOG_LEVEL": rng.choice(["info", "debug"])},
        "config": {"data": {"app.yaml": "a: 1\n"}, **({"mount": "/etc/app"} if _maybe(rng) else {})},
        "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "autoscale": {"min": 2, "max": rng.choice([2, 10]), **({"cpu": 80} if _maybe(rng) else {})},
        "probe": {"path": "/healthz", "periodSeconds": rng.randint(1, 5)},
        "drain": rng.choice(["0s", "5s"]),
        "security": {"nonRoot": _maybe(rng), "readOnlyRoot": _maybe(rng)},
        "pullSecrets": ["registry"],
    }
    if secrets:
        some["secrets"] = {f"SECRET_{n}": name for n, name in enumerate(secrets)}
    track |= {key: value for key, value in some.items() if rng.random() < 0.2}
    if "autoscale" in track:  # it scales by a share of what is requested, and there is one who says how many
        track["resources"] = some["resources"]
        track.pop("replicas", None)
    return track


def _service(rng: Random, name: str, secrets: list[str], *, canary: bool) -> Json:
    service: Json = {"stable": _track(rng, secrets, version="stable")}
    if canary:
        service["canary"] = _track(rng, secrets, version="canary")
    some: Json = {
        "hosts": [f"{name[:9]}-{n}.example.com" for n in range(rng.randint(1, 2))],
        "port": rng.choice([80, 8080, "8443"]),
        "targetPort": rng.choice([3000, 8080]),
        "replicas": rng.choice([1, 2, "6"]),
        "timeout": rng.choice(["1s", "15s", "1m30s"]),
        "retries": rng.choice([0, 1, 10]),
        "userHeader": rng.choice(["user-id", "x-user"]),
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/web"}},
        "protocol": rng.choice(["http", "grpc"]),
    }
    service |= {key: value for key, value in some.items() if rng.random() < (0.8 if key == "hosts" else 0.4)}
    service["rules"] = _rules(rng, service)
    return service


def _rules(rng: Random, service: Json) -> list[Json]:
    """Up to five rules, none of which is hidden by those before it."""
    kept: list[Json] = []
    parsed: list[Rule] = []
    shape = Service.model_validate({**service, "stable": {"image": "a:1"}, "canary": None})
    for number in range(rng.randint(0, 5)):
        raw = rule(rng, f"r{number}", shape)
        one = Rule.model_validate(raw)
        if not any(matches.hides(earlier, one, shape.user_header) for earlier in parsed):
            kept.append(raw)
            parsed.append(one)
    return kept


def rule(rng: Random, name: str, service: Service) -> Json:
    """A rule of any kind for a service."""
    found: Json = {"name": name, "to": rng.choice(["canary", "canary", "stable"])}
    kinds = ["headers", "cookies", "users", *(["query"] if service.protocol == "http" else [])]
    chosen = rng.sample(kinds, rng.choice([1, 1, 2]))
    for kind in chosen:
        if kind == "headers":
            free = [one for one in HEADERS if one != service.user_header or "users" not in chosen]
            found["headers"] = {header: _match(rng) for header in rng.sample(free, rng.randint(1, 2))}
        elif kind == "cookies":
            found["cookies"] = dict([rng.choice(COOKIES)])
        elif kind == "query":
            found["query"] = {key: _match(rng, query=True) for key in rng.sample(QUERY, rng.randint(1, 2))}
        else:
            many = [f"customer-{rng.randint(0, 10**9)}" for _ in range(rng.choice([0, 0, 0, 0, 0, 0, 90, 400]))]
            found["users"] = rng.sample(USERS, rng.randint(1, 5)) + many
    if rng.random() < 0.3:
        found["uri"] = rng.choice([{"exact": rng.choice(PATHS)}, {"prefix": rng.choice(PATHS)}, {"regex": "/api/.*"}])
    if rng.random() < 0.2:
        found["method"] = rng.choice(METHODS) if service.protocol == "http" else "POST"
    if found["to"] == "stable" and rng.random() < 0.2:  # a path alone may shield, though it may not expose
        found = {"name": name, "to": "stable", "uri": {"prefix": rng.choice(PATHS[1:])}}
    return found


def _match(rng: Random, *, query: bool = False) -> Any:
    values = [value for value in VALUES if not (query and " " in value)]
    filled = [value for value in values if value]
    return rng.choice(
        [
            rng.choice(values),
            {"exact": rng.choice(values)},
            {"prefix": rng.choice(filled)[: rng.randint(1, 4)].rstrip()},
            {"regex": rng.choice(REGEXES)},
            {"present": True},
        ]
    )


def request(rng: Random, settings: Settings, name: str) -> Request:
    """A request to a service: often one that satisfies a rule, or all of it but one condition."""
    service = settings.services[name]
    headers: dict[str, str] = {}
    cookies: dict[str, str] = {}
    query: dict[str, str] = {}
    uri, method = rng.choice(PATHS), rng.choice(METHODS)
    if service.rules and rng.random() < 0.7:
        rule = rng.choice(service.rules)
        headers |= {key: _value(rng, match) for key, match in rule.headers.items()}
        cookies |= rule.cookies
        query |= {key: _value(rng, match) for key, match in rule.query.items()}
        if rule.users:
            headers[service.user_header] = rng.choice(rule.users)
        if rule.uri is not None:
            uri = rule.uri.exact or f"{rule.uri.prefix or '/api/'}{rng.choice(['', 'x', '/y'])}"
        method = rule.method or method
    for _ in range(rng.randint(0, 2)):
        at = rng.choice([headers, headers, cookies, query])
        if at and _maybe(rng):
            del at[rng.choice(sorted(at))]
        elif at is cookies:
            at.update([rng.choice(COOKIES)])
        elif at is query:
            at[rng.choice(QUERY)] = rng.choice([value for value in VALUES if " " not in value])
        else:
            key = rng.choice(HEADERS)
            known = next((known for known in headers if known.lower() == key.lower()), key)
            headers[known] = rng.choice([*VALUES, *USERS, *REGEXES[:1]])
    if rng.random() < 0.4:
        headers["x-deployment"] = rng.choice(["green", "green", "blue", "Green", "purple", ""])
        if _maybe(rng):
            headers["x-deployment-reason"] = rng.choice(["cidr", "bucket", "other"])
    door: Any = rng.choice(["gateway", "mesh"]) if service.hosts else "mesh"
    host = rng.choice([None, None, *service.hosts, *(each.upper() + ":80" for each in service.hosts)])
    return Request(door=door, host=host, uri=uri, method=method, headers=headers, cookies=cookies, query=query)


def _value(rng: Random, match: matches.StringMatch) -> str:
    if match.exact is not None:
        return match.exact
    if match.prefix is not None:
        return match.prefix + rng.choice(["", "x"])
    return rng.choice([value for value in VALUES if " " not in value])


Fault = Callable[[Random, Json], str]
"""Breaks one thing in a valid configuration whose first service has a canary; returns what the refusal must say."""


def _in_service(path: str, value: Any, says: str | None = None) -> Fault:
    def fault(rng: Random, raw: Json) -> str:
        name = next(iter(raw["services"]))
        *parents, last = path.split(".")
        at = raw["services"][name]
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = copy.deepcopy(value)
        return f"canary:services.{name}.{says or path}"

    return fault


def _at_top(key: str, value: Any, says: str | None = None) -> Fault:
    def fault(rng: Random, raw: Json) -> str:
        raw[key] = copy.deepcopy(value)
        return f"canary:{says or key}"

    return fault


def _rule_of(says: str = "", **rule: Any) -> Fault:
    def fault(rng: Random, raw: Json) -> str:
        name, service = next(iter(raw["services"].items()))
        service |= {"protocol": "http", "userHeader": "user-id"}
        service["rules"] = [{"name": "faulty", **copy.deepcopy(rule)}]
        return f"canary:services.{name}.rules[0]{says}"

    return fault


def _two_rules(first: Json, second: Json, says: str = "") -> Fault:
    def fault(rng: Random, raw: Json) -> str:
        name, service = next(iter(raw["services"].items()))
        service["rules"] = [{"name": "one", **first}, {"name": "two", **second}]
        return f"canary:services.{name}.rules[1]{says}"

    return fault


def _grpc(says: str, **rule: Any) -> Fault:
    def fault(rng: Random, raw: Json) -> str:
        told = _rule_of(says, **rule)(rng, raw)
        next(iter(raw["services"].values()))["protocol"] = "grpc"
        return told

    return fault


def _weight_for_nobody(rng: Random, raw: Json) -> str:
    for service in raw["services"].values():
        service.pop("canary", None)
    return "canary:weight"


FAULTS: dict[str, Fault] = {
    "weight -1": _at_top("weight", -1),
    "weight 101": _at_top("weight", "101"),
    "weight 5.5": _at_top("weight", 5.5),
    "weight of a word": _at_top("weight", "abc"),
    "weight without canary": _weight_for_nobody,
    "unknown key": _at_top("wieght", 5),
    "ladder not rising": _at_top("steps", [5, 5]),
    "ladder empty": _at_top("steps", []),
    "hold without unit": _at_top("steps", [{"weight": 5, "hold": "15"}], "steps[0].hold"),
    "namespace in capitals": _at_top("namespace", "Shop"),
    "image missing": _in_service("stable", {}, "stable.image"),
    "canary's image a number": _in_service("canary", {"image": 7}, "canary.image"),
    "unknown key of a service": _in_service("colour", "red"),
    "host *": _in_service("hosts", ["*"], "hosts[0]"),
    "port 0": _in_service("port", 0),
    "protocol tcp": _in_service("protocol", "tcp"),
    "replicas 0": _in_service("replicas", 0),
    "11 retries": _in_service("retries", 11),
    "timeout of nothing": _in_service("timeout", "0s"),
    "secret without a value": _in_service("canary.secrets", {"A": "nowhere"}, "canary.secrets.A"),
    "auto replicas of stable": _in_service("stable.replicas", "auto"),
    "rule for everybody": _rule_of(),
    "rule by path only": _rule_of(uri="/a"),
    "rule on the stamp": _rule_of(".headers.X-Deployment", headers={"X-Deployment": "green"}),
    "rule on an Envoy header": _rule_of(".headers.x-envoy-peer", headers={"x-envoy-peer": "a"}),
    "rule on a pseudo header": _rule_of(".headers.:path", headers={":path": "/a"}),
    "truth value for text": _rule_of(".headers.x-canary", headers={"x-canary": True}),
    "two conditions on one header": _rule_of(".headers", headers={"X-A": "1", "x-a": "2"}),
    "users beside their own header": _rule_of(".headers", headers={"user-id": "1"}, users=["2"]),
    "two cookies": _rule_of(".cookies", cookies={"a": "1", "b": "2"}),
    "cookie with a semicolon": _rule_of(".cookies.a", cookies={"a": "1;b=2"}),
    "two kinds of match": _rule_of(".headers.x", headers={"x": {"exact": "a", "prefix": "b"}}),
    "empty prefix": _rule_of(".headers.x", headers={"x": {"prefix": ""}}),
    "regex of another dialect": _rule_of(".headers.x", headers={"x": {"regex": "(?=b)"}}),
    "regex too long": _rule_of(".query.x", query={"x": {"regex": "b" * 1025}}),
    "query that is not encoded": _rule_of(".query.q", query={"q": "a b"}),
    "path without a slash": _rule_of(".uri", users=["1"], uri="a"),
    "path with a query": _rule_of(".uri", users=["1"], uri={"prefix": "/a?b=1"}),
    "method in lower case": _rule_of(".method", users=["1"], method="get"),
    "too many users": _rule_of(".users", users=[str(n) for n in range(501)]),
    "empty user": _rule_of(".users[1]", users=["1", ""]),
    "user that fits no expression": _rule_of(".users[0]", users=["u" * 256]),
    "two rules of one name": _two_rules({"users": ["1"]}, {"name": "one", "users": ["2"]}, ".name"),
    "rule that is never reached": _two_rules({"users": ["1", "2"]}, {"users": ["2"]}),
    "query of a gRPC call": _grpc(".query", query={"a": "1"}),
    "GET of a gRPC call": _grpc(".method", users=["1"], method="GET"),
}
