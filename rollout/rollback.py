"""Weight 0 and halted, now: nothing comes between, a lock last of all.

The mesh is halted past the engine first, in every rollback: a way that is taken each time is one that works at night.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from policies import weights
from rollout import commits, history, mesh
from rollout.cli import Exit, Stop, changing
from rollout.engine import Failed, Locked
from rollout.site import Site
from rollout.stackfile import StackFile

PATIENCE = 10.0
"""Seconds that an update of ours may take to end after its interrupt."""

WAIT = 900.0
"""Seconds to wait for somebody else's update, with the mesh halted."""

TICK = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Why:
    """Who takes canary back, and why: `by` is hand, judge or alert."""

    reason: str
    by: str = "hand"
    evidence: str | None = None


def rollback(site: Site, why: Why, say: Say, *, without_backend: bool = False, reject: bool = True) -> None:
    """Ends with the mesh off canary and the stack recording it; or raises `Stop` (FAILED) that says what the state is.

    The mesh is halted first, directly: that takes a fraction of a second, and no update.  `without_backend`: then a
    failing update is no failure.  `reject` keeps the images from coming back.
    """
    _Rollback(site, why, say).run(without_backend, reject)


class _Rollback:
    def __init__(self, site: Site, why: Why, say: Say) -> None:
        self.site, self.why, self.say = site, why, say
        self.rejected: list[str] = []
        self.waited_for: set[str] = set()
        self.strategy = site.strategy

    def run(self, without_backend: bool, reject: bool) -> None:
        try:
            self.rejected = list(history.images(self.site.load().settings_raw).values()) if reject else []
        except Stop as error:
            self.say(error.message)
        self.halt()
        try:
            self._edit(reject)
            self._up()
        except Stop as error:
            self.halt()
            self._fail(error, without_backend)
        self.halt("the update has left canary in the route")

    def _edit(self, reject: bool) -> None:
        for last in (False, False, True):
            try:
                edit(file := self.site.load(), reject)
                file.save()
                return
            except Stop:  # somebody else writes it too
                if last:
                    raise

    def _up(self) -> None:
        told = history.message("rollback", self.why.reason, by=self.why.by, evidence=self.why.evidence)
        asked: set[int] = set()
        deadline = time.monotonic() + WAIT
        target: Sequence[str] = ()
        while True:
            try:
                return self.site.engine.up(told, target=target)
            except Locked as error:
                if time.monotonic() > deadline:
                    raise
                self._unlock(error, asked)
            except Failed as error:
                if target or error.refused:
                    raise
                self.say(f"{error.lines[0]}; trying the routes alone, something else may be stuck")
                target = ["**Deployment**" if self.strategy == "replicas" else "**VirtualService**"]

    def _unlock(self, error: Locked, asked: set[int]) -> None:
        """Ends what can be ended of those that hold the lock; else keeps the mesh halted for a while."""
        alive = [holder for holder in error.holders if not holder.dead]
        if error.holders and not alive:
            self.say(f"{error}, which is gone: its lock is cancelled")
            self.site.engine.cancel()
            return
        ours = [one for one in alive if one.ours(self.site.stack) and one.pid not in asked]
        for holder in ours:
            asked.add(holder.pid)
            self.say(f"{error}, which is ours: interrupted")
            try:
                os.kill(holder.pid, signal.SIGINT)
            except ProcessLookupError:
                return
            until = time.monotonic() + PATIENCE
            while not holder.dead and time.monotonic() < until:
                time.sleep(0.1)
        if not ours:
            if str(error) not in self.waited_for:
                self.waited_for.add(str(error))
                self.say(f"{error}: waiting for it, and keeping the mesh halted")
            self.halt(str(error))
            time.sleep(TICK)

    def halt(self, because: str = "") -> None:
        """Halts the mesh directly where it leads to canary."""
        try:
            found = mesh.halt(self.site.client, self.site.access[0], self.rejected, self.strategy)
        except Exception as error:  # noqa: BLE001  whatever it is, the update is still to come
            self.say(f"the mesh could not be halted directly: {error}")
            return
        if found:
            self.say(f"{f'{because}; ' if because else ''}halted {', '.join(found)} directly in the mesh")

    def _fail(self, error: Stop, without_backend: bool) -> None:
        try:
            on = mesh.still_on(self.site.client, self.site.access[0], self.strategy)
            state = f"the route of {', '.join(on)} still leads to canary" if on else "no route leads to canary"
        except Exception as unread:  # noqa: BLE001
            on, state = ["?"], f"the routes could not be read ({unread})"
        text = f"{error.message}\nthe update failed; {state}; the next `pulumi up` with this stack file adopts it"
        if on or not without_backend:
            raise Stop(Exit.FAILED, text) from error
        self.say(text)


def edit(file: StackFile, reject: bool = True) -> None:
    """Weight 0, halted, and canary's images among the rejected ones, in a stack file."""
    found = history.images(file.settings_raw).values()
    file.set("weight", 0)
    file.set("halted", True)
    listed = file.settings_raw.get("rejected")
    known = [str(image) for image in listed] if isinstance(listed, list) else []
    new = [image for image in found if not any(weights.same_image(image, one) for one in known)]
    if reject and new:
        file.set("rejected", [*known, *new])


@click.command
@changing
@click.option("--reason", default="by hand", help="Why; kept with the update.")
@click.option("--break-glass", is_flag=True, help="Without the state backend: the mesh alone will do.")
@click.option("--keep-image", is_flag=True, help="Do not put canary's images on canary:rejected.")
def command(
    stack: str | None, as_json: bool, dry_run: bool, git: bool, reason: str, break_glass: bool, keep_image: bool
) -> None:
    """Weight 0 and halted, at once and from anywhere."""
    site, began, lines = Site.find(stack), time.monotonic(), list[str]()

    def say(text: str) -> None:
        lines.append(text)
        click.echo(text, err=as_json)

    told: dict[str, Any] = {"stack": site.stack, "verdict": "rollback", "reason": reason}
    if dry_run:
        edit(file := site.load(), not keep_image)
        with site.tried(file) as path:
            told["changes"] = site.engine.preview(config=path)
        say(f"would set weight 0 and halted: {told['changes']}")
    else:
        rollback(site, Why(reason=reason), say, without_backend=break_glass, reject=not keep_image)
        told["seconds"] = round(time.monotonic() - began, 2)
        say(f"rolled back in {told['seconds']} s: nobody reaches canary, and nothing rises while canary:halted is true")
        if git:
            told["git"] = commits.agree(site.load().path, history.message("rollback", reason, by="hand"), say)
    if as_json:
        click.echo(json.dumps({**told, "said": lines}, indent=1))
