"""Every update of a stack as the engine's backend keeps it, those of a bare `pulumi up` included."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from core import checks
from core.timeline import Update
from policies import weights
from rollout import stackfile
from rollout.cli import Exit, Stop, common
from rollout.engine import Engine
from rollout.site import PROJECT, Site, now

LIMIT = 200
"""Updates that are read; a rollout has about ten."""

_WORD = "Rollout-"


def message(verdict: str, reason: str, **more: object) -> str:
    """What an update is told with: a line for people, then trailers as Git has them, which `said` reads."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    more["who"] = f"{user}@{socket.gethostname()}"
    words = {"verdict": verdict, "reason": reason, **{key: value for key, value in more.items() if value is not None}}
    lines = [f"{_WORD}{key.capitalize()}: {' '.join(str(value).split())}" for key, value in words.items()]
    return "\n".join([f"rollout: {verdict}: {reason}".splitlines()[0], "", *lines])


def said(text: str) -> dict[str, str]:
    """The trailers of `message`; empty for updates that others ran."""
    found = (line.removeprefix(_WORD).partition(": ") for line in text.splitlines() if line.startswith(_WORD))
    return {key.lower(): value for key, _, value in found}


def updates(engine: Engine, limit: int = LIMIT) -> list[Update]:
    """The last updates, oldest first."""
    return timeline([vars(one) for one in engine.history(limit)])


def timeline(entries: Sequence[Mapping[str, Any]]) -> list[Update]:
    """From the engine's entries, newest first as it gives them.

    A file backend numbers no update, so they are counted.  An update that failed may have stopped before it wrote the
    route: it counts as what both it and the one before it gave canary at most.
    """
    found: list[Update] = []
    kept = [one for one in reversed(entries) if one["kind"] in ("update", "destroy")]
    for number, one in enumerate(kept, 1):
        about, before = one["environment"], found[-1] if found else None
        images: Mapping[str, Mapping[str, str]]
        weight, halted, images = (0, False, {}) if one["kind"] == "destroy" else _asked(one)
        changed = any(count for kind, count in (one["resource_changes"] or {}).items() if kind != "same")
        if one["result"] != "succeeded":
            unchanged = before is not None and not changed
            if before is not None and (unchanged or before.weight < weight):
                weight, halted, images = before.weight, before.halted, before.images
            elif before is None:
                weight, images = 0, {}
        found.append(
            Update(
                version=one["version"] or number,
                began=_utc(one["start_time"]),
                ended=_utc(one["end_time"]) if one["end_time"] else None,
                result=str(one["result"]),
                weight=weight,
                halted=halted,
                images=images,
                message=one["message"].partition("\n")[0],
                author=about.get("git.author") or about.get("git.committer") or "",
                commit=about.get("git.head", "") + ("+" if about.get("git.dirty") == "true" else ""),
                said=said(one["message"]),
            )
        )
    return found


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _asked(one: Mapping[str, Any]) -> tuple[int, bool, dict[str, dict[str, str]]]:
    """(effective weight, halted, images) of the configuration of an update; the engine does not tell its secrets."""
    secret = stackfile.SEALED + 16 * "0"
    raw = checks.raw({key: secret if value.secret else value.value for key, value in one["config"].items()}, PROJECT)
    try:
        settings = checks.parse(raw)[0].at(_utc(one["start_time"]))
    except checks.SettingsError:  # what an earlier version of the program took, or the program refused
        return _plainly(raw)
    tracks = {name: dict(service.tracks()) for name, service in settings.services.items()}
    images = {name: {version: track.image for version, track in found.items()} for name, found in tracks.items()}
    canaries = any("canary" in found for found in tracks.values())
    return settings.effective_weight if canaries else weights.LOWEST, settings.halted, images


def _plainly(raw: Mapping[str, Any]) -> tuple[int, bool, dict[str, dict[str, str]]]:
    stable, canary = (images(raw, track) for track in ("stable", "canary"))
    found = {name: {"stable": stable.get(name, ""), "canary": image} for name, image in canary.items()}
    weight = str(raw.get("weight", weights.LOWEST))
    return int(weight) if found and weight.isdecimal() else 0, str(raw.get("halted")).lower() == "true", found


def images(raw: Mapping[str, Any], track: str = "canary") -> dict[str, str]:
    """Images of a track, by service, in a raw configuration, whatever else is wrong with it."""
    services = raw.get("services")
    tracks = (
        {name: one.get(track) for name, one in services.items() if isinstance(one, dict)}
        if isinstance(services, dict)
        else {}
    )
    return {name: str(one["image"]) for name, one in tracks.items() if isinstance(one, dict) and one.get("image")}


def plain(update: Update) -> dict[str, Any]:
    """An update for `--json`."""
    times = {"began": weights.stamp(update.began), "ended": update.ended and weights.stamp(update.ended)}
    return {**vars(update), **times, "said": dict(update.said)}


@click.command
@common
@click.option("--limit", default=20, show_default=True, help="Updates to show, the last ones.")
@click.option(
    "--html", "file", type=click.Path(path_type=Path), help="Write the last rollout, as a page, to this file."
)
def command(stack: str | None, as_json: bool, limit: int, file: Path | None) -> None:
    """Every update: who, when, weight, images, commit, verdict and reason."""
    site = Site.find(stack)
    if file:
        from rollout.collect import collect
        from rollout.page import render

        text = render(collect(site.settings(), site.stack, updates(site.engine), now()))
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Stop(Exit.FAILED, f"{file} cannot be written: {error.strerror}") from error
    found = updates(site.engine, limit)
    if as_json:
        click.echo(json.dumps([plain(one) for one in found], indent=1))
        return
    for one in found:
        state = "halted" if one.halted else f"{one.weight} %"
        images = " ".join(
            f"{name} {tracks.get('stable', '-')}" + (f" -> {tracks['canary']}" if "canary" in tracks else "")
            for name, tracks in one.images.items()
        )
        commit = one.commit[:8] + ("+" if one.commit.endswith("+") else "")
        who = f"{one.said.get('who') or one.author or '?'} {commit}"
        why = one.said.get("reason") or one.message
        verdict = one.said.get("verdict", "")
        cells = [str(one.version), weights.stamp(one.began), one.result, state, images, who, verdict, why]
        click.echo("  ".join(filter(None, cells)))
