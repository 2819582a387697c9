"""One step of a rollout: what is known, what may come next, and the update that makes it so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import click

from core import conflicts, record, split
from core.judge import Verdict
from core.model import Settings
from core.promql import Raw
from core.timeline import Update
from live import Live
from policies import weights
from rollout import commits, engine, history, judge, metrics
from rollout.cli import Exit, Stop, changing
from rollout.rollback import Why, rollback
from rollout.site import Site, now
from rollout.stackfile import StackFile

Say = Callable[[str], None]

SETTLE = 15
"""Seconds after an update whose requests are not counted as its share: what was under way, and a scrape."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A stack at one moment: stack file, state, cluster, and what does not agree among them."""

    settings: Settings
    told: dict[str, Any]
    records: dict[str, record.Record]
    live: Live
    at: datetime
    measured: dict[str, split.Split] = field(default_factory=dict)
    drift: list[str] = field(default_factory=list)

    @property
    def carriers(self) -> list[str]:
        """Services that have a canary, as recorded."""
        return [name for name, entry in self.records.items() if entry.route.canary is not None]

    @property
    def weight(self) -> int:
        """What the furthest service serves, as recorded."""
        return max((entry.route.weight for entry in self.records.values()), default=weights.LOWEST)

    @property
    def halted(self) -> bool:
        """Recorded, or halted directly in the mesh."""
        entries = (record.adopted(one, self.live.notes.get(name, {})) for name, one in self.records.items())
        return any(one.route.halted for one in entries)


@dataclass(frozen=True, kw_only=True)
class Action:
    """What to do now; `text` says why, `weight` is the one to rise to."""

    kind: Literal["idle", "halted", "drift", "rollback", "hold", "rise", "promote"]
    text: str
    weight: int = weights.LOWEST


EXITS = {"idle": Exit.BAD_INPUT, "halted": Exit.HELD, "drift": Exit.DRIFT, "hold": Exit.HELD}


def look(site: Site, source: metrics.Prometheus | None = None) -> View:
    """Reads everything there is to know; what cannot be read of the cluster or of Prometheus is left out."""
    settings, state, moment = site.settings(), site.engine.state(), now()
    if settings.strategy == "flagger":
        raise Stop(Exit.BAD_INPUT, "canary:strategy is flagger: Flagger moves this canary itself")
    view = View(
        settings=settings,
        told=engine.outputs(state),
        records=engine.records(state),
        live=site.live(),
        at=moment,
    )
    view = replace(view, measured=dict(_measured(view, source or metrics.Prometheus(settings.gate.prometheus))))
    return replace(view, drift=list(drift(view)))


def _measured(view: View, source: metrics.Prometheus) -> Iterator[tuple[str, split.Split]]:
    """Canary's share of the requests since the present weight was written, by service, where anything was counted."""
    for name in view.carriers:
        route = view.records[name].route
        window = int((view.at - route.since).total_seconds()) - SETTLE if route.since else 0
        if name not in view.settings.services or window < SETTLE:
            continue
        raw, counts = Raw(view.settings, services=(name,), window=window), []
        try:
            for track in ("stable", "canary"):
                found = source.ask(f"{raw.requests(track)} * {window}", view.at.timestamp())
                counts.append(round(sum(samples[-1][1] for _, samples in found)))
        except metrics.NoData:
            return
        judged = split.judge(counts[0], counts[1], route.weight)
        if (view.settings.services[name].rules or view.settings.edge) and counts[1]:
            # Rules and stamps decide before the weight, and nobody counts apart what they sent.
            judged = replace(judged, state="not enough data")
        yield name, judged


