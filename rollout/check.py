"""`rollout check`: what the stack files of a pull request would do, and whether they may."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from core import checks, edge, matches, record, routes, specs, step, workload
from core.model import Rule, Service, Settings
from policies import weights
from rollout import stackfile
from rollout.cli import Exit, Stop

PATIENCE = 15
"""Seconds for the CLI to say what is recorded live."""

LOOKED_BACK = 20
"""Versions of a stack file that are looked at to find since when, and what stable ran before."""

LONGEST_PREVIEW = 20_000
"""Characters; a comment on GitHub holds 65,536."""

MOST_NAMES = 10

SCHEMA = Path(__file__).parent.parent / "schema" / "stack.schema.json"
PREVIEW = "pulumi preview --policy-pack policies --color never --non-interactive"

ENDS = {"allowed": Exit.DONE, "held": Exit.HELD, "refused": Exit.BAD_INPUT, "unusable": Exit.BAD_INPUT}
"""From the best to the worst: the worst of all stacks is what the command ends with."""

Report = dict[str, Any]
Routes = Mapping[str, weights.Route]
Outputs = Mapping[str, Any]


def _moment(_: object, __: object, text: str | None) -> datetime:
    try:
        found = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except ValueError:
        raise click.BadParameter("must be a time such as 2026-12-18T09:00:00Z") from None


@click.command()
@click.option("--base", required=True, help="What the work tree is compared with: origin/main, or any commit.")
@click.option("--stack", "stacks", multiple=True, help="Only this one; default: all whose file differs.")
@click.option("--preview", "previews", multiple=True, metavar="[STACK=]FILE", help="Output of `pulumi preview`.")
@click.option("--live", "lives", multiple=True, metavar="[STACK=]FILE", help="Of `pulumi stack output --json`.")
@click.option("--at", "now", callback=_moment, help="Decide as of this time; default: now.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    base: str, stacks: Sequence[str], previews: Sequence[str], lives: Sequence[str], now: datetime, as_json: bool
) -> None:
    """Says in Markdown what changed stack files would do: who is newly exposed, from when it may happen, the undo.

    Ends with 0 if all of it may happen now, 5 if it may later, 2 if a file is unusable or a rule refuses.
    """
    if not Path("Pulumi.yaml").is_file():
        raise Stop(
            Exit.BAD_INPUT, "there is no Pulumi.yaml here, so no stack files either; run it in the project's folder"
        )
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}").strip()
    if not commit:
        raise Stop(Exit.BAD_INPUT, f"--base: got {base!r}: no commit of this repository; fetch it, with its history")
    told = _git("diff", "--name-only", "--relative", "--no-renames", "-z", commit, "--", "Pulumi.*.yaml")
    told += _git("ls-files", "--others", "--exclude-standard", "-z", "--", "Pulumi.*.yaml")
    changed = {_stack(Path(name)): Path(name) for name in sorted(told.split("\0")) if name}
    chosen = {name: changed.get(name, Path(f"Pulumi.{name}.yaml")) for name in stacks or changed}
    if len(chosen) > 1 and any("=" not in one for one in [*previews, *lives]):
        raise click.UsageError(f"several stacks: {', '.join(chosen)}; write STACK=FILE")
    asked = {name: None if _given(name, lives) else _ask(name) for name in chosen}
    reports = [
        _report(file, commit, now, _live(_given(name, lives), asked[name]), _given(name, previews))
        for name, file in chosen.items()
    ]
    whole = {"base": base, "commit": commit, "at": weights.stamp(now), "stacks": reports}
    click.echo(json.dumps(whole, indent=2) if as_json else markdown(whole))
    worst = max((one["verdict"] for one in reports), key=list(ENDS).index, default="allowed")
    click.get_current_context().exit(ENDS[worst])


def _stack(file: Path) -> str:
    return file.name.removeprefix("Pulumi.").removesuffix(".yaml")


def _git(*words: str) -> str:
    """What git says; nothing where it finds nothing."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Stop(Exit.BAD_INPUT, "git is not on the PATH, and the base is read with it; install git") from None
    return done.stdout if done.returncode == 0 else ""


