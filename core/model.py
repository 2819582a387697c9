"""The settings of one stack as data: types, ranges and defaults.

This module reads no configuration and knows nothing of pulumi, so editors, checks and tests use the same rules as the
program.  `core.checks.parse` makes `Settings` of a raw configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from core import matches
from core.fields import (
    Cidr,
    Day,
    Header,
    Host,
    Image,
    Milliseconds,
    Model,
    Moment,
    Name,
    Port,
    Positive,
    Seconds,
    Share,
    Truth,
    Url,
    Weight,
    Whole,
    Window,
)
from core.flagger import Analysis, Flagger
from policies import weights, windows


class Probe(Model):
    """Readiness and liveness on the target port; without it readiness is that the port accepts connections.

    With protocol grpc it is gRPC's own health check, and what follows the slash of `path` the service asked for.
    """

    path: str = Field(pattern="^/")
    period_seconds: Positive = 2


class Autoscale(Model):
    """Bounds of a HorizontalPodAutoscaler; `cpu` is the utilisation it aims at, in per cent of `resources.requests`."""

    min: Positive
    max: Positive
    cpu: Annotated[Positive, Field(le=100)] = 70

    @model_validator(mode="after")
    def _ordered(self) -> Autoscale:
        if self.max < self.min:
            raise ValueError(f"has max {self.max} below min {self.min}; raise max, or lower min")
        return self


class Files(Model):
    """Configuration of a track: files under `mount`, or, without it, environment variables."""

    data: dict[str, str] = Field(min_length=1)
    mount: str | None = Field(default=None, pattern="^/")


class Security(Model):
    """What the containers may not do, unless they have to."""

    non_root: Truth = True
    read_only_root: Truth = True


class Track(Model):
    """What one track runs.  Every field but the image may stand at the service and serve both tracks.

    `secrets` maps names of environment variables to the `canary:secret-<name>` that holds the value.
    """

    image: Image
    replicas: Positive | Literal["auto"] | None = None
    autoscale: Autoscale | None = None
    target_port: Port | None = None
    env: dict[str, str] | None = None
    config: Files | None = None
    secrets: dict[str, Name] | None = None
    resources: dict[str, Any] | None = None
    probe: Probe | None = None
    drain: Seconds | None = None
    security: Security | None = None
    pull_secrets: list[Name] | None = None


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


class ServiceAccount(Model):
    """The account that the pods of a service run as; annotations bind it to a role of a cloud."""

    annotations: dict[str, str] = Field(default_factory=dict)


class Service(Model):
    """One service of the train: its tracks, its names, and who is sent where before the weight decides."""

    stable: Track
    canary: Track | None = None
    hosts: list[Host] = Field(default_factory=list)
    port: Port = 80
    target_port: Port = 3000
    protocol: Literal["http", "grpc"] = "http"
    replicas: Positive = 2
    autoscale: Autoscale | None = None
    env: dict[str, str] = Field(default_factory=dict)
    config: Files | None = None
    secrets: dict[str, Name] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    probe: Probe | None = None
    drain: Seconds = 5
    timeout: Annotated[Seconds, Field(ge=1)] = 15
    retries: Annotated[Whole, Field(ge=0, le=10)] = 2
    user_header: str = Field(default="user-id", pattern="^[a-z0-9-]+$")
    rules: list[Rule] = Field(default_factory=list)
    security: Security = Security()
    pull_secrets: list[Name] = Field(default_factory=list)
    service_account: ServiceAccount = ServiceAccount()
    flagger: Analysis | None = None

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


class Rung(Model):
    """A step of the ladder; `hold` is the shortest stay before the next rise."""

    weight: Weight
    hold: Seconds = 300


def _rung(value: object) -> object:
    return value if isinstance(value, Mapping) else {"weight": value}


Step = Annotated[Rung, BeforeValidator(_rung, json_schema_input_type=Rung | Whole)]


class Gateway(Model):
    """The public door: Istio's ingress gateway."""

    tls_secret: Name | None = None
    replicas: Positive = 2
    service_type: Literal["LoadBalancer", "ClusterIP", "NodePort"] = "LoadBalancer"


class Edge(Model):
    """CloudFront before the public door.  It decides who is sent to canary: each viewer by its address or its bucket.

    `aliases` are hosts of services.  `blue_cidrs` are never sent to canary, `green_cidrs` always.  `trust_headers` are
    those by which viewers may choose a rule.  `origin` is a name of the gateway's load balancer, by default the one
    that the cloud gave it.  Without `require_secret` the gateway also takes what comes past the edge.  `log_arn` is a
    bucket, log group or delivery stream for the access log.
    """

    aliases: list[Host] = Field(min_length=1)
    certificate_arn: str
    blue_cidrs: list[Cidr] = Field(default_factory=list)
    green_cidrs: list[Cidr] = Field(default_factory=list)
    trust_headers: list[Header] = Field(default_factory=list)
    origin: Host | None = None
    require_secret: Truth = True
    waf_arn: str | None = None
    log_arn: str | None = None
    price_class: Literal["PriceClass_All", "PriceClass_200", "PriceClass_100"] = "PriceClass_All"
    tags: dict[str, str] = Field(default_factory=dict)


