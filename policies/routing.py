"""Rules about routes: where requests go, and that all of it is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from policies import weights
from policies.facts import Json, Mild, Stack, Thing, catches_all, hosts, legs, resolved, rule, shares

VS = "VirtualService"


def _routes(thing: Thing) -> list[tuple[str, Json]]:
    http = thing.spec.get("http") or []
    return [(f"route {route.get('name') or index}", route) for index, route in enumerate(http)]


@rule("route-weights", "The weights of a route are whole numbers from 0 to 100 that sum to 100.", VS)
def _weights(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for title, route in _routes(thing):
        given = [share for *_, share in legs(route)]
        odd = [share for share in given if not isinstance(share, int | float) or share != int(share)]
        problems = [f"weight {share!r} is no whole number" for share in odd]
        problems += [
            f"weight {why}, got {share:g}" for share in given if not odd and (why := weights.weight_problem(share))
        ]
        if not problems and given and (why := weights.sum_problem([*map(int, given)])):
            problems.append(why)
        yield from (f"{title}: {problem}; Istio would make shares of it that nobody wrote" for problem in problems[:1])


@rule("known-subsets", "A route leads only to subsets that the DestinationRule of its host names.", VS, vital=True)
def _subsets(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for title, route in _routes(thing):
        for host, subset, _ in legs(route):
            known = stack.subsets.get(resolved(host, thing.place[0]))
            if subset is not None and known is not None and subset not in known:
                text = f"{title}: {host} has the subsets {', '.join(known)}, not {subset}: 503; name one of those"
                yield _of_canary(stack, thing, subset, text)


def _of_canary(stack: Stack, thing: Thing, subset: str, text: str) -> str:
    """A fault of a subset, which is mild where the route is at rest at another one."""
    return text if thing.urn not in stack.resting or subset in shares(thing) else Mild(text)


@rule("weight-on-ladder", "Canary's weight is 0 or a step of the ladder.", VS, mandatory=False)
def _ladder(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    steps = weights.ladder_from_text(thing.get("metadata", "annotations").get("canary/steps", ""))
    known, share = [step.weight for step in steps], shares(thing).get("canary", 0)
    if known and share not in (weights.LOWEST, *known):
        yield f"weight {share:g} is none of {', '.join(map(str, known))}; the next rise goes to the step above it"


@rule("edge-follows-mesh", "The edge sends canary the same share as the mesh.", "KeyvaluestoreKeysExclusive")
def _edge(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    pairs = {pair["key"]: pair["value"] for pair in thing.props.get("resourceKeyValuePairs") or []}
    found = json.loads(pairs.get("green_percentage", "{}"))
    edge = 0 if found.get("halted") else found.get("buckets", 0) / 100  # of 10,000
    for route in filter(shares, stack.of(VS) if found else ()):
        mesh, public = shares(route).get("canary", 0), set(route.spec.get("gateways") or []) - {"mesh"}
        if public and mesh != edge and route.get("metadata", "annotations").get("canary/canary", "some"):
            text = f"{mesh:g} % at {'/'.join(route.place)} and {edge:g} % at the edge; write both in one update"
            yield text if mesh else Mild(text)


@rule("one-router-per-host", "A host has a VirtualService or an HTTPRoute, never both.", VS, vital=True)
def _routers(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for other in stack.of("HTTPRoute", "GRPCRoute"):
        parents = [one for one in other.spec.get("parentRefs") or [] if one.get("kind") == "Service"]
        named = [f"{one.get('name')}.{one.get('namespace', other.place[0])}.svc.cluster.local" for one in parents]
        named += other.spec.get("hostnames") or []
        for host in hosts(thing):
            if any(fnmatchcase(host, one) or fnmatchcase(one, host) for one in named):
                yield f"{other.kind} {'/'.join(other.place)} also names {host}, and who wins is undefined; keep one"


@rule("catch-all-last", "The last route takes every request that no other took.", VS, vital=True)
def _catch_all(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    routes = _routes(thing)
    taking = [catches_all(route) for _, route in routes]
    if routes and not any(taking):
        yield "the last route has a match, and what no match takes gets 404; end with a route without one"
    elif True in taking[:-1]:
        at = taking.index(True)
        yield f"{routes[at][0]} takes all, so {routes[at + 1][0]} is never reached; move the former to the end"


@rule("explicit-routes", "Every route has a name of its own, a timeout, and a number of retries.", VS)
def _explicit(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    names = [route.get("name") for _, route in _routes(thing)]
    for title, route in _routes(thing):
        asked = ("name", "timeout", "retries") if route.get("route") else ("name",)
        if missing := [key for key in asked if route.get(key) is None]:
            yield f"{title} has no {' and no '.join(missing)}; say so, such as timeout: 10s, retries: {{attempts: 0}}"
        if names.count(route.get("name")) > 1 and route.get("name"):
            yield f"{title}: another route has that name, by which logs tell them apart; rename one"


@rule("no-silent-match", "No condition of a match is dropped without a word.", VS)
def _silent(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    for title, route in _routes(thing):
        for key in ("sourceLabels", "sourceNamespace", "gateways"):
            if any(set(one.get(key) or ()) - {"mesh"} for one in route.get("match") or []):
                yield f"{title}: {key} in a match is dropped by a waypoint, with all beside it; match a header instead"


@rule("waypoint-for-routes", "A route holds inside the mesh: its Service is bound to a waypoint that serves it.", VS)
def _waypoint(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    inside = "mesh" in (thing.spec.get("gateways") or ["mesh"])
    for service in filter(None, (stack.service(host) for host in hosts(thing) if inside)):
        own, name = service.place
        space = stack.at("Namespace", "", own)
        labels = {**(space.get("metadata", "labels") if space else {}), **service.get("metadata", "labels")}
        if labels.get("istio.io/dataplane-mode") != "ambient":
            continue
        used, where = labels.get("istio.io/use-waypoint"), labels.get("istio.io/use-waypoint-namespace", own)
        proxy = stack.at("Gateway", where, str(used))
        serves = proxy.get("metadata", "labels").get("istio.io/waypoint-for", "service") if proxy else "service"
        if used in (None, "none") or (proxy is None and where == own):
            fix = "label it istio.io/use-waypoint, with the name of a Gateway of class istio-waypoint"
            yield f"Service {name} has no waypoint ({used}), so callers inside meet no weight; {fix}"
        if serves not in ("service", "all"):
            yield f"waypoint {used} is for {serves}, and routes are Services'; set istio.io/waypoint-for: service"
        if thing.place[0] not in (own, where):
            yield f"the route is in {thing.place[0]}, where the waypoint of {own} does not look; move it to {own}"


@rule("explained-override", "An exception to the transition rules says why, and ends within a day.", "Stack")
def _override(stack: Stack, thing: Thing, config: Json) -> Iterator[str]:
    if override := thing.get("override"):
        if not str(override.get("reason") or "").strip():
            yield "it has no reason; say in canary:override.reason why the rule may be broken"
        try:
            end = datetime.fromisoformat(str(override.get("until")))
        except ValueError:
            yield f"its end is {override.get('until')!r}; set canary:override.until to a time"
        else:
            if (end if end.tzinfo else end.replace(tzinfo=UTC)) > datetime.now(UTC) + weights.LONGEST_OVERRIDE:
                yield "it lasts longer than a day, and what lasts is a rule; set canary:override.until earlier"
