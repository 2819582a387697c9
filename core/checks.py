"""From a raw configuration to settings, with a line that names key, value and fix for all that is wrong.

What only concerns canary never stands in the way of a revert: see `parse`.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from core import canaries, conflicts, edge, matches, replicas
from core.fields import Model
from core.model import Service, Settings
from policies import weights

SECRET = "secret-"
"""A secret value is a key of its own, because Pulumi would hide the whole of a larger object."""

LONGEST_SERVICE = 63 - len("-stable")
"""Children are named `<service>-stable` and `<service>-canary`; a label value holds 63 characters."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where, what was there, and why with the fix.  `prune` is what a revert may leave out."""

    path: tuple[str | int, ...]
    value: object
    text: str
    prune: tuple[str | int, ...] | None

    def line(self) -> str:
        """`canary:services.web.canary.image: got 5: ...`."""
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")
        got = "nothing" if self.value is None else _short(self.value)
        return f"canary:{where}: got {got}: {self.text}"


class SettingsError(ValueError):
    """The configuration cannot be used; one line per problem in `lines`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        self.lines = sorted({problem.line() for problem in problems})
        super().__init__("\n".join(self.lines))


def raw(everything: Mapping[str, Any], project: str) -> dict[str, Any]:
    """The project's keys without their prefix; structured values arrive as JSON text, scalars as plain text."""
    found = {}
    for key, value in everything.items():
        namespace, _, name = key.partition(":")
        if namespace == project:
            found[name] = value if name.startswith(SECRET) else _structured(value)
    return found


