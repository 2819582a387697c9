"""`rollout explain`: which track a described request gets, by which rule, at which layer; and where readings differ."""

from __future__ import annotations

from typing import Any, Literal, cast

import click

from core import evaluate, record
from rollout import engine
from rollout.cli import Exit, Stop, common
from rollout.site import Site
from rollout.steps import ended


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Stop(Exit.BAD_INPUT, f"{word}: write NAME=VALUE")
        found[name] = value
    return found


def _told(decision: evaluate.Decision) -> dict[str, Any]:
    return {"layer": decision.layer, "route": decision.route, "shares": dict(decision.shares)}


def _route(spec: Any, request: evaluate.Request) -> dict[str, Any]:
    try:
        return _told(evaluate.route(spec, request))
    except ValueError as error:
        return {"layer": "unknown", "route": None, "shares": {}, "why": str(error)}


@click.command
@common
@click.option("--service", help="Default: the first one.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE")
@click.option("--cookie", "cookies", multiple=True, metavar="NAME=VALUE")
@click.option("--query", "queries", multiple=True, metavar="NAME=VALUE")
@click.option("--user", help="Value of the service's user header.")
@click.option("--path", default="/", show_default=True)
@click.option("--method", default="GET", show_default=True)
@click.option("--host", help="Default: the service's own.")
@click.option("--address", help="The viewer's, by which the edge decides, where there is one.")
@click.option("--door", type=click.Choice(["gateway", "mesh"]), help="Default: gateway where the service is public.")
def command(stack: str | None, as_json: bool, service: str | None, user: str | None, **given: Any) -> None:
    """Who serves a described request: by the stack file, by what is recorded, and by the live route."""
    site = Site.find(stack)
    settings = site.settings()
    name = service or next(iter(settings.services), "")
    if name not in settings.services:
        raise Stop(Exit.BAD_INPUT, f"--service: got {name}: known here: {', '.join(settings.services)}")
    about = settings.services[name]
    headers = _pairs(given["headers"]) | ({about.user_header: user} if user is not None else {})
    door = given["door"] or ("gateway" if about.hosts else "mesh")
    request = evaluate.Request(
        door=cast(Literal["gateway", "mesh"], door),
        host=given["host"],
        uri=given["path"],
        method=given["method"],
        headers=headers,
        cookies=_pairs(given["cookies"]),
        query=_pairs(given["queries"]),
    )
    stamp = None
    if settings.edge is not None and door == "gateway":
        if given["address"] is None:
            raise Stop(
                Exit.BAD_INPUT, "--address: got nothing: the edge decides by it; name the viewer's, or --door mesh"
            )
        stamp, request = evaluate.behind_edge(settings, request, given["address"])
    found = {"config": _told(evaluate.decide(name, settings, request))}
    entry: record.Record | None
    try:
        entry = engine.records(site.engine.state()).get(name)
    except engine.Failed as error:
        click.echo(f"the state cannot be read: {error.lines[0]}", err=True)
        entry = None
    if entry is not None and "http" in entry.written.spec:
        found["recorded"] = _route(entry.written.spec, request)
    if spec := (site.live().routes or {}).get(name):
        found["live"] = _route(spec, request)
    shares = [one["shares"] for one in found.values()]
    agreed = all(one == shares[0] for one in shares)
    if not as_json:
        if stamp is not None:
            bucket = "" if stamp.bucket is None else f" {stamp.bucket}"
            click.echo(f"{'edge':9} {stamp.arm}  by {stamp.reason}{bucket}")
        for where, one in found.items():
            split = ", ".join(f"{track} {100 * share:g} %" for track, share in one["shares"].items()) or "nobody (404)"
            click.echo(f"{where:9} {split}  by {one['layer']}: {one['route'] or one.get('why') or 'no route takes it'}")
        if not agreed:
            click.echo("DRIFT     these do not agree; `rollout status` says why")
    ended(
        Exit.DONE if agreed else Exit.DRIFT,
        as_json,
        {"service": name, "door": door, "edge": stamp and vars(stamp), **found},
    )