class Waypoint(Model):
    """The door for callers inside the mesh."""

    replicas: Positive = 2


class Check(Model):
    """A URL that has to answer 2xx before the rollout starts, steps or is promoted."""

    url: Url
    at: Literal["start", "step", "promote"] = "step"


class Gate(Model):
    """When canary is worse than it may be: `error_rate` is a share of requests, `p95` is in milliseconds."""

    error_rate: Share = 0.01
    p95: Milliseconds | None = None
    metrics: Literal["istio", "app"] = "istio"
    prometheus: Url = "http://prometheus.monitoring:9090"
    sensitivity: Literal["low", "normal", "high"] = "normal"
    max_hold: Seconds = 24 * 3600
    on_inconclusive: Literal["hold", "rollback"] = "hold"
    rule: Literal["default", "simple"] = "default"
    checks: list[Check] = Field(default_factory=list)


class Freeze(Model):
    """Days without a rise, both ends included."""

    from_: Day = Field(alias="from")
    to: Day
    why: str = Field(min_length=1)


class Windows(Model):
    """When canary's share may rise, and when it is served at all; `Mon-Thu 09:00-16:00 Europe/Berlin`."""

    raise_: Window | None = Field(default=None, alias="raise")
    serve: Window | None = None
    freezes: list[Freeze] = Field(default_factory=list)

    def obstacle(self, now: datetime) -> str | None:
        """Why nothing may rise at `now`, and when it may; None when it may."""
        return windows.obstacle(self.raise_, self._days(), now)

    def opens(self, now: datetime) -> datetime | None:
        """When it may rise: `now`, or the first minute after it; None: never."""
        return windows.opens(self.raise_, self._days(), now)

    def _days(self) -> list[windows.Freeze]:
        return [windows.Freeze(freeze.from_, freeze.to, freeze.why) for freeze in self.freezes]


class Alerts(Model):
    """Alert rules, dashboard and Alertmanager's route: as ConfigMaps, or as objects of the Prometheus operator."""

    form: Literal["configmap", "operator"] = "configmap"
    webhook: Url | None = None


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

    strategy: Literal["istio", "replicas", "flagger"] = "istio"
    namespace: Name = "default"
    weight: Weight = 0
    hold: str = ""
    halted: Truth = False
    steps: list[Step] = Field(default_factory=lambda: [Rung(weight=weight) for weight in (5, 10, 25, 50, 100)])
    services: dict[Name, Service] = Field(default_factory=dict)
    gate: Gate = Gate()
    windows: Windows = Windows()
    gateway: Gateway = Gateway()
    waypoint: Waypoint = Waypoint()
    edge: Edge | None = None
    origin_secret: str | None = Field(default=None, repr=False)
    """What the edge shows the gateway."""
    origin_secret_before: str | None = Field(default=None, repr=False)
    """What it showed before, which the gateway takes until it is gone from the settings."""
    alerts: Alerts | None = None
    route_header: Truth = True
    rejected: list[Image] = Field(default_factory=list)
    secret_values: dict[Name, str] = Field(default_factory=dict, repr=False)
    """Values of the `canary:secret-<name>` keys by name; in a stack file each is a secure value of its own."""
    istio: Istio = Istio()
    flagger: Flagger = Flagger()
    ready_timeout: Seconds = 300
    override: Override | None = None
    _serving: bool = PrivateAttr(default=True)

    def at(self, now: datetime) -> Settings:
        """These settings as they are in force at `now`: outside `windows.serve` the percentage goes to stable."""
        found = self.model_copy()
        found._serving = windows.is_open(self.windows.serve, now)
        return found

    @property
    def serving(self) -> bool:
        """False outside `windows.serve`."""
        return self._serving

    @property
    def effective_weight(self) -> int:
        """What the percentage is worth: 0 while halted, and outside `windows.serve` (see `at`)."""
        return self.weight if self.serving and not self.halted else 0

    def secrets(self, track: Track) -> dict[str, str]:
        """Environment variables of a resolved track whose values are secret."""
        return {variable: self.secret_values[name] for variable, name in (track.secrets or {}).items()}

    def fingerprint(self, name: str, version: str) -> str | None:
        """Short hash of what the pods of a track run; None without one.  How many run is not part of it.

        What is not set does not count, so a new version of this program, with new settings, changes no fingerprint.
        """
        track = dict(self.services[name].tracks()).get(version)
        if track is None:
            return None
        template = track.model_dump(mode="json", by_alias=True, exclude={"replicas", "autoscale", "secrets"})
        told = {key: value for key, value in template.items() if value} | {"secrets": self.secrets(track)}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def ladder(self) -> tuple[weights.Step, ...]:
        """The ladder in the words of the transition rules."""
        return tuple(weights.Step(weight=rung.weight, hold=rung.hold) for rung in self.steps)

    @property
    def public_hosts(self) -> list[str]:
        """All names at the public door, in order."""
        return [host for service in self.services.values() for host in service.hosts]