def _structured(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value  # the model names the key and shows the text
    return value


def parse(raw: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """(settings, warnings) from the raw configuration.

    With weight 0, or halted, what only concerns canary cannot stop the program: a part that is wrong there is left out
    and named in a warning (a canary that cannot be rendered counts as absent).  Raises `SettingsError` otherwise.
    """
    data = copy.deepcopy({key: value for key, value in raw.items() if not key.startswith(SECRET)})
    if "secretValues" not in data:  # a key of that name is unknown, and said to be so
        data["secretValues"] = {key.removeprefix(SECRET): raw[key] for key in raw if key.startswith(SECRET)}
    warnings: list[str] = []
    while True:
        settings, problems = _attempt(data)
        if settings is not None and not problems:
            return settings, warnings
        cuts = [problem.prune for problem in problems]
        if not _is_down(raw) or None in cuts:
            raise SettingsError(problems)
        left_out = [_remove(data, cut) for cut in {cut for cut in cuts if cut is not None}]
        if any(left_out):
            lines = [problem.line() for problem in problems]
            warnings += [f"ignored, because nobody is sent to canary by weight: {line}" for line in lines]
        elif settings is not None:
            return settings, warnings  # what is still wrong is a default, and was named before
        else:
            raise SettingsError(problems)


def _attempt(data: dict[str, Any]) -> tuple[Settings | None, list[Problem]]:
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        return None, [_from_pydantic(data, item) for item in error.errors(include_url=False)]
    return settings, list(_cross_check(settings))


def _is_down(raw: Mapping[str, Any]) -> bool:
    """True when nobody is to reach canary by weight, read leniently: this decides before anything is validated."""
    return _halted(raw) or str(raw.get("weight", 0)).strip() == "0"


def _prunable(path: Sequence[str | int]) -> tuple[str | int, ...] | None:
    """The part that may be left out without changing the stable route, if `path` lies in one."""
    match list(path):
        case ["weight" | "steps" | "override" | "hold" | "gate" | "windows" | "rejected" | "alerts", *_]:
            return (path[0],)
        case ["services", service, "canary" | "rules" as part, *_]:
            return ("services", service, part)
        case ["edge", "blueCidrs" | "greenCidrs" | "trustHeaders" as part, *_]:
            return ("edge", part)
    return None


def _remove(data: dict[str, Any], path: Sequence[str | int]) -> bool:
    """True when there was something to leave out."""
    at: Any = data
    for part in path[:-1]:
        at = at.get(part, {})
    there = path[-1] in at
    at.pop(path[-1], None)  # it may be there and hold nothing
    return there


def _from_pydantic(data: Mapping[str, Any], error: Any) -> Problem:
    path = tuple(
        part for part in error["loc"] if not (isinstance(part, str) and part.startswith(("function-", "Match")))
    )
    path = tuple(part for part in path if part not in ("[key]", "str"))
    kind, value, text = error["type"], error["input"], str(error["msg"])
    if path[:1] == ("secretValues",):
        path, value = (SECRET + str(path[1]),), "(secret)"
    if str(path[0]).startswith("originSecret"):
        value = "(secret)"
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        text = f"is no known key; {f'did you mean {near[0]}?' if near else 'known here: ' + ', '.join(known)}"
        text = conflicts.SILENT.get(str(path[-1]), text)
        if len(path) == 1 and isinstance(value, str):
            value = "(not shown)"  # it may be secret: a misspelt originSecret is
    elif kind == "missing":
        value, text = None, "is missing; add it"
    else:
        text = text.removeprefix("Value error, ")
        text = text[0].lower() + text[1:] if text[0].isupper() else text
    prune = None if path == ("weight",) and not _halted(data) else _prunable(path)
    return Problem(path, value, f"{text}{_fix(path, kind)}", prune)


def _halted(data: Mapping[str, Any]) -> bool:
    return str(data.get("halted", False)).lower() == "true"


def _fix(path: Sequence[str | int], kind: str) -> str:
    if path[-1:] == ("weight",) and kind not in ("extra_forbidden", "missing"):
        return "; set it to an integer from 0 to 100"
    return ""


def _known_keys(path: Sequence[str | int]) -> list[str]:
    """Keys of the model at `path`, found through the fields' types."""
    kind: Any = Settings
    for part in path:
        fields = kind.model_fields if _is_model(kind) else {}
        named = {field.alias or name: field for name, field in fields.items()}
        kind = next(_models_in(named[str(part)].annotation), kind) if str(part) in named else kind
    return sorted(field.alias or name for name, field in kind.model_fields.items())


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


def _models_in(kind: Any) -> Iterator[type[Model]]:
    if _is_model(kind):
        yield kind
    for inner in get_args(kind):
        yield from _models_in(inner)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _cross_check(settings: Settings) -> Iterator[Problem]:
    """What one field alone does not show."""
    ladder = [rung.weight for rung in settings.steps]
    if problem := weights.ladder_problem(ladder):
        yield Problem(("steps",), ladder, f"{problem}; write the ladder as 5, 10, 25, 50, 100", ("steps",))
    if settings.weight and not any(service.canary for service in settings.services.values()):
        yield Problem(
            ("weight",),
            settings.weight,
            "no service has a canary to send it to; add services.<name>.canary, or set weight to 0",
            ("weight",) if settings.halted else None,
        )
    for path, value, text in canaries.problems(settings):
        yield Problem(path, value, text, None)
    for path, value, text in edge.problems(settings, settings.edge) if settings.edge else ():
        yield Problem(path, value, text, _prunable(path))
    for index, freeze in enumerate(settings.windows.freezes):
        if freeze.to < freeze.from_:
            at = ("windows", "freezes", index, "to")
            yield Problem(at, str(freeze.to), f"ends before it begins ({freeze.from_}); swap the days", ("windows",))
    owner: dict[str, str] = {}
    for name, service in settings.services.items():
        if len(name) > LONGEST_SERVICE:
            text = f"has more than {LONGEST_SERVICE} characters, and {name[:8]}...-canary fits no label; shorten it"
            yield Problem(("services", name), name, text, None)
        for index, host in enumerate(service.hosts):
            if (first := owner.setdefault(host, name)) != name or host in service.hosts[:index]:
                text = f"already belongs to service {first}; a host has one owner"
                yield Problem(("services", name, "hosts", index), host, text, None)
        for version, track in service.tracks():
            for variable, secret in (track.secrets or {}).items():
                if secret not in settings.secret_values:
                    fix = f"has no value; `pulumi config set --secret canary:{SECRET}{secret}`"
                    prune = ("services", name, "canary") if version == "canary" else None
                    yield Problem(("services", name, version, "secrets", variable), secret, fix, prune)
        if service.stable.replicas == "auto":
            text = "is for canary, whose share says how many it needs; give stable a number"
            yield Problem(("services", name, "stable", "replicas"), "auto", text, None)
        yield from _check_rules(name, service)
        if settings.strategy == "replicas":
            yield from _check_pods(name, service, settings)


def _check_pods(name: str, service: Service, settings: Settings) -> Iterator[Problem]:
    """Strategy `replicas`: what only a mesh, or a free number of pods, could do."""
    at = ("services", name)
    if service.hosts:
        text = "needs a gateway, and strategy replicas installs none; drop hosts, and lead your ingress to the Service"
        yield Problem((*at, "hosts"), service.hosts, text, None)
    if service.rules:
        text = "need a mesh, and strategy replicas has none; drop the rules, or set canary:strategy to istio"
        yield Problem((*at, "rules"), [rule.name for rule in service.rules], text, (*at, "rules"))
    for version, track in service.tracks():
        if track.autoscale is not None:
            text = "would change the share, which strategy replicas makes of the numbers of pods; drop it"
            yield Problem((*at, version, "autoscale"), track.autoscale.min, text, None)
    for version, own in (("stable", service.stable), ("canary", service.canary)):
        if own is not None and own.replicas is not None:
            text = f"follows from canary:weight and services.{name}.replicas, the pods of both tracks; drop it"
            prune = (*at, "canary", "replicas") if version == "canary" else None
            yield Problem((*at, version, "replicas"), own.replicas, text, prune)
    if service.canary is not None:
        for weight in {settings.effective_weight, *(rung.weight for rung in settings.steps)}:
            if unmet := replicas.problem(weight, service.replicas):
                key = ("weight",) if weight == settings.effective_weight else ("steps",)
                yield Problem(key, weight, unmet, key)


def _check_rules(name: str, service: Service) -> Iterator[Problem]:
    whole = ("services", name, "rules")
    seen: dict[str, int] = {}
    for index, rule in enumerate(service.rules):
        at = (*whole, index)
        if rule.name in seen:
            yield Problem((*at, "name"), rule.name, "names two rules; route names must differ", whole)
        seen.setdefault(rule.name, index)
        for field, value, text in matches.problems(rule, service):
            yield Problem((*at, *field), value, text, whole)
        for earlier in service.rules[:index]:
            if matches.hides(earlier, rule, service.user_header):
                text = f"is never reached: all it matches is taken by rule {earlier.name}; move it up or drop it"
                yield Problem(at, rule.name, text, whole)
                break