def drift(view: View) -> Iterator[str]:
    """What does not agree, a line each with the way out.  A rise waits for all of it."""
    settings, told = view.settings, view.told
    if view.records:
        pairs: list[tuple[str, Any, Any]] = [
            ("canary:weight", settings.weight, told.get("weight", 0)),
            ("canary:halted", settings.halted, any(entry.route.halted for entry in view.records.values())),
        ]
        for name, service in settings.services.items():
            known = (told.get("services") or {}).get(name, {})
            for version, track in (("stable", service.stable), ("canary", service.canary)):
                pairs.append((f"services.{name}.{version}.image", track and track.image, known.get(version)))
        for key, wanted, recorded in pairs:
            if wanted != recorded:
                yield f"{key}: the stack file says {wanted}, deployed is {recorded}; `git pull`, or `pulumi up`"
    for name, entry in view.records.items():
        if view.live.routes is None or settings.strategy != "istio":
            continue
        spec = view.live.routes.get(name)
        if spec is None:
            yield f"VirtualService {name} is gone from the cluster; `pulumi up` makes it again"
        elif spec != entry.written.spec:
            how = (
                "halted directly" if view.live.notes.get(name, {}).get("canary/halted") == "true" else "edited by hand"
            )
            share = f"it gives canary {record.canary_share(spec)} %, recorded is {entry.route.weight} %"
            yield f"VirtualService {name} was {how}: {share}; `rollout rollback`, or `pulumi up`"
    if settings.strategy == "istio" and view.records:
        around = view.live.around()
        for name in settings.services:
            yield from conflicts.found(name, settings, around)
    for name, judged in view.measured.items():
        if judged.state == "not in force":
            share = f"{100 * (judged.share or 0):.3g} % of the requests, and its weight is {view.weight} %"
            yield f"{name}: canary gets {share}: the split is not in force; see docs/rollout.md"


def decide(view: View, verdict: Verdict) -> Action:
    """The next action; a pure function of what is known."""
    if not view.carriers:
        return Action(kind="idle", text="no canary is deployed; `rollout start SERVICE IMAGE`")
    if view.halted:
        return Action(kind="halted", text="canary:halted is true; `rollout start` with another image begins anew")
    if verdict.kind == "rollback":  # before drift: nothing holds a way down
        return Action(kind="rollback", text=verdict.reason)
    if view.drift:
        return Action(kind="drift", text="; ".join(view.drift))
    promoting = view.weight == weights.HIGHEST
    onward = weights.LOWEST if promoting else weights.next_rung(view.settings.ladder, view.weight)
    if not view.settings.serving:
        return Action(kind="hold", text=f"outside canary:windows.serve ({view.settings.windows.serve})")
    if refused := [line for name in view.carriers for line in _refusals(view, name, onward)]:
        return Action(kind="hold", text="; ".join(dict.fromkeys(refused)))
    if verdict.kind == "hold":
        return Action(kind="hold", text=verdict.reason)
    return Action(kind="promote" if promoting else "rise", text=verdict.reason, weight=onward)


def _refusals(view: View, name: str, onward: int) -> list[str]:
    """What the program would say to the next step; fingerprints stay, since secrets are not read here."""
    old, settings = view.records[name].route, view.settings
    new = replace(old, weight=onward)
    if old.weight == weights.HIGHEST:
        new = replace(old, stable=old.canary or "", canary=None, weight=weights.LOWEST)
    track = settings.services[name].canary
    rejected = weights.rejection(track.image if track else None, [*old.rejected, *settings.rejected])
    return weights.refusals(
        old,
        new,
        now=view.at,
        hold=settings.hold,
        canary_ready=view.live.ready.get(f"{name}-canary"),
        obstacles=[one for one in (settings.windows.obstacle(view.at), rejected) if one],
    )


def update(site: Site, file: StackFile, told: str, packs: Sequence[str] = ()) -> None:
    """Previews the edited stack file, saves it, and updates the stack.

    Raises `Stop`; where the route was not written, the stack file is as before.
    """
    with site.tried(file) as path:
        site.engine.preview(config=path, policy_packs=packs)
    former = file.path.read_text()
    file.save()
    try:
        site.engine.up(told, policy_packs=packs)
    except engine.Failed as error:
        cut = ["interrupted"] if isinstance(error, engine.Interrupted) else []
        lines = [*cut, *error.lines, _left(site, file, former)]
        raise Stop(Exit(error.exit_code), "\n".join(lines)) from error