# --- what is live ---


def _given(stack: str, given: Sequence[str]) -> Path | None:
    for one in given:
        name, named, file = one.rpartition("=")
        if not named or name == stack:
            if not Path(file).is_file():
                raise Stop(Exit.BAD_INPUT, f"{file}: there is no such file")
            return Path(file)
    return None


def _ask(stack: str) -> subprocess.Popen[str] | None:
    """The CLI on its way to tell the recorded outputs: it takes its time while we do our part."""
    if shutil.which("pulumi") is None:
        return None
    words = ["pulumi", "stack", "output", "--json", "--non-interactive", "--stack", stack]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def _live(file: Path | None, asked: subprocess.Popen[str] | None) -> tuple[Outputs | None, str]:
    """(stack outputs, where they are from), or (None, why there are none)."""
    try:
        if file is not None:
            return json.loads(file.read_text()), file.name
        if asked is None:
            return None, "pulumi is not on the PATH"
        out, said = asked.communicate(timeout=PATIENCE)
        return (None, (said.splitlines() or ["pulumi failed"])[0]) if asked.returncode else (json.loads(out), "pulumi")
    except subprocess.TimeoutExpired:
        asked.kill() if asked else None
        return None, f"pulumi said nothing in {PATIENCE} s"
    except ValueError:
        if file is None:
            return None, "pulumi answered with no JSON"
        raise Stop(
            Exit.BAD_INPUT, f"--live: {file} is no JSON; give the output of `pulumi stack output --json`"
        ) from None


def _as_live(raw: Mapping[str, Any], live: Outputs) -> dict[str, Any]:
    """The base's configuration with what is live put in its place."""
    found = copy.deepcopy(dict(raw)) | {"weight": live["weight"], "halted": live.get("phase") == "halted"}
    found |= {"rejected": live.get("rejected") or [], "services": found.get("services", {})}
    for name in list(found["services"]):
        told = live["services"].get(name)
        if told is None:
            del found["services"][name]
        for track in ("stable", "canary") if told else ():
            if told.get(track):
                found["services"][name].setdefault(track, {})["image"] = told[track]
            else:
                found["services"][name].pop(track, None)
    return found


# --- one stack ---


def _report(file: Path, commit: str, now: datetime, live: tuple[Outputs | None, str], preview: Path | None) -> Report:
    found: Report = {"stack": _stack(file), "file": str(file), "verdict": "allowed", "warnings": []}
    text = _git("show", f"{commit}:./{file}")
    if text and not file.exists():
        return found | {"warnings": [f"{file} is gone and its stack is not; `pulumi destroy` would take that away"]}
    try:
        head = stackfile.load(file)
    except Stop as error:
        return found | {"verdict": "unusable", "problems": [error.message]}
    settings, problems, found["warnings"] = _parsed(head)
    if settings is None:
        return found | {"verdict": "unusable", "problems": problems}
    base = _settings(file, text) if text else None
    if text and base is None:
        found["warnings"].append("the base's file is unusable, so no rule was applied; the update will apply them")
        base = settings
    before, hold_from = _before(file, commit, base, live)
    pairs = step.pairs(settings, before)
    verdict = step.decide(settings, pairs, now)
    if verdict.refused:
        pairs = step.pairs(settings, _with_history(file, commit, before, timed=live[0] is not None))
        verdict = step.decide(settings, pairs, now)
    allowed_from = step.allowed_from(settings, pairs, now)
    policies, stopped = _policies(found["stack"], preview)
    if stopped or verdict.refused:
        found["verdict"] = "refused" if stopped or allowed_from is None else "held"
    objection = ["a mandatory policy objects, see below; a way down it would let pass"] if stopped else []
    at = f"{file}:{head.line('weight')}"
    for name, (old, new) in pairs.items():
        own = 0 if base is None or name not in base.services else base.effective_weight
        if live[0] is not None and old is not None and old.weight != own:
            line = f"{name}: {old.weight} % is live and the base says {own}; the rules go by what is live"
            down = f". {at} is below it, and would take canary down; set canary:weight to {old.weight} to stay"
            found["warnings"].append(line + (down if new.weight < old.weight and old.weight > own else ""))
    moves = list(_moves(settings, pairs))
    return found | {
        "services": moves,
        "audience": _audience(settings),
        "refused": [*verdict.refused, *objection],
        "excepted": list(verdict.excepted),
        "expected": _expected(base, settings, [move["service"] for move in moves]),
        "policies": policies,
        "preview": preview.read_text()[:LONGEST_PREVIEW] if preview else None,
        "allowedFrom": weights.stamp(allowed_from) if allowed_from else None,
        "holdFrom": hold_from,
        "undo": _undo(found["stack"], at, pairs) if moves else [],
    }


