"""The settings of one stack as data: types, ranges, defaults, and the words for what is wrong with them.

`parse` turns the raw configuration (plain dicts, lists and strings) into `Settings`.  This module reads no
configuration itself and knows nothing of pulumi, so editors, checks and tests use the same rules as the program.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from core import matches
from policies import weights

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""RFC 1035 label, as Kubernetes wants it for a Service's name."""

LONGEST_SERVICE = 63 - len("-stable")
"""Children are named `<service>-stable` and `<service>-canary`; a label value holds 63 characters."""

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class SettingsError(ValueError):
    """The configuration cannot be used; one line per problem in `lines`."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(lines))


def _whole(value: object) -> object:
    """Whole numbers only; digit strings count, because `pulumi config set` writes strings."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    raise ValueError("must be a whole number")


def _weight(value: int) -> int:
    if problem := weights.weight_problem(value):
        raise ValueError(problem)
    return value


def _seconds(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return 0
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) and value.strip() else None
    if match is None or not any(match.groups()):
        raise ValueError("must be a duration such as 90s, 15m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _name(value: str) -> str:
    if not LABEL.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and hyphens, and start with a letter")
    return value


def _host(value: str) -> str:
    labels = value.split(".")
    if len(labels) < 2 or not all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", label) for label in labels):
        raise ValueError("must be a full DNS name in lower case without wildcards, such as shop.example.com")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[\w][\w.\-/:]*(@sha256:[0-9a-f]{64})?", value):
        raise ValueError("must be an image reference, such as registry.example.com/web:1.0.0@sha256:...")
    return value


def _moment(value: object) -> object:
    """Dates work quoted or not: YAML makes dates of the bare ones."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("must be a time such as 2026-12-18T09:00:00Z")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _truth(value: object) -> object:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


Whole = Annotated[int, BeforeValidator(_whole)]
Weight = Annotated[Whole, AfterValidator(_weight), Field(json_schema_extra={"minimum": 0, "maximum": 100})]
Positive = Annotated[Whole, Field(ge=1)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Seconds = Annotated[int, BeforeValidator(_seconds), Field(json_schema_extra={"type": ["string", "integer"]})]
Truth = Annotated[bool, BeforeValidator(_truth)]
Name = Annotated[str, AfterValidator(_name)]
Host = Annotated[str, AfterValidator(_host)]
Image = Annotated[str, AfterValidator(_image)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class Model(BaseModel):
    """Base of every part: camel case outside, snake case inside, unknown keys refused, nothing changes later."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Probe(Model):
    """HTTP readiness and liveness on the target port; without it readiness is that the port accepts connections."""

    path: str = Field(pattern="^/")
    period_seconds: Positive = 2


class Track(Model):
    """What one track runs.  Every field but the image may stand at the service and serve both tracks."""

    image: Image
    replicas: Positive | None = None
    target_port: Port | None = None
    env: dict[str, str] | None = None
    resources: dict[str, Any] | None = None
    probe: Probe | None = None
    drain: Seconds | None = None


class Rule(Model):
    """Requests that match every condition go to the named track, whatever the weight."""

    name: Name
    to: Literal["stable", "canary"] = "canary"
    headers: dict[str, matches.Match] = Field(default_factory=dict)
    cookies: dict[str, str] = Field(default_factory=dict)
    query: dict[str, matches.Match] = Field(default_factory=dict)
    uri: matches.Match | None = None
    method: str | None = Field(default=None, pattern="^[A-Z]+$")
    users: list[str] = Field(default_factory=list)


class Service(Model):
    """One service of the train: its tracks, its names, and who is sent where before the weight decides."""

    stable: Track
    canary: Track | None = None
    hosts: list[Host] = Field(default_factory=list)
    port: Port = 80
    target_port: Port = 3000
    replicas: Positive = 2
    env: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    probe: Probe | None = None
    drain: Seconds = 5
    timeout: Seconds = 15
    retries: Annotated[Whole, Field(ge=0, le=10)] = 2
    user_header: str = Field(default="user-id", pattern="^[a-z0-9-]+$")
    rules: list[Rule] = Field(default_factory=list)

    def resolved(self, track: Track) -> Track:
        """`track` with what it leaves open taken from the service."""
        shared = {name: getattr(self, name) for name in Track.model_fields if name != "image"}
        own = {name: value for name, value in track if value is not None}
        return Track.model_construct(**(shared | own | {"env": self.env | (track.env or {})}))

    def tracks(self) -> Iterator[tuple[str, Track]]:
        """The tracks that exist, resolved."""
        yield "stable", self.resolved(self.stable)
        if self.canary is not None:
            yield "canary", self.resolved(self.canary)

    def fingerprint(self, track: Track | None) -> str | None:
        """Short hash of what a track's pods run; the number of replicas is not part of it."""
        if track is None:
            return None
        template = self.resolved(track).model_dump(mode="json", by_alias=True, exclude={"replicas"})
        return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:12]


class Rung(Model):
    """A step of the ladder; `hold` is the shortest stay before the next rise."""

    weight: Weight
    hold: Seconds = 300


def _rung(value: object) -> object:
    return value if isinstance(value, Mapping) else {"weight": value}


Step = Annotated[Rung, BeforeValidator(_rung, json_schema_input_type=Rung | int)]


class Gateway(Model):
    """The public door: Istio's ingress gateway."""

    tls_secret: Name | None = None
    replicas: Positive = 2
    service_type: Literal["LoadBalancer", "ClusterIP", "NodePort"] = "LoadBalancer"


class Istio(Model):
    """Which Istio the stack installs, or finds."""

    version: str = Field(default="1.30.3", pattern=r"^\d+\.\d+\.\d+$")
    install: Truth = True
    chart_source: str = "https://istio-release.storage.googleapis.com/charts"
    platform: str | None = None
    timeout: Seconds = 300