def _left(site: Site, file: StackFile, former: str) -> str:
    """What a failed update has left, in words; puts the stack file back where that is the truth."""
    try:
        entries = engine.records(site.engine.state()).values()
    except engine.Failed as error:
        return f"what it left is not known ({error.lines[0]}); `rollout status` tells"
    weight = max((entry.route.weight for entry in entries), default=0)
    if str(weight) != str(file.settings_raw.get("weight", 0)) and file.path.read_text() == file.text:
        file.path.write_text(former)
        return f"canary stays at {weight} %, and the stack file is as before"
    return f"canary is at {weight} %; `pulumi up` with this stack file goes on"


@dataclass
class Stepper:
    """Takes a rollout step by step; remembers what it has read of Prometheus."""

    site: Site
    say: Say
    git: bool = False
    packs: Sequence[str] = ()
    source: metrics.Prometheus | None = None
    updates: list[Update] = field(default_factory=list)
    of: Any = None

    def look(self) -> tuple[View, Verdict, Action]:
        """What is known, what the judge says of it, and what comes next."""
        if self.source is None:
            self.source = metrics.Prometheus(self.site.settings().gate.prometheus)
        view = look(self.site, self.source)
        if not self.updates or self.of != view.told:  # nothing of what the judge wants to know changes without them
            self.updates = history.updates(self.site.engine)
            last = self.updates[-1] if self.updates else None
            self.of = view.told if last is None or last.weight == view.weight else None
        verdict = judge.verdict(view.settings, self.updates, view.at, source=self.source, cluster=self._cluster())
        return view, verdict, decide(view, verdict)

    def _cluster(self) -> Any:
        try:
            return self.site.client
        except Exception:  # noqa: BLE001  without it the judge does not know of crashes, and the view says why
            return None

    def act(self, view: View, verdict: Verdict, action: Action) -> Exit:
        """Does what was decided, or says why nothing is done."""
        evidence = f"{verdict.evidence:.3g}"
        match action.kind:
            case "rollback":
                rollback(self.site, Why(reason=action.text, by="judge", evidence=evidence), self.say)
                self.say(f"rolled back at {view.weight} %: {action.text}")
                self.agree("rollback", action.text, evidence)
                return Exit.ROLLED_BACK
            case "rise" | "promote":
                file = self.site.load()
                if action.kind == "rise":
                    file.set("weight", action.weight)
                else:
                    promoted(file)
                verb = "promote" if action.kind == "promote" else "advance"
                told = history.message(verb, action.text, by="judge", evidence=evidence)
                update(self.site, file, told, self.packs)
                self.say(
                    f"{view.weight} % -> {'promoted' if verb == 'promote' else f'{action.weight} %'}: {action.text}"
                )
                self.agree(verb, action.text, evidence)
                return Exit.DONE
        self.say(f"{'held' if action.kind == 'hold' else action.kind} at {view.weight} %: {action.text}")
        return EXITS[action.kind]

    def agree(self, verb: str, text: str, evidence: str | None = None) -> None:
        if self.git:
            commits.agree(self.site.load().path, history.message(verb, text, evidence=evidence), self.say)


def promoted(file: StackFile) -> list[str]:
    """Canary becomes stable, in a stack file: one edit for all services of the train; returns their names."""
    found = []
    for name, service in dict(file.settings_raw.get("services") or {}).items():
        if not (isinstance(service, dict) and service.get("canary")):
            continue
        sized = {"replicas", "autoscale"}  # how many run is no part of what runs
        own = {key: value for key, value in (service.get("stable") or {}).items() if key in sized}
        new = {key: value for key, value in service["canary"].items() if key not in sized}
        file.set(("services", name, "stable"), {**new, **own})
        file.set(("services", name, "canary"), None)
        found.append(name)
    file.set("weight", 0)
    return found