def _parsed(head: stackfile.StackFile) -> tuple[Settings | None, list[str], list[str]]:
    """(settings, problems, warnings), by the settings' own checks and by the schema.

    Where the schema alone objects it is a warning: the checks know what must not stand in the way of a revert.
    """
    import jsonschema

    def told(keys: Sequence[str | int], text: str) -> str:
        return f"{head.name}:{head.line(keys)}: {text}"

    settings, problems, known = None, [], []
    try:
        settings, said = checks.parse(head.settings_raw)
        warnings = [f"{head.name}: {line}" for line in said]
    except checks.SettingsError as error:
        warnings, known = [], [problem.path for problem in error.problems]
        problems = sorted({told(problem.path, problem.line()) for problem in error.problems})
    written = {f"{stackfile.PROJECT}:{key}": value for key, value in head.settings_raw.items()}
    for found in jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors({"config": written}):
        fault = jsonschema.exceptions.best_match([found]) or found
        way = tuple(fault.absolute_path)[1:]
        way = (str(way[0]).removeprefix(f"{stackfile.PROJECT}:"), *way[1:]) if way else ()
        if not any(way == one[: len(way)] or one == way[: len(one)] for one in known):
            secret = bool(way) and str(way[0]).startswith(("originSecret", checks.SECRET))
            text = "is no secret value" if secret else fault.message
            (warnings if settings else problems).append(told(way or [""], f"by the schema: {text[:200]}"))
    for key, value in head.settings_raw.items():
        if key.startswith(("originSecret", checks.SECRET)) and not str(value).startswith(stackfile.SEALED):
            warnings.append(told([key], f"canary:{key} is in plain text; `pulumi config set --secret canary:{key}`"))
    return settings, problems, warnings


def _settings(file: Path, text: str) -> Settings | None:
    try:
        return checks.parse(stackfile.StackFile(file, text).settings_raw)[0]
    except (Stop, checks.SettingsError):
        return None


def _before(file: Path, commit: str, base: Settings | None, live: tuple[Outputs | None, str]) -> tuple[Routes, str]:
    """(recorded routes, what their holds are counted from): as they are live if that is known, else by the base."""
    outputs, source = live
    if outputs is not None and not outputs.get("services"):
        return {}, f"nothing, because nothing is recorded live ({source})"
    if base is None:
        return {}, "nothing: the base has no such stack"
    if outputs is None:
        when = datetime.fromisoformat(_git("log", "-1", "--format=%cI", commit, "--", str(file)).strip())
        found = {name: replace(record.wanted(name, base), since=when) for name in base.services}
        return found, f"the base's commit, because what is live could not be read ({source})"
    serving = (outputs.get("windows") or {}).get("serving", True)
    found = {}
    try:
        raw = stackfile.StackFile(file, _git("show", f"{commit}:./{file}")).settings_raw
        there = checks.parse(_as_live(raw, outputs))[0]
        for name in there.services:
            told, reached = outputs["services"][name], 0 if serving else outputs["weight"]
            since = datetime.fromisoformat(told["since"]) if told.get("since") else None
            found[name] = replace(record.wanted(name, there), weight=told["weight"], reached=reached, since=since)
    except (Stop, checks.SettingsError, KeyError):
        return _before(file, commit, base, (None, f"{source} is not of this stack's making"))
    return found, f"what was last recorded live ({source})"


