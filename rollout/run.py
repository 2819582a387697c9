"""`rollout run`: up the ladder on evidence, with what is going on in sight."""

from __future__ import annotations

import math
import signal
import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.judge import Verdict, clock, percent
from policies import weights
from rollout import engine
from rollout.cli import Exit, Stop, changing
from rollout.site import Site
from rollout.steps import EXITS, Action, Stepper, View, _packs, ended

EVERY = 60.0
"""Seconds after which a line is written though nothing has changed."""

PATIENCE = 6
"""Looks in a row that may find drift: another update may be on its way."""


class Progress:
    """Shows each look: on a terminal in place, elsewhere as lines when something has changed."""

    def __init__(self, console: Console, lines: list[str]) -> None:
        self.console, self.lines = console, lines
        self._screen = Screen(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._last: tuple[Any, ...] = ()
        self._told = -math.inf

    def __enter__(self) -> Progress:
        if self._screen:
            self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.lines.append(text)
        self.console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False, markup=False, soft_wrap=True)

    def show(self, view: View, verdict: Verdict, action: Action, interval: float) -> None:
        """What a look has found."""
        if self._screen:
            self._screen.update(picture(view, verdict, action, interval))
            return
        now = view.weight, action.kind, action.text.partition(";")[0] if action.kind != "hold" else ""
        if now != self._last or time.monotonic() - self._told > EVERY:
            self._last, self._told = now, time.monotonic()
            self.say(f"{view.weight} %: {action.kind}: {action.text} [evidence {verdict.evidence:.2g} : 1]")


def picture(view: View, verdict: Verdict, action: Action, interval: float) -> Group:
    """The ladder, what both tracks did, the evidence meter and the next decision."""
    rungs = Table.grid(padding=(0, 2))
    marks = [(step.weight, clock(step.hold)) for step in view.settings.ladder]
    rungs.add_row(*(f"[reverse] {w} % [/]" if w == view.weight else f"{w} %" for w, _ in marks))
    rungs.add_row(*(f"[dim]{hold}[/]" for _, hold in marks))
    counts = Table("service", "track", "requests", "failed", "share", "measured", box=None, pad_edge=False)
    for name, tally in verdict.tallies.items():
        measured = view.measured.get(name)
        share = f"{100 * measured.share:.3g} %, {measured.state}" if measured and measured.share is not None else "-"
        for track, one in (("canary", tally.canary), ("stable", tally.stable)):
            cells = f"{one.requests:,}", f"{one.failures:,}", percent(one.share()), share if track == "canary" else ""
            counts.add_row(name if track == "canary" else "", track, *cells)
    most = math.log(max(verdict.limit, 2))
    meter = ProgressBar(total=most, completed=max(0.0, min(most, math.log(max(verdict.evidence, 1)))), width=40)
    odds = Table.grid(padding=(0, 1))
    odds.add_row("canary is worse", meter, f"{verdict.evidence:.2g} : 1, rolled back at {verdict.limit:g} : 1")
    hold = Table.grid(padding=(0, 1))
    age = max(0.0, weights.hold_of(view.settings.ladder, view.weight) - verdict.wait)
    whole = max(age + verdict.wait, 1.0)
    hold.add_row("hold           ", ProgressBar(total=whole, completed=min(age, whole), width=40), clock(verdict.wait))
    notes = [Text(f"  {note}", style="dim") for note in verdict.notes]
    head = Text(
        f"{view.told.get('phase', '')} at {view.weight} %  ({view.at:%H:%M:%S} UTC, looks every {interval:g} s)"
    )
    return Group(head, rungs, counts, odds, hold, Text(f"{action.kind}: {action.text}", style="bold"), *notes)


@click.command
@changing
@_packs
@click.option("--interval", default=10.0, show_default=True, help="Seconds between two looks.")
@click.option("--for", "limit", type=float, help="Seconds after which it stops, wherever it is.")
def command(
    stack: str | None,
    as_json: bool,
    dry_run: bool,
    git: bool,
    packs: tuple[str, ...],
    interval: float,
    limit: float | None,
) -> None:
    """Walks the ladder until canary is promoted or rolled back."""
    lines: list[str] = []
    with Progress(Console(stderr=as_json), lines) as progress:
        stepper = Stepper(Site.find(stack), progress.say, git, packs)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = walk(stepper, progress, interval, limit, dry_run)
        except KeyboardInterrupt:
            code = Exit.FAILED
            progress.say("interrupted between two updates: canary stays where it is; `rollout run` goes on from there")
        except Stop as error:
            code = Exit(error.exit_code)
            progress.say(error.message)
    ended(code, as_json, {"stack": stepper.site.stack, "said": lines})


def walk(stepper: Stepper, progress: Progress, interval: float, limit: float | None, dry_run: bool) -> Exit:
    """Looks and acts until there is an end; the code of that end."""
    began, moved, drifting = time.monotonic(), False, 0
    while True:
        try:
            view, verdict, action = stepper.look()
        except engine.Failed as error:
            progress.say(f"the state cannot be read, canary stays where it is: {error.lines[0]}")
            if limit is not None and time.monotonic() - began > limit:
                return Exit.HELD
            time.sleep(interval)
            continue
        progress.show(view, verdict, action, interval)
        drifting = drifting + 1 if action.kind == "drift" else 0
        if dry_run:
            progress.say(f"would {action.kind}: {action.text}")
            return EXITS.get(action.kind, Exit.DONE)
        if action.kind in ("rise", "promote", "rollback"):
            try:
                code = stepper.act(view, verdict, action)
            except Stop as error:
                if error.exit_code not in (Exit.LOCKED, Exit.HELD):
                    raise
                progress.say(error.message)  # both pass
            else:
                if action.kind != "rise":
                    return code
                moved = True
                continue
        elif action.kind == "halted":
            progress.say("somebody else has halted this rollout" if moved else action.text)
            return Exit.ROLLED_BACK if moved else Exit.HELD
        elif action.kind == "idle":
            progress.say("somebody else has ended this rollout" if moved else action.text)
            return Exit.DONE if moved else Exit.BAD_INPUT
        elif drifting >= PATIENCE:
            progress.say(action.text)
            return Exit.DRIFT
        if limit is not None and time.monotonic() - began > limit:
            progress.say(f"stopped after {limit:g} s at {view.weight} %: {action.text}")
            return Exit.HELD
        moved = True
        time.sleep(interval)