class Override(Model):
    """Lets exactly one change break a transition rule."""

    reason: str = Field(min_length=1)
    until: Moment
    from_: Weight = Field(alias="from")
    to: Weight

    def rule(self) -> weights.Override:
        """In the words of the transition rules."""
        return weights.Override(reason=self.reason, until=self.until, from_weight=self.from_, to_weight=self.to)


class Settings(Model):
    """Everything one stack says."""

    namespace: Name = "default"
    weight: Weight = 0
    hold: str = ""
    halted: Truth = False
    steps: list[Step] = Field(default_factory=lambda: [Rung(weight=weight) for weight in (5, 10, 25, 50, 100)])
    services: dict[Name, Service] = Field(default_factory=dict)
    gateway: Gateway = Gateway()
    istio: Istio = Istio()
    ready_timeout: Seconds = 300
    override: Override | None = None

    @property
    def effective_weight(self) -> int:
        """What the percentage is worth: 0 while halted."""
        return 0 if self.halted else self.weight

    @property
    def ladder(self) -> tuple[weights.Step, ...]:
        """The ladder in the words of the transition rules."""
        return tuple(weights.Step(weight=rung.weight, hold=rung.hold) for rung in self.steps)

    @property
    def public_hosts(self) -> list[str]:
        """All names at the public door, in order."""
        return [host for service in self.services.values() for host in service.hosts]


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


def parse(raw: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """(settings, warnings) from the raw configuration.

    With weight 0, or halted, what only concerns canary cannot stop the program: a part that is wrong there is left out
    and named in a warning (a canary that cannot be rendered counts as absent).  Raises `SettingsError` otherwise.
    """
    data = copy.deepcopy(dict(raw))
    warnings: list[str] = []
    while True:
        settings, problems = _attempt(data)
        if settings is not None:
            return settings, warnings
        cuts = [problem.prune for problem in problems]
        if not _is_down(raw) or None in cuts:
            raise SettingsError(sorted({problem.line() for problem in problems}))
        warnings += [f"ignored, because nobody is sent to canary by weight: {problem.line()}" for problem in problems]
        for cut in {cut for cut in cuts if cut is not None}:
            _remove(data, cut)


def _attempt(data: dict[str, Any]) -> tuple[Settings | None, list[Problem]]:
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        return None, [_from_pydantic(data, item) for item in error.errors(include_url=False)]
    problems = list(_cross_check(settings))
    return (None, problems) if problems else (settings, [])


def _is_down(raw: Mapping[str, Any]) -> bool:
    """True when nobody is to reach canary by weight, read leniently: this decides before anything is validated."""
    return _halted(raw) or str(raw.get("weight", 0)).strip() == "0"


def _prunable(path: Sequence[str | int]) -> tuple[str | int, ...] | None:
    """The part that may be left out without changing the stable route, if `path` lies in one."""
    match list(path):
        case ["weight" | "steps" | "override" | "hold", *_]:
            return (path[0],)
        case ["services", service, "canary" | "rules" as part, *_]:
            return ("services", service, part)
    return None


def _remove(data: dict[str, Any], path: Sequence[str | int]) -> None:
    at: Any = data
    for part in path[:-1]:
        at = at[part]
    at.pop(path[-1], None)


def _from_pydantic(data: Mapping[str, Any], error: Any) -> Problem:
    path = tuple(
        part for part in error["loc"] if not (isinstance(part, str) and part.startswith(("function-", "Match")))
    )
    path = tuple(part for part in path if part not in ("[key]", "str"))
    kind, value, text = error["type"], error["input"], str(error["msg"])
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        text = f"is no known key; {f'did you mean {near[0]}?' if near else 'known here: ' + ', '.join(known)}"
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
    model: type[Model] = Settings
    for part in path:
        table: dict[str | int, type[Model]] = {
            "gateway": Gateway, "istio": Istio, "override": Override, "stable": Track, "canary": Track, "probe": Probe,
        }  # fmt: skip
        if part in table:
            model = table[part]
        elif part in ("services", "rules", "steps"):
            parts: dict[str, type[Model]] = {"services": Service, "rules": Rule, "steps": Rung}
            model = parts[str(part)]
    return sorted(field.alias or name for name, field in model.model_fields.items())


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
    owner: dict[str, str] = {}
    for name, service in settings.services.items():
        if len(name) > LONGEST_SERVICE:
            text = f"has more than {LONGEST_SERVICE} characters, and {name[:8]}...-canary fits no label; shorten it"
            yield Problem(("services", name), name, text, None)
        for index, host in enumerate(service.hosts):
            if (first := owner.setdefault(host, name)) != name or host in service.hosts[:index]:
                text = f"already belongs to service {first}; a host has one owner"
                yield Problem(("services", name, "hosts", index), host, text, None)
        yield from _check_rules(name, service)


def _check_rules(name: str, service: Service) -> Iterator[Problem]:
    whole = ("services", name, "rules")
    seen: dict[str, int] = {}
    for index, rule in enumerate(service.rules):
        at = (*whole, index)
        if rule.name in seen:
            yield Problem((*at, "name"), rule.name, "names two rules; route names must differ", whole)
        seen.setdefault(rule.name, index)
        for field, value, text in matches.problems(rule):
            yield Problem((*at, *field), value, text, whole)
        for earlier in service.rules[:index]:
            if matches.hides(earlier, rule, service.user_header):
                text = f"is never reached: all it matches is taken by rule {earlier.name}; move it up or drop it"
                yield Problem(at, rule.name, text, whole)
                break
