"""`rollout status`: what is asked for, what is recorded, what is live and what was measured, side by side."""

from __future__ import annotations

from typing import Any

import click

from core import record
from policies import weights
from rollout import engine, mesh
from rollout.cli import Exit, Stop, common
from rollout.site import Site
from rollout.steps import View, ended, look


def document(site: Site, view: View) -> dict[str, Any]:
    """Everything that `status` shows, as data."""
    settings, entries = view.settings, view.records
    since = min((entry.route.since for entry in entries.values() if entry.route.since), default=None)
    hold = weights.hold_of(settings.ladder, view.weight)
    live = {name: view.live.routes[name] for name in entries if view.live.routes and name in view.live.routes}
    return {
        "stack": site.stack,
        "phase": view.told.get("phase"),
        "plan": [{"weight": step.weight, "hold": step.hold} for step in settings.ladder],
        "config": {"weight": settings.weight, "halted": settings.halted, "hold": settings.hold},
        "recorded": {"weight": view.weight, "halted": any(one.route.halted for one in entries.values())},
        "services": view.told.get("services") or {},
        "rejected": view.told.get("rejected") or [],
        "live": {
            name: 0 if mesh.off(spec.get("http") or []) else record.canary_share(spec) for name, spec in live.items()
        },
        "measured": {name: vars(judged) for name, judged in view.measured.items()},
        "shareOf": "viewers" if settings.edge is not None else "requests",
        "since": since and weights.stamp(since),
        "held": max(0, round(hold - (view.at - since).total_seconds())) if since and view.weight else 0,
        "window": settings.windows.obstacle(view.at),
        "drift": view.drift,
        "halt": mesh.line(settings, site.access[1]),
    }


def ladder(found: dict[str, Any]) -> str:
    """`0  [5]  10  25  50  100`: the rung that is served in brackets."""
    rungs = sorted({0, *(step["weight"] for step in found["plan"]), found["recorded"]["weight"]})
    return "  ".join(f"[{rung}]" if rung == found["recorded"]["weight"] else str(rung) for rung in rungs)


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    config, recorded = found["config"], found["recorded"]
    held = f", held for {found['held']} s more" if found["held"] else ""
    since = f" since {found['since']}" if found["since"] else ""
    told = [
        f"{found['stack']}: {found['phase'] or 'not deployed'}{since}{held}",
        f"plan      {ladder(found)}  (per cent of {found['shareOf']})",
        f"config    weight {config['weight']}{', halted' if config['halted'] else ''}"
        + (f", hold: {config['hold']}" if config["hold"] else ""),
        f"recorded  weight {recorded['weight']}{', halted' if recorded['halted'] else ''}",
    ]
    for name, service in found["services"].items():
        images = service["stable"] + (f" -> {service['canary']}" if service.get("canary") else "")
        live = f"live {found['live'][name]} %" if name in found["live"] else "live: not known"
        one = found["measured"].get(name)
        measured = "measured: nothing yet"
        if one and one["share"] is not None:
            low, high = 100 * one["low"], 100 * one["high"]
            measured = f"measured {100 * one['share']:.3g} % ({low:.3g} to {high:.3g}): {one['state']}"
        told.append(f"{name:9} {images}; {live}; {measured}")
    told += [f"window    a rise {found['window']}"] if found["window"] else []
    told += [f"rejected  {', '.join(found['rejected'])}"] if found["rejected"] else []
    told += [f"DRIFT     {line}" for line in found["drift"]]
    return [*told, "to halt without this command:", found["halt"]]


@click.command
@common
def command(stack: str | None, as_json: bool) -> None:
    """Plan, stack file, record, live route, measured share; exit code 6 if they do not agree."""
    site = Site.find(stack)
    try:
        found = document(site, look(site))
    except engine.Failed as error:  # people want the line that halts all the same
        way = f"`rollout rollback --break-glass` halts without it, or:\n{mesh.line(site.settings(), site.access[1])}"
        raise Stop(Exit.FAILED, f"the state cannot be read: {error.lines[0]}; {way}") from error
    if not as_json:
        click.echo("\n".join(lines(found)))
    ended(Exit.DRIFT if found["drift"] else Exit.DONE, as_json, found)
