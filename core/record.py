"""What an update leaves behind for the next one, and what the next one reads of it.

The record lives on the VirtualService, next to the route it describes: if the route was not written, neither was the
record.  The engine hands back the inputs of the last successful write, so this works in preview too and without a
cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from core import edge, routes
from core.model import Settings
from policies import weights

PREFIX = "canary/"
REPAIRS = f"{PREFIX}repairs"
RESTORED = f"{PREFIX}restored"

RECORDING = (
    "kubernetes:networking.istio.io/v1:VirtualService",
    "kubernetes:networking.istio.io/v1:DestinationRule",
    "kubernetes:core/v1:Service",
)
"""What carries the record: the route, and its rule; without a mesh the Service."""


@dataclass(frozen=True)
class Written:
    """An object as last written: its spec, how often a hand edit of it was taken back, and how often it was made
    again after somebody had deleted it."""

    spec: Mapping[str, Any]
    repairs: int
    restored: int = 0

    @property
    def notes(self) -> dict[str, str]:
        """The annotations by which the engine sees that a hand edit, or a deletion, has to be taken back."""
        found = {REPAIRS: str(self.repairs)}
        return found | ({RESTORED: str(self.restored)} if self.restored else {})


@dataclass(frozen=True)
class Record:
    """What the last update wrote for one service: `configured` is its settings' weight, `rule` its DestinationRule."""

    route: weights.Route
    configured: int
    cluster: str | None
    written: Written
    rule: Written | None


def _notes(inputs: Mapping[str, Any]) -> dict[str, str]:
    written = inputs.get("metadata", {}).get("annotations", {})
    return {key.removeprefix(PREFIX): str(value) for key, value in written.items() if key.startswith(PREFIX)}


def _written(inputs: Mapping[str, Any]) -> Written:
    found = _notes(inputs)
    return Written(inputs["spec"], _number(found.get("repairs", ""), 0), _number(found.get("restored", ""), 0))


def canary_share(spec: Mapping[str, Any]) -> int:
    """Per cent that the last route of a VirtualService gives canary; Istio divides by the sum of the weights."""
    legs = ((spec.get("http") or [{}])[-1].get("route")) or []
    given = [(leg.get("destination", {}).get("subset"), int(leg.get("weight") or 0)) for leg in legs]
    if len(given) == 1:
        return weights.HIGHEST if given[0][0] == "canary" else weights.LOWEST
    total = sum(weight for _, weight in given)
    return (
        round(weights.HIGHEST * sum(weight for subset, weight in given if subset == "canary") / total) if total else 0
    )


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isdigit() else otherwise


def _words(found: Mapping[str, str], key: str) -> frozenset[str]:
    return frozenset(filter(None, found.get(key, "").split(",")))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, weights.STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _ladder(text: str) -> tuple[weights.Step, ...]:
    try:
        return weights.ladder_from_text(text)
    except ValueError:
        return ()


def read(virtual_service: Mapping[str, Any], destination_rule: Mapping[str, Any] | None) -> Record | None:
    """The record in both objects as last written; None where it is none of ours.

    Hands may have been on them (a refresh records hand edits too): whatever stands there, reading it does not fail.
    """
    found = _notes(virtual_service)
    if "stable" not in found:
        return None
    spec = virtual_service["spec"]
    opened, shielded = routes.exposure(spec.get("http") or [])
    weight = canary_share(spec) if "http" in spec else min(_number(found.get("share", ""), 0), weights.HIGHEST)
    route = weights.Route(
        weight=weight,
        stable=found["stable"],
        canary=found.get("canary") or None,
        former=found.get("former") or None,
        halted=found.get("halted") == "true",
        ports=found.get("ports", ""),
        steps=_ladder(found.get("steps", "")),
        opened=opened | _words(found, "opened"),
        shielded=shielded | _words(found, "shielded"),
        since=_moment(found.get("since", "")),
        reached=_number(found.get("reached", ""), 0),
        rejected=tuple(filter(None, found.get("rejected", "").split(","))),
    )
    rule = _written(destination_rule) if destination_rule else None
    return Record(
        route,
        _number(found.get("weight", ""), weight),
        found.get("cluster") or None,
        _written(virtual_service),
        rule,
    )


