"""The change this update makes, decided before the first resource is registered: recorded state against settings.

Refuses what the transition rules forbid, finds hand edits, and says in which order things are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pulumi

from core import conflicts, plan, record, step
from core.model import Settings
from live import Live
from policies import weights


def recorded() -> dict[str, record.Record]:
    """What the last updates of this stack wrote, by service.  Empty on the first one."""
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    # The name waits for the stack's own registration.  On the first update that registration writes the checkpoint, and
    # a file backend keeps a checkpoint's attributes beside it, in a file that a reader can find empty meanwhile.
    registered = pulumi.runtime.get_root_resource()
    name = registered.urn.apply(lambda _: stack) if registered else stack
    answer = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name}).value
    states = ((answer or {}).get("outputs") or {}).values()
    return record.all_of((str(one.get("type")), one.get("outputs") or {}) for one in states)


def decide(settings: Settings, before: Mapping[str, record.Record], live: Live, now: datetime) -> plan.Transition:
    """The transition from `before` to `settings`, as they are in force at `now`.

    Raises `pulumi.RunError`, one line per refusal, when the rules forbid it.
    """
    before = {name: record.adopted(entry, live.notes.get(name, {})) for name, entry in before.items()}
    pairs = step.pairs(settings, {name: entry.route for name, entry in before.items()})
    _refuse_other_cluster(before, live)
    if settings.strategy == "flagger" and before:
        raise pulumi.RunError(
            f"canary:strategy: got 'flagger': this stack has written the route of {', '.join(before)} itself, and "
            "would delete it once Flagger has taken it over; give strategy flagger a stack and a namespace of its own"
        )
    for name in _excepted(settings, pairs, live, now):
        old, new = pairs[name]
        kept = tuple(image for image in new.rejected if not weights.rejection(step.image(settings, name), [image]))
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


def _refuse_other_cluster(before: Mapping[str, record.Record], live: Live) -> None:
    for name, entry in before.items():
        if live.cluster and entry.cluster and live.cluster != entry.cluster:
            raise pulumi.RunError(
                f"kubernetes:context leads to cluster {live.cluster}, but {name} was last written to {entry.cluster}; "
                "point kubernetes:context at that cluster, or use a stack of its own"
            )


def _excepted(settings: Settings, pairs: step.Pairs, live: Live, now: datetime) -> Sequence[str]:
    """Services whose change only the override lets pass; raises where it does not."""
    around = live.around() if settings.strategy == "istio" and any(map(_matters, pairs.values())) else None
    silent = {name: list(conflicts.found(name, settings, around)) if around else [] for name in pairs}
    for name, pair in pairs.items():
        for line in silent[name] if not weights.rises(*pair) else ():
            pulumi.log.warn(f"{name}: {line}")
    verdict = step.decide(settings, pairs, now, ready=live.ready, replicas=live.replicas, silent=silent)
    if verdict.refused:
        raise pulumi.RunError("\n".join(verdict.refused))
    for line in verdict.excepted:
        pulumi.log.warn(line)
    return verdict.broken


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
