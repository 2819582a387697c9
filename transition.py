"""The change this update makes, decided before the first resource is registered: recorded state against settings.

Refuses what the transition rules forbid, finds hand edits, and says in which order things are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pulumi

from core import capacity, conflicts, plan, record
from core.model import Settings
from live import Live
from policies import weights

RECORDING = (
    "kubernetes:networking.istio.io/v1:VirtualService",
    "kubernetes:networking.istio.io/v1:DestinationRule",
    "kubernetes:core/v1:Service",
)
"""What carries the record: the route, and its rule; without a mesh the Service."""


def recorded() -> dict[str, record.Record]:
    """What the last updates of this stack wrote, by service.  Empty on the first one."""
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    # The name waits for the stack's own registration.  On the first update that registration writes the checkpoint, and
    # a file backend keeps a checkpoint's attributes beside it, in a file that a reader can find empty meanwhile.
    registered = pulumi.runtime.get_root_resource()
    name = registered.urn.apply(lambda _: stack) if registered else stack
    answer = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name}).value
    inputs: dict[str, dict[str, Any]] = {kind: {} for kind in RECORDING}
    for state in ((answer or {}).get("outputs") or {}).values():
        kind = str(state.get("type"))
        if kind in inputs:
            # Not the inputs: after a write that failed those hold what was refused, not what serves.
            inputs[kind][state["outputs"]["metadata"]["name"]] = state["outputs"]
    found = {}
    routes, rules, services = (inputs[kind] for kind in RECORDING)
    for service, applied in {**services, **routes}.items():
        if entry := record.read(applied, rules.get(service)):
            found[service] = entry
    return found


def decide(settings: Settings, before: Mapping[str, record.Record], live: Live, now: datetime) -> plan.Transition:
    """The transition from `before` to `settings`, as they are in force at `now`.

    Raises `pulumi.RunError`, one line per refusal, when the rules forbid it.
    """
    before = {name: record.adopted(entry, live.notes.get(name, {})) for name, entry in before.items()}
    pairs = {}
    for name in settings.services:
        old = before[name].route if name in before else None
        pairs[name] = old, record.wanted(name, settings, old)
    _refuse_other_cluster(before, live)
    if settings.strategy == "flagger" and before:
        raise pulumi.RunError(
            f"canary:strategy: got 'flagger': this stack has written the route of {', '.join(before)} itself, and "
            "would delete it once Flagger has taken it over; give strategy flagger a stack and a namespace of its own"
        )
    for name in _excepted(settings, pairs, live, now):
        old, new = pairs[name]
        kept = tuple(image for image in new.rejected if not weights.rejection(_canary(settings, name), [image]))
        pairs[name] = old, replace(new, rejected=kept)
    notes: dict[str, Mapping[str, str]] = {}
    rule_notes: dict[str, Mapping[str, str]] = {}
    for name, (old, new) in pairs.items():
        entry = before.get(name)
        cluster = live.cluster or (entry.cluster if entry else None)
        found = record.notes(old, new, configured=settings.weight, now=now, cluster=cluster)
        found |= record.edge_notes(name, settings)
        if settings.strategy == "replicas":
            notes[name], rule_notes[name] = found | record.share_note(new), {}
            continue
        notes[name] = found | _mended("VirtualService", name, entry.written if entry else None, live.routes)
        rule_notes[name] = _mended("DestinationRule", name, entry.rule if entry else None, live.rules)
    at_least = {
        name: live.replicas[f"{name}-canary"]
        for name, pair in pairs.items()
        if weights.promotes(*pair) and f"{name}-canary" in live.replicas
    }
    shares = {name: entry.route.weight for name, entry in before.items()}
    return plan.Transition(notes, rule_notes, plan.order(pairs), at_least, shares)


def _canary(settings: Settings, name: str) -> str | None:
    track = settings.services[name].canary
    return track.image if track else None


def _refuse_other_cluster(before: Mapping[str, record.Record], live: Live) -> None:
    for name, entry in before.items():
        if live.cluster and entry.cluster and live.cluster != entry.cluster:
            raise pulumi.RunError(
                f"kubernetes:context leads to cluster {live.cluster}, but {name} was last written to {entry.cluster}; "
                "point kubernetes:context at that cluster, or use a stack of its own"
            )


def _excepted(
    settings: Settings,
    pairs: Mapping[str, tuple[weights.Route | None, weights.Route]],
    live: Live,
    now: datetime,
) -> Sequence[str]:
    """Services whose change only the override lets pass; raises where it does not."""
    lines: dict[str, list[str]] = {}
    broken: dict[str, tuple[int, int]] = {}
    override = settings.override.rule() if settings.override else None
    window = settings.windows.obstacle(now)
    around = live.around() if settings.strategy == "istio" and any(map(_matters, pairs.values())) else None
    for name, (old, new) in pairs.items():
        silent = list(conflicts.found(name, settings, around)) if around else []
        for line in silent if not weights.rises(old, new) else ():
            pulumi.log.warn(f"{name}: {line}")
        deployed = old is not None and old.canary is not None and old.canary == new.canary
        found = weights.refusals(
            old,
            new,
            now=now,
            hold=settings.hold,
            canary_ready=live.ready.get(f"{name}-canary") if deployed else None,
            obstacles=[
                obstacle
                for obstacle in (
                    window,
                    capacity.shortage(settings, name, live.replicas.get(f"{name}-stable")),
                    weights.rejection(_canary(settings, name), [*new.rejected, *settings.rejected]),
                    *(f"would not be in force: {line}" for line in silent),
                )
                if obstacle
            ],
        )
        if found:
            broken[name], lines[name] = (0 if old is None else old.weight, new.weight), found
    if not lines:
        return ()
    if override is None or not weights.covered(override, broken, now):
        texts = [weights.refusal_text(name, found, *broken[name], override, now) for name, found in lines.items()]
        raise pulumi.RunError("\n".join(texts))
    for name, found in lines.items():
        for line in found:
            pulumi.log.warn(f"allowed by canary:override ({override.reason}): {name}: {line}")
    return list(broken)


def _matters(pair: tuple[weights.Route | None, weights.Route]) -> bool:
    """Whether it is of interest if the route is in force; for a way down nothing more is read."""
    old, new = pair
    return old is None or weights.rises(old, new) or (new.weight > weights.LOWEST and not weights.falls(old, new))


def _mended(kind: str, name: str, written: record.Written | None, live: Mapping[str, Any] | None) -> dict[str, str]:
    """The counters to write: one of them higher than before when the live object is not what was written last."""
    if written is None:
        return record.Written({}, 0).notes
    if live is None or live.get(name) == written.spec:
        return written.notes
    if name not in live:
        pulumi.log.warn(f"{kind} {name} is gone from the cluster; this update makes it again")
        return replace(written, restored=written.restored + 1).notes
    pulumi.log.warn(f"{kind} {name} was edited by hand; this update writes it again")
    return replace(written, repairs=written.repairs + 1).notes
