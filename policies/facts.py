"""What a rule sees: the objects of a stack by kind, which of them are at rest, and whether a route goes down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Json = Mapping[str, Any]
Check = Callable[["Stack", "Thing", Json], Iterator[str]]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


class Mild(str):
    """A fault that is told and never refused."""


@dataclass(frozen=True)
class Rule:
    """`check` yields the faults of one object of one of `kinds`; `config` is JSON Schema by key, with defaults.

    What an object at rest breaks is told and not refused, unless the rule is `vital`: about what serves stable.
    """

    name: str
    text: str
    kinds: tuple[str, ...]
    check: Check
    mandatory: bool
    vital: bool
    config: Mapping[str, Json]

    def faults(self, stack: Stack, thing: Thing, given: Json) -> Iterator[str]:
        """The faults of `thing`, mild ones as such."""
        defaults = {key: schema["default"] for key, schema in self.config.items()}
        spared = stack.falling or (thing.urn in stack.resting and not self.vital)
        for text in self.check(stack, thing, {**defaults, **given}):
            yield Mild(text) if spared else text


RULES: list[Rule] = []


def rule(
    name: str, text: str, *kinds: str, mandatory: bool = True, vital: bool = False, **config: Json
) -> Callable[[Check], Check]:
    """Adds the decorated check to `RULES`."""

    def add(check: Check) -> Check:
        RULES.append(Rule(name, text, kinds, check, mandatory, vital, config))
        return check

    return add


@dataclass(frozen=True, eq=False)
class Thing:
    """One resource; `needs` are the URNs that it waits for.  Reading what is not known yet raises the SDK's error."""

    urn: str
    kind: str
    props: Json
    needs: frozenset[str] = frozenset()

    def get(self, *path: str) -> Json:
        """The object at `path`, empty where there is none."""
        found = self.props
        for key in path:
            found = found.get(key) or {}
        return found

    @property
    def spec(self) -> Json:
        """Empty where there is none."""
        return self.get("spec")

    @property
    def place(self) -> tuple[str, str]:
        """(namespace, name); a Namespace is in none."""
        space = "" if self.kind == "Namespace" else self.get("metadata").get("namespace") or "default"
        return space, self.get("metadata").get("name") or ""

    @cached_property
    def pod_labels(self) -> Json:
        """Of a workload's pods."""
        return dict(self.get("spec", "template", "metadata", "labels"))


def kind_of(resource_type: str) -> str:
    """`VirtualService` of `kubernetes:networking.istio.io/v1:VirtualService`; empty for what no rule looks at."""
    package, _, rest = resource_type.partition(":")
    return rest.rpartition(":")[2] if package in ("kubernetes", "aws", "pulumi") else ""


def within(part: Json, whole: Json) -> bool:
    """True when each label of `part` is one of `whole`."""
    return all(whole.get(key) == value for key, value in part.items())


def resolved(host: str, namespace: str) -> str:
    """As Istio takes a host: a name without a dot is a Service of the reader's namespace."""
    return host if "." in host or host.startswith("*") else f"{host}.{namespace}.svc.cluster.local"


def hosts(route: Thing) -> list[str]:
    """Of a VirtualService, in full."""
    return sorted({resolved(host, route.place[0]) for host in route.spec.get("hosts") or []})


def legs(route: Json) -> list[tuple[str, str | None, Any]]:
    """(host, subset, weight) of each destination; a weight that is left out is 0, and of an only one 100."""
    found = route.get("route") or []
    missing = 100 if len(found) == 1 else 0
    to = [(one.get("destination") or {}, one.get("weight")) for one in found]
    return [(at.get("host", ""), at.get("subset"), missing if share is None else share) for at, share in to]


def catches_all(route: Json) -> bool:
    """True when no request gets past the route."""
    entries = route.get("match") or [{}]
    return any(not one or (set(one) == {"uri"} and one["uri"].get("prefix") == "/") for one in entries)


def shares(route: Thing) -> dict[str, Any]:
    """Weight by subset of what no rule of a VirtualService takes, without those that get nothing."""
    last = [one for one in route.spec.get("http") or [] if catches_all(one)][:1]
    return {subset or "": share for one in last for _, subset, share in legs(one) if share}


class Stack:
    """All objects, by kind and by place; `subsets` has their labels by host.

    What cannot be read, because it is not known yet or is not what it should be, is left out.
    """

    def __init__(self, things: Iterable[Thing]) -> None:
        self._kinds: dict[str, list[Thing]] = {}
        self._places: dict[tuple[str, str, str], Thing] = {}
        self.subsets: dict[str, dict[str, Json]] = {}
        for thing in things:
            self._kinds.setdefault(thing.kind, []).append(thing)
            with suppress(Exception):
                self._places[thing.kind, *thing.place] = thing
                if thing.kind == "DestinationRule":
                    own = {one.get("name", ""): one.get("labels") or {} for one in thing.spec.get("subsets") or []}
                    self.subsets.setdefault(resolved(thing.spec.get("host", ""), thing.place[0]), {}).update(own)

    def of(self, *kinds: str) -> list[Thing]:
        """All of these kinds."""
        return [thing for kind in kinds for thing in self._kinds.get(kind, ())]

    def at(self, kind: str, namespace: str, name: str) -> Thing | None:
        """The object of that name; raises as reading does where one whose name cannot be read may be it."""
        found = self._places.get((kind, namespace, name))
        if found is None:
            _ = [one.place for one in self.of(kind)]
        return found

    def service(self, host: str) -> Thing | None:
        """The Service that `host` names."""
        name, namespace, *_ = [*host.split("."), ""]
        return self.at("Service", namespace, name)

    def pods(self, service: Thing, labels: Json) -> list[Thing]:
        """Workloads whose pods the Service selects, and that carry `labels`."""
        wanted, space = {**service.get("spec", "selector"), **labels}, service.place[0]
        return [one for one in self.of(*WORKLOADS) if within(wanted, one.pod_labels) and one.place[0] == space]

    @cached_property
    def resting(self) -> set[str]:
        """URNs of what is at rest: routes that give canary no share, and the pods behind one that has a canary."""
        found: set[str] = set()
        for thing in self.of("VirtualService", "Service"):
            with suppress(Exception):
                found |= set(self._rest_of(thing))
        return found

    def _rest_of(self, thing: Thing) -> Iterator[str]:
        notes = thing.get("metadata", "annotations")
        if thing.kind == "Service":  # without a mesh the share is there
            behind = [thing] if notes.get("canary/share") == "0" and notes.get("canary/canary") else []
        elif len(given := set(shares(thing))) != 1 or "canary" in given:
            return
        else:
            yield thing.urn
            idle = [
                (self.service(host), labels)
                for host in hosts(thing)
                for name, labels in self.subsets.get(host, {}).items()
                if name not in given
            ]
            behind = [service for service, labels in idle if service is not None and self.pods(service, labels)]
        yield from (one.urn for service in behind for one in self.pods(service, {}))

    @cached_property
    def falling(self) -> bool:
        """True when a route goes down in this update: a canary stack then writes the route before the pods."""
        written: dict[str, list[Thing]] = {"VirtualService": [], "Service": []}
        for thing in self.of(*written):
            with suppress(Exception):
                written[thing.kind] += [thing] if "canary/stable" in thing.get("metadata", "annotations") else []
        pods, (routes, services) = self.of("Deployment"), written.values()
        if any(one.needs & {route.urn for route in routes} for one in pods):
            return True
        return bool(services) and not any(one.needs & {pod.urn for pod in pods} for one in services)