def all_of(states: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Record]:
    """The records of a stack by service, from its resources' types and outputs.

    Not from inputs: after a write that failed those hold what was refused, not what serves.
    """
    kinds: dict[str, dict[str, Any]] = {kind: {} for kind in RECORDING}
    for kind, outputs in states:
        if kind in kinds and "metadata" in outputs:
            kinds[kind][outputs["metadata"]["name"]] = outputs
    routes, rules, services = kinds.values()
    found = {name: read(applied, rules.get(name)) for name, applied in {**services, **routes}.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def adopted(entry: Record, notes: Mapping[str, str]) -> Record:
    """The record with what a direct halt has left on the live route (its annotations), which the state does not know.

    Without it a checkout that still asks for a share would take the halt for a hand edit, and take it back.
    """
    if notes.get(f"{PREFIX}halted") != "true" or entry.route.halted:
        return entry
    images = list(filter(None, notes.get(f"{PREFIX}rejected", "").split(",")))
    rejected = weights.remembered(entry.route.rejected, images)
    return replace(entry, route=replace(entry.route, weight=weights.LOWEST, halted=True, rejected=rejected))


def wanted(name: str, settings: Settings, old: weights.Route | None = None) -> weights.Route:
    """The route that the settings ask for after `old`, what is remembered of which goes on."""
    service = settings.services[name]
    opened, shielded = routes.exposure(routes.virtual_service_spec(name, settings)["http"])
    opened |= edge.opened(name, settings, old.opened if old else frozenset())
    shielded |= edge.shielded(name, settings, old.shielded if old else frozenset())
    own = {weights.repository(track.image) for _, track in service.tracks()}
    listed = [image for image in settings.rejected if weights.repository(image) in own]
    route = weights.Route(
        weight=settings.effective_weight if service.canary is not None else 0,
        stable=settings.fingerprint(name, "stable") or "",
        canary=settings.fingerprint(name, "canary"),
        halted=settings.halted,
        ports=f"{service.port}:{service.target_port}" + ("" if settings.strategy == "istio" else ", without a mesh"),
        steps=settings.ladder,
        opened=opened,
        shielded=shielded,
        rejected=weights.remembered(old.rejected if old else (), listed),
    )
    closed = service.canary is not None and not settings.serving and not settings.halted
    return replace(route, reached=min(settings.weight, weights.reach(old, route)) if closed else 0)


def edge_notes(name: str, settings: Settings) -> dict[str, str]:
    """What the edge opens and shields: it is not in the route, and a wider list has to be told from a narrower one."""
    found = {"opened": edge.opened(name, settings), "shielded": edge.shielded(name, settings)}
    return {f"{PREFIX}{key}": ",".join(sorted(words)) for key, words in found.items() if words}


def share_note(new: weights.Route) -> dict[str, str]:
    """The weight, for an object that has no routes to read it from."""
    return {f"{PREFIX}share": str(new.weight)}


def notes(
    old: weights.Route | None,
    new: weights.Route,
    *,
    configured: int,
    now: datetime,
    cluster: str | None,
) -> dict[str, str]:
    """The record to write with `new`; `configured` is the weight of the settings, which `halted` makes void."""
    found = {
        "weight": str(configured),
        "stable": new.stable,
        "canary": new.canary or "",
        "former": weights.former(old, new) or "",
        "halted": str(new.halted).lower(),
        "ports": new.ports,
        "steps": weights.ladder_text(new.steps),
        "since": weights.stamp(weights.since(old, new, now)),
        "cluster": cluster or "",
    }
    if new.reached:
        found["reached"] = str(new.reached)
    if new.rejected:
        found["rejected"] = ",".join(new.rejected)
    return {f"{PREFIX}{key}": value for key, value in found.items()}
