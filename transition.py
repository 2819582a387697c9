"""The change this update makes, decided before the first resource is registered: recorded state against settings.

Refuses what the transition rules forbid, finds hand edits, and says in which order things are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pulumi

from core import plan, record
from core.model import Settings
from live import Live
from policies import weights

ISTIO = "kubernetes:networking.istio.io/v1"


def recorded() -> dict[str, record.Record]:
    """What the last updates of this stack wrote, by service.  Empty on the first one."""
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    # The name waits for the stack's own registration.  On the first update that registration writes the checkpoint, and
    # a file backend keeps a checkpoint's attributes beside it, in a file that a reader can find empty meanwhile.
    registered = pulumi.runtime.get_root_resource()
    name = registered.urn.apply(lambda _: stack) if registered else stack
    answer = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name}).value
    inputs: dict[str, dict[str, Any]] = {"VirtualService": {}, "DestinationRule": {}}
    for state in ((answer or {}).get("outputs") or {}).values():
        group, _, kind = str(state.get("type")).rpartition(":")
        if group == ISTIO and kind in inputs:
            # Not the inputs: after a write that failed those hold what was refused, not what serves.
            inputs[kind][state["outputs"]["metadata"]["name"]] = state["outputs"]
    found = {}
    for name, applied in inputs["VirtualService"].items():
        if entry := record.read(applied, inputs["DestinationRule"].get(name)):
            found[name] = entry
    return found


def decide(
    settings: Settings, before: Mapping[str, record.Record], live: Live, now: datetime | None = None
) -> plan.Transition:
    """The transition from `before` to `settings`.

    Raises `pulumi.RunError`, one line per refusal, when the rules forbid it.
    """
    now = now or datetime.now(UTC).replace(microsecond=0)
    pairs = {name: (_route(before.get(name)), record.wanted(name, settings)) for name in settings.services}
    _refuse_other_cluster(before, live)
    _refuse_forbidden(settings, pairs, live, now)
    notes, rule_notes = {}, {}
    for name, (old, new) in pairs.items():
        entry = before.get(name)
        repairs = rule_repairs = 0
        cluster = live.cluster
        if entry is not None:
            repairs = _repairs("VirtualService", name, entry.written, live.routes)
            rule_repairs = _repairs("DestinationRule", name, entry.rule, live.rules)
            cluster = live.cluster or entry.cluster
        notes[name] = record.notes(old, new, configured=settings.weight, now=now, cluster=cluster, repairs=repairs)
        rule_notes[name] = record.repair_note(rule_repairs)
    return plan.Transition(notes, rule_notes, plan.order(pairs))


def _route(entry: record.Record | None) -> weights.Route | None:
    return None if entry is None else entry.route


def _refuse_other_cluster(before: Mapping[str, record.Record], live: Live) -> None:
    for name, entry in before.items():
        if live.cluster and entry.cluster and live.cluster != entry.cluster:
            raise pulumi.RunError(
                f"kubernetes:context leads to cluster {live.cluster}, but {name} was last written to {entry.cluster}; "
                "point kubernetes:context at that cluster, or use a stack of its own"
            )


def _refuse_forbidden(
    settings: Settings,
    pairs: Mapping[str, tuple[weights.Route | None, weights.Route]],
    live: Live,
    now: datetime,
) -> None:
    lines: list[str] = []
    broken: dict[str, tuple[int, int]] = {}
    for name, (old, new) in pairs.items():
        deployed = old is not None and old.canary is not None and old.canary == new.canary
        ready = live.ready.get(f"{name}-canary") if deployed else None
        if found := weights.refusals(old, new, now=now, hold=settings.hold, canary_ready=ready):
            broken[name] = (0 if old is None else old.weight, new.weight)
            lines.append(weights.refusal_text(name, found, *broken[name]))
    if not lines:
        return
    override = settings.override.rule() if settings.override else None
    if override is None or not weights.covered(override, broken, now):
        raise pulumi.RunError("\n".join(lines))
    for line in lines:
        pulumi.log.warn(f"allowed by canary:override ({override.reason}): {line}")


def _repairs(kind: str, name: str, written: record.Written | None, live: Mapping[str, Any] | None) -> int:
    """The counter to write: one more than before when the live object is not what was written last."""
    if written is None:
        return 0
    if live is None or live.get(name) == written.spec:
        return written.repairs
    if name not in live:
        # An update of an object that is not there fails; the engine has to learn first that it is gone.
        pulumi.log.warn(f"{kind} {name} is gone from the cluster; `pulumi refresh`, then `pulumi up` writes it again")
        return written.repairs
    pulumi.log.warn(f"{kind} {name} was edited by hand; this update writes it again")
    return written.repairs + 1