def _packs(function: Any) -> Any:
    text = "Policy pack for previews and updates; may be repeated."
    return click.option("--policy-pack", "packs", multiple=True, help=text)(function)


def ended(code: Exit, as_json: bool, document: dict[str, Any]) -> None:
    """Prints the document, and ends with `code`."""
    if as_json:
        click.echo(json.dumps({**document, "exit": int(code)}, indent=1, default=str))
    if code:
        raise SystemExit(int(code))


def teller(as_json: bool) -> tuple[list[str], Say]:
    """(what was said, the function that says it); beside a JSON document people read standard error."""
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        click.echo(text, err=as_json)

    return lines, say


def _step(only_promote: bool, stack: str | None, as_json: bool, dry_run: bool, git: bool, packs: Sequence[str]) -> None:
    lines, say = teller(as_json)
    stepper = Stepper(Site.find(stack), say, git, packs)
    view, verdict, action = stepper.look()
    if only_promote and action.kind == "rise":
        text = f"canary has {view.weight} %, and promotion needs {weights.HIGHEST} %; `rollout advance`"
        action = Action(kind="hold", text=text)
    code = Exit.DONE
    if dry_run:
        say(f"would {action.kind} at {view.weight} %: {action.text}")
    else:
        code = stepper.act(view, verdict, action)
    told = {"stack": stepper.site.stack, "weight": view.weight, "action": vars(action), "notes": verdict.notes}
    ended(code, as_json, {**told, "said": lines})


@click.command
@changing
@_packs
def advance(**options: Any) -> None:
    """One gated step: up a rung, promotion after the last, or back; or why nothing is done."""
    _step(False, **options)


@click.command
@changing
@_packs
def promote(**options: Any) -> None:
    """Makes canary stable, at 100 % and after the bake, if the judge lets it."""
    _step(True, **options)


@click.command
@changing
@_packs
@click.option("--weight", type=click.IntRange(0, 100), help="First weight; default: the first rung. 0: rules only.")
@click.argument("pairs", nargs=-1, required=True, metavar="SERVICE IMAGE...")
def start(
    stack: str | None,
    as_json: bool,
    dry_run: bool,
    git: bool,
    packs: tuple[str, ...],
    weight: int | None,
    pairs: tuple[str, ...],
) -> None:
    """Deploys IMAGE as the canary of SERVICE, and gives it the first rung of the ladder."""
    lines, say = teller(as_json)
    site = Site.find(stack)
    file, view = site.load(), look(site)
    if len(pairs) % 2:
        raise Stop(Exit.BAD_INPUT, f"{pairs[-1]}: a service and an image each, such as: start web web:2.0")
    wanted = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if unknown := [name for name in wanted if name not in view.settings.services]:
        raise Stop(Exit.BAD_INPUT, f"{unknown[0]}: no such service; there are {', '.join(view.settings.services)}")
    if view.carriers and view.weight:
        raise Stop(Exit.BAD_INPUT, f"a canary has {view.weight} % already; `rollout rollback` ends it")
    if view.drift:
        raise Stop(Exit.DRIFT, "\n".join(view.drift))
    if refused := metrics.refusal(view.settings.gate.checks, "start"):
        raise Stop(Exit.HELD, refused)
    for name, image in wanted.items():
        file.set(("services", name, "canary", "image"), image)
    first = view.settings.ladder[0].weight if weight is None else weight
    file.set("weight", first)
    if view.settings.halted:
        file.set("halted", False)
    site.settings(file)
    text = ", ".join(f"{name} {image}" for name, image in wanted.items())
    for line in judge.outlook(view.settings, wanted, view.at):
        say(line)
    if dry_run:
        with site.tried(file) as path:
            say(f"would start {text} at {first} %: {site.engine.preview(config=path, policy_packs=packs)}")
    else:
        told = history.message("start", text)
        update(site, file, told, packs)
        say(f"started {text} at {first} %")
        if git:
            commits.agree(file.path, told, say)
    ended(Exit.DONE, as_json, {"stack": site.stack, "weight": first, "said": lines})