def _with_history(file: Path, commit: str, before: Routes, *, timed: bool) -> Routes:
    """`before` with what the history of the file adds, if each version was deployed: since when (unless that is known),
    and what stable ran before."""
    told: dict[str, weights.Route] = {}
    log = _git("log", f"-{LOOKED_BACK}", "--reverse", "--format=%H %cI", commit, "--", str(file))
    for sha, when in (line.split() for line in log.splitlines()):
        settings = _settings(file, _git("show", f"{sha}:./{file}"))
        for name in settings.services if settings else ():
            old, new = told.get(name), record.wanted(name, settings, told.get(name))  # type: ignore[arg-type]
            since = weights.since(old, new, datetime.fromisoformat(when))
            told[name] = replace(new, since=since, former=weights.former(old, new))
    return {
        name: replace(route, former=told[name].former, since=route.since if timed else told[name].since)
        if name in told and told[name].stable == route.stable
        else route
        for name, route in before.items()
    }


# --- what the change is ---


def _moves(settings: Settings, pairs: step.Pairs) -> Iterator[Report]:
    """The services whose traffic or pods change."""
    for name, (old, new) in pairs.items():
        kept = {"since": None, "former": None, "reached": 0, "rejected": ()}
        if old is None or replace(old, **kept) != replace(new, **kept):  # type: ignore[arg-type]
            yield {
                "service": name,
                "from": old.weight if old else 0,
                "to": new.weight,
                "kind": _kind(old, new),
                "rung": _rung(new),
                "exposed": list(_exposed(name, settings, old, new)),
            }


def _kind(old: weights.Route | None, new: weights.Route) -> str:
    if old is None:
        return "first deployment"
    if weights.changes_stable(old, new):
        back = new.stable == old.former
        return "promotion" if weights.promotes(old, new) else "way back" if back else "another stable"
    if new.canary is None or (new.halted and not old.halted):
        return "canary removed" if new.canary is None else "halt"
    if weights.adds_canary(old, new):
        return "end of a halt" if old.halted and old.canary else "start"
    if new.weight != old.weight:
        return "step up" if new.weight > old.weight else "step down" if new.weight else "revert"
    return "another canary" if new.canary != old.canary else "wider rules" if weights.rises(old, new) else "no rise"


def _rung(new: weights.Route) -> str:
    ladder = [one.weight for one in new.steps]
    if new.weight in ladder:
        hold = weights.hold_of(new.steps, new.weight)
        length = f"{hold // 60}m" if hold and hold % 60 == 0 else f"{hold}s"
        return f"{ladder.index(new.weight) + 1} of {len(ladder)}, held {length}"
    below = max((weight for weight in ladder if weight < new.weight), default=0)
    return f"between {below} and {weights.next_rung(new.steps, new.weight)}" if new.weight else "none"


def _unit(service: Service, settings: Settings) -> str:
    return "viewers" if settings.edge is not None and service.hosts else "requests"


def _audience(settings: Settings) -> str:
    """What a weight is a share of, and why."""
    if settings.edge is None:
        return "A weight is a share of requests: without `canary:edge` nobody is pinned, each request is decided anew."
    return (
        "A weight is a share of viewers: `canary:edge` puts each into a bucket and leaves it there. "
        "Of what comes past the edge, from inside the mesh, it is a share of requests."
    )


def _exposed(name: str, settings: Settings, old: weights.Route | None, new: weights.Route) -> Iterator[str]:
    """Who may meet canary by this change and could not before."""
    if new.canary is None or new.halted:
        return
    service = settings.services[name]
    had = old if old is not None and old.canary is not None and not old.halted else None
    if new.weight > (share := had.weight if had else 0):
        yield f"{new.weight - share} of 100 {_unit(service, settings)}"
    if had and had.canary != new.canary and (new.weight or new.opened):
        yield "those who meet canary now meet another version of it"
    fresh = new.opened - (had.opened if had else frozenset())
    for rule in service.rules:
        destination = [{"destination": {"subset": "canary"}}]
        route = {"name": "rule-", "match": matches.specs(rule, service.user_header), "route": destination}
        if rule.to == "canary" and (tokens := routes.exposure([route])[0] & fresh):
            yield f"rule `{rule.name}`: {_conditions(rule, service, tokens)}"
    for word in sorted(fresh):
        kind, _, what = word.partition(" ")
        if kind in ("green", "trusted"):
            yield f"viewers from {what} (green)" if kind == "green" else f"viewers who send `{what}` (trusted now)"
    for word in sorted((had.shielded - new.shielded) if had else ()):
        kind, _, what = word.partition(" ")
        yield f"viewers from {what} (no longer blue)" if kind == "blue" else "those whom a rule kept on stable"


def _conditions(rule: Rule, service: Service, tokens: frozenset[str]) -> str:
    found = [f"header `{key}` {_match(match)}" for key, match in rule.headers.items()]
    found += [f"cookie `{key}={value}`" for key, value in rule.cookies.items()]
    found += [f"query `{key}` {_match(match)}" for key, match in rule.query.items()]
    if rule.users:
        users = [json.loads(token)["headers"][service.user_header]["exact"] for token in sorted(tokens)]
        found.append(f"users {_names(users)}")
    found += [f"path {_match(rule.uri)}"] if rule.uri else []
    return ", ".join([*found, *([rule.method] if rule.method else [])])


def _match(match: matches.StringMatch) -> str:
    (kind, value), *_ = match.model_dump(exclude_none=True).items()
    return "with any value" if kind == "present" else f"{kind} `{value}`"


def _names(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*(f"`{name}`" for name in names[:MOST_NAMES]), *more])


def _expected(old: Settings | None, new: Settings, moved: Sequence[str]) -> list[str]:
    """Names of resources that change, by what they are made of; a preview knows the rest."""
    was, now = (dict(_made_of(settings)) if settings else {} for settings in (old, new))
    carriers = {name if new.strategy == "replicas" else f"{name}-vs" for name in moved}  # of the record
    changed = [name for name in now if name not in was or was[name] != now[name] or name in carriers]
    gone = [f"-{name}" for name in was if name not in now]
    return [name if name in was else f"+{name}" for name in changed] + gone if new.strategy != "flagger" else []


def _made_of(settings: Settings) -> Iterator[tuple[str, object]]:
    for name, service in settings.services.items():
        yield name, specs.service_spec(name, service)
        if settings.strategy == "istio":
            yield f"{name}-vs", routes.virtual_service_spec(name, settings)
        for version, track in service.tracks():
            told = workload.deployment_spec(settings, name, version), workload.autoscaler_spec(settings, name, version)
            yield f"{name}-{version}", (track, *told)
    if settings.edge is not None:
        yield "edge-keys", edge.values(settings, settings.edge)
        for event in edge.FUNCTIONS:
            yield f"edge-{event}", edge.code(event, settings, settings.edge)
        lasting = settings.edge.model_dump(exclude={"blue_cidrs", "green_cidrs", "trust_headers"})
        yield "edge-distribution", (lasting, edge.cache_policy_args(settings, settings.edge))
    if settings.public_hosts and settings.strategy == "istio":
        yield "public-gateway", routes.gateway_spec(settings)
    for key in ("namespace", "istio", "gateway", "waypoint", "alerts", "gate"):
        yield f"(what `canary:{key}` leads to)", getattr(settings, key)


def _policies(stack: str, preview: Path | None) -> tuple[str, bool]:
    """(what the policies said, whether a mandatory one objects), from the text of a preview: its JSON has none."""
    if preview is None:
        return f"not looked at; `{PREVIEW} --stack {stack} > preview.txt`, then `--preview preview.txt`", False
    text = re.sub(r"\x1b\[[\d;]*m", "", preview.read_text())
    found = re.search(r"^Policies:\n((?: +\S.*\n)+)", text, re.MULTILINE)
    if found is None:
        return "the preview says nothing of them; give its text (not --json), with --policy-pack", False
    return found[1].rstrip(), "[mandatory" in found[1]


def _undo(stack: str, at: str, pairs: step.Pairs) -> list[str]:
    """The edits that lead back, and the command after them."""
    found = [f"{at}: `canary:weight: 0`: nobody by weight; `canary:halted: true` shuts rules and cohorts too"]
    if any(weights.promotes(old, new) for old, new in pairs.values()):
        found = ["`git revert` of this change: the former stable may come back, and take any weight at once"]
    elif not any(weights.rises(old, new) for old, new in pairs.values()):
        found = ["up again by the rules, one rung at a time; down, and to 0, at any time"]
    else:
        lower = {old.weight for old, new in pairs.values() if old is not None and 0 < old.weight < new.weight}
        found += [f"{at}: `canary:weight: {weight}`: back to before" for weight in sorted(lower)]
    return [*found, f"then `pulumi up --stack {stack} --skip-preview --yes`; the way down is never refused"]


# --- Markdown ---


def markdown(whole: Mapping[str, Any]) -> str:
    """The comment of a pull request; its first line is how the comment is found again."""
    lines = ["<!-- rollout check -->", f"### Rollout, as of {whole['at']}", ""]
    if not whole["stacks"]:
        lines.append(f"No stack file differs from {whole['base']}.")
    for one in whole["stacks"]:
        lines += _section(one)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _section(one: Report) -> Iterator[str]:
    ends = {"allowed": "allowed now", "held": f"held until {one.get('allowedFrom')}", "refused": "**refused**"}
    yield from (f"#### Stack `{one['stack']}`: {ends.get(one['verdict'], '**unusable**')}", "")
    for kind, word in (("problems", ""), ("refused", ""), ("excepted", ""), ("warnings", "Warning: ")):
        yield from (f"- {word}{line}" for line in one.get(kind, ()))
    if "services" not in one:
        return
    rows: dict[tuple[str, ...], list[str]] = {}
    cells: tuple[str, ...]
    for row in one["services"]:
        share = f"{row['from']} % → {row['to']} %" if row["from"] != row["to"] else f"{row['to']} %"
        cells = (row["kind"], share, row["rung"], "; ".join(row["exposed"]) or "nobody")
        rows.setdefault(cells, []).append(row["service"])
    yield ""
    if rows:
        yield from ("| service | change | canary's share | rung | newly exposed |", "|---|---|---|---|---|")
    for cells, names in rows.items():
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (_names(names), *cells)) + " |"
    yield from ("", one["audience"] if rows else "No service changes.", "")
    yield f"- Expected to change: {_names(one['expected']) or 'nothing'}"
    now = "" if one["verdict"] == "held" else "now" if one["verdict"] == "allowed" else "never, as it is"
    yield f"- Allowed from: {now or one['allowedFrom']}; holds are counted from {one['holdFrom']}"
    yield from ("- Undo:", *(f"  - {line}" for line in one["undo"])) if one["undo"] else ()
    told = one["policies"].startswith(" ")
    yield from ("- Policies:", "", *_fenced(one["policies"])) if told else (f"- Policies: {one['policies']}", "")
    if one["preview"]:
        yield from ("<details><summary>Preview</summary>", "", *_fenced(one["preview"].rstrip()), "</details>", "")


def _fenced(text: str) -> tuple[str, ...]:
    return "~~~~~~~~", text, "~~~~~~~~", ""
